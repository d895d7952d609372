# Stacks are walked by frame pointers. A client knows only cuda.h and -lcuda. It is linked against the toolkit's stub, or else against softcuda.
CUDA_STUBS = $(firstword $(wildcard $(CUDA)/lib64/stubs $(CUDA)/lib/stubs))
CLIENTS = $(addprefix $(BUILD)/tests/clients/,vector_add leaks decoder calls answers ends rates pairs nodes corners)

$(CLIENTS): $(BUILD)/tests/clients/%: tests/clients/%.c $(BUILD)/cc.flags | $(SOFTCUDA)
	@mkdir -p $(@D)
	$(call say,CC,$@)
	$(Q)$(CC) -std=gnu11 $(OPT) -fno-omit-frame-pointer -fno-optimize-sibling-calls $(WARN) $(SAN_FLAGS) $(CUDA_FLAGS) -o $@ $< $(if $(CUDA_STUBS),-L$(CUDA_STUBS) -lcuda,$(SOFTCUDA))

tests-build: $(CLIENTS)
