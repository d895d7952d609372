DRIVER_OBJS = $(patsubst %.c,$(BUILD)/%.o,$(wildcard driver/*.c))
