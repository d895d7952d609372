# What the kernel tests share.
$(patsubst %.c,$(BUILD)/%,$(wildcard tests/kernels/*_test.c)): $(BUILD)/tests/kernels/device.o
$(BUILD)/tests/kernels/native_test: $(filter-out %/table.o,$(NATIVE_OBJS)) \
	$(if $(filter avx2,$(NATIVE_SETS)),$(NATIVE_BODIES:%.c=$(BUILD)/%.wide.o))
