MODEL_OBJS = $(patsubst %.c,$(BUILD)/%.o,$(wildcard model/*.c model/*/*.c))
