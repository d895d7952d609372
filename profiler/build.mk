PROFILER_OBJS = $(patsubst %.c,$(BUILD)/%.o,$(wildcard profiler/*.c))
