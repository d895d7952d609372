# The tests of the CUPTI source, and three fake versions of libcupti for them.
CUPTI_TESTS = $(addprefix $(BUILD)/tests/profiler/cupti_,events_test.o test.o stage.o fake.o)
$(CUPTI_TESTS): private CFLAGS_ALL += $(CUPTI_FLAGS)
ifneq ($(CUPTI_INCLUDE),)
FAKE_CUPTI = $(foreach variant,full old broken,$(BUILD)/tests/profiler/fake-cupti/$(variant)/libcupti.so.13)
$(FAKE_CUPTI): $(BUILD)/tests/profiler/fake-cupti/%/libcupti.so.13: tests/profiler/cupti_fake.c tests/profiler/cupti_fake.h $(BUILD)/cc.flags
	@mkdir -p $(@D)
	$(call say,LD,$@)
	$(Q)$(CC) -shared $(filter-out -MMD -MP,$(CFLAGS_ALL)) $(CUPTI_FLAGS) -Wno-missing-prototypes -DFAKE_$* -Wl,-soname,libcupti.so.13 \
		-o $@ $< $(LINK_FLAGS)

$(BUILD)/tests/profiler/cupti_events_test: $(BUILD)/profiler/cupti/records.o $(BUILD)/profiler/cupti/callbacks.o
$(BUILD)/tests/profiler/cupti_test: $(BUILD)/tests/profiler/cupti_stage.o | $(FAKE_CUPTI) $(LIBKVSHARE_CUPTI) $(CUPTI_LINKED) $(SOFTCUDA) $(RUN) \
	$(BUILD)/tests/clients/vector_add $(BUILD)/tests/softcuda/softcuda_kernels.so

# softcuda whose allocating calls pass through cupti_feed.c: all its objects but the one that hands out addresses know them by another name.
OBJCOPY ?= objcopy
FED_DRIVER = $(BUILD)/tests/profiler/fed/libcuda.so.1
SOFTCUDA_ADDRESSES = $(BUILD)/driver/softcuda/procaddress.o
$(FED_DRIVER): tests/profiler/cupti_feed.c tests/profiler/cupti_fake.h $(SOFTCUDA_OBJS) driver/softcuda/softcuda.map $(BUILD)/cc.flags
	@mkdir -p $(@D)
	$(call say,LD,$@)
	$(Q)sed -n 's/^FED(\([a-zA-Z0-9_]*\),.*/\1 soft_\1/p' $< >$(@D)/names
	$(Q)$(LD) -r -o $(@D)/rest.o $(filter-out $(SOFTCUDA_ADDRESSES),$(SOFTCUDA_OBJS))
	$(Q)$(OBJCOPY) --redefine-syms=$(@D)/names $(@D)/rest.o
	$(Q)$(CC) -shared $(filter-out -MMD -MP,$(CFLAGS_ALL)) $(CUPTI_FLAGS) -Wno-missing-prototypes -Wl,-soname,libcuda.so.1 \
		-Wl,--version-script=driver/softcuda/softcuda.map -Wl,-Bsymbolic -Wl,-z,nodelete \
		-o $@ $< $(@D)/rest.o $(SOFTCUDA_ADDRESSES) $(LINK_FLAGS) -ldl
endif

# It is skipped where names of functions are not read.
$(BUILD)/tests/profiler/symbols_test.o: private CFLAGS_ALL += $(if $(LIBDW),-DPROF_LIBDW)

# They are told whether names are demangled.
$(addprefix $(BUILD)/tests/profiler/,report_test.o exports_test.o): private CFLAGS_ALL += $(if $(LIBIBERTY),-DPROF_LIBIBERTY)

# Programs to be watched, with frame pointers, by which the kernel walks a stack; and a driver for them that does odd things.
WATCHED = $(addprefix $(BUILD)/tests/profiler/,watched_client watched_calls)
$(WATCHED): $(BUILD)/tests/profiler/%: tests/profiler/%.c driver/softcuda/softcuda.h $(BUILD)/cc.flags | $(SOFTCUDA)
	@mkdir -p $(@D)
	$(call say,CC,$@)
	$(Q)$(CC) -std=gnu11 -D_GNU_SOURCE $(OPT) -fno-omit-frame-pointer -fno-optimize-sibling-calls -fno-inline \
		$(WARN) $(SAN_FLAGS) $(CUDA_FLAGS) -pthread -o $@ $< -ldl $(if $(filter %_calls,$@),$(SOFTCUDA))

ODD_DRIVER = $(BUILD)/tests/profiler/odd/libcuda.so.1
$(ODD_DRIVER): tests/profiler/odd_driver.c $(BUILD)/cc.flags
	@mkdir -p $(@D)
	$(call say,LD,$@)
	$(Q)$(CC) -std=gnu11 -D_GNU_SOURCE -O1 -fno-optimize-sibling-calls -fPIC -shared $(WARN) -Wl,-soname,libcuda.so.1 -o $@ $<

# A fake NVML, which says what a file says.
FAKE_NVML = $(BUILD)/tests/profiler/fake-nvml/libnvidia-ml.so.1
$(FAKE_NVML): tests/profiler/nvml_fake.c $(BUILD)/cc.flags
	@mkdir -p $(@D)
	$(call say,LD,$@)
	$(Q)$(CC) -std=gnu11 -O1 -fPIC -shared $(WARN) -Wno-missing-prototypes -Wl,-soname,libnvidia-ml.so.1 -o $@ $<
$(addprefix $(BUILD)/tests/profiler/,nvml_test top_test): | $(FAKE_NVML)

tests-build: $(WATCHED) $(ODD_DRIVER) $(FAKE_NVML) $(BUILD)/tests/bench/profiler_bench
$(addprefix $(BUILD)/tests/profiler/,profile_test attach_test ways_test kill_test): $(BUILD)/tests/profiler/watched.o | $(WATCHED) $(ODD_DRIVER) $(FAKE_CUPTI)
$(BUILD)/tests/profiler/agree_test: $(BUILD)/tests/profiler/watched.o $(BUILD)/profiler/bpf/functions.o | $(FED_DRIVER) $(FAKE_CUPTI) $(LIBKVSHARE_CUPTI) \
	$(RUN) $(CLIENTS) $(BUILD)/tests/clients/decoder_kernels.so $(BUILD)/tests/softcuda/softcuda_kernels.so
CALL_COST = $(addprefix $(BUILD)/,tests/profiler/call_cost.o tools/run/profile/ours.o)
$(BUILD)/tests/profiler/cost_test: $(BUILD)/tests/profiler/watched.o $(CALL_COST) | $(SOFTCUDA)
$(BUILD)/tests/bench/watch_bench: $(CALL_COST) | $(SOFTCUDA) $(RUN) $(PRELOAD) $(FED_DRIVER) $(FAKE_CUPTI) $(LIBKVSHARE_CUPTI) $(CLIENTS) \
	$(BUILD)/tests/clients/decoder_kernels.so
$(BUILD)/tests/profiler/faults_test $(BUILD)/tests/profiler/top_test: $(BUILD)/tests/profiler/watched.o | $(BUILD)/tests/clients/leaks
$(BUILD)/tests/profiler/top_test: | $(WATCHED)
