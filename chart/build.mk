CHART_OBJS = $(patsubst %.c,$(BUILD)/%.o,$(wildcard chart/*.c))
