# A client knows cuda.h and -lcuda alone; the toolkit's stub stands in for the driver when it is linked.
CUDA_STUBS = $(firstword $(wildcard $(CUDA_HOME)/lib64/stubs $(CUDA_HOME)/lib/stubs) /usr/lib/x86_64-linux-gnu)
CLIENTS = $(BUILD)/tests/clients/vector_add

$(CLIENTS): $(BUILD)/tests/clients/%: tests/clients/%.c $(BUILD)/cc.flags
	@mkdir -p $(@D)
	$(call say,CC,$@)
	$(Q)$(CC) -std=gnu11 $(OPT) $(WARN) $(SAN_FLAGS) -isystem $(CUDA_HOME)/include -o $@ $< -L$(CUDA_STUBS) -lcuda

tests-build: $(CLIENTS)
