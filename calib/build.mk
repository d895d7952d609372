CALIB_OBJS = $(patsubst %.c,$(BUILD)/%.o,$(wildcard calib/*.c calib/*/*.c))
