# What the kernel tests share.
$(patsubst %.c,$(BUILD)/%,$(wildcard tests/kernels/*_test.c)): $(BUILD)/tests/kernels/device.o
