# Stacks are walked by frame pointers. A client knows only cuda.h and -lcuda. It is linked against the toolkit's stub, or else against softcuda.
CUDA_STUBS = $(firstword $(wildcard $(CUDA)/lib64/stubs $(CUDA)/lib/stubs))
CLIENTS = $(addprefix $(BUILD)/tests/clients/,vector_add leaks decoder calls answers ends rates pairs nodes corners refusals crowd)
CLIENTS += $(BUILD)/tests/clients/remake

$(CLIENTS): $(BUILD)/tests/clients/%: tests/clients/%.c $(BUILD)/cc.flags | $(SOFTCUDA)
	@mkdir -p $(@D)
	$(call say,CC,$@)
	$(Q)$(CC) -std=gnu11 $(OPT) -fno-omit-frame-pointer -fno-optimize-sibling-calls $(WARN) $(SAN_FLAGS) $(CUDA_FLAGS) -o $@ $< $(if $(CUDA_STUBS),-L$(CUDA_STUBS) -lcuda,$(SOFTCUDA))

tests-build: $(CLIENTS)

# The names are those of the driver that the clients run with. It calls functions with more arguments than they have: no sanitizer likes that.
RECORD = $(BUILD)/tests/clients/record.so
$(BUILD)/tests/clients/record_names.h: $(SOFTCUDA)
	@mkdir -p $(@D)
	$(call say,GEN,$@)
	$(Q)(echo '#define RECORD_NAMES(F) \'; nm -D --defined-only $< | sed -nE 's/.* T (cu[A-Z][A-Za-z0-9_]*).*/F(\1) \\/p'; echo) >$@
$(RECORD): tests/clients/record.c $(BUILD)/tests/clients/record_names.h $(BUILD)/cc.flags
	$(call say,CC,$@)
	$(Q)$(CC) -std=gnu11 $(OPT) $(WARN) -fPIC -shared -I$(@D) -o $@ $<

tests-build: $(RECORD)
