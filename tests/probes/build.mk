# Probes: $(BUILD)/tests/probes/NAME_probe and their kernels, probe_kernels.so for softcuda and .fatbin for a GPU.
PROBES = $(patsubst %.c,$(BUILD)/%,$(wildcard tests/probes/*_probe.c))
PROBE_SUPPORT = $(patsubst %.c,$(BUILD)/%.o,$(filter-out %_probe.c %_test.c,$(wildcard tests/probes/*.c)))
PROBE_LIBS = -l:libjansson.a -lm -ldl # static: a probe must run wherever it is carried

$(BUILD)/tests/probes/%_probe: $(BUILD)/tests/probes/%_probe.o $(PROBE_SUPPORT) $(DRIVER_OBJS)
	$(call say,LD,$@)
	$(Q)$(CC) -o $@ $^ $(LINK_FLAGS) $(PROBE_LIBS)

$(BUILD)/tests/probes/%.fatbin: tests/probes/%.cu driver/simt/simt.h $(BUILD)/nvcc.flags
	@mkdir -p $(@D)
	$(call say,NVCC,$@)
	$(Q)$(NVCC) -fatbin -O2 -std=c++17 -include driver/simt/simt.h -I. \
		$(NVCC_ARCHS) \
		-gencode arch=compute_$(firstword $(GPU_ARCHS)),code=compute_$(firstword $(GPU_ARCHS)) $< -o $@

.PHONY: probes probes-gpu
probes: build $(PROBES) $(BUILD)/tests/probes/probe_kernels.so ## questions to a driver; tests/probes/run.sh asks them
probes-gpu: probes $(BUILD)/tests/probes/probe_kernels.fatbin
# Its test runs them all.
$(BUILD)/tests/probes/probes_test: | $(PROBES)
