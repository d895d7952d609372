# What the conformance programs share, and their kernels for a GPU (an optional target: it needs nvcc).
$(patsubst %.c,$(BUILD)/%,$(wildcard tests/conformance/*_test.c)): $(BUILD)/tests/conformance/conformance.o

$(BUILD)/tests/conformance/%.fatbin: tests/conformance/%.cu driver/simt/simt.h $(BUILD)/nvcc.flags
	@mkdir -p $(@D)
	$(call say,NVCC,$@)
	$(Q)$(NVCC) -fatbin -O2 -std=c++17 -include driver/simt/simt.h -I. \
		$(NVCC_ARCHS) \
		-gencode arch=compute_$(firstword $(GPU_ARCHS)),code=compute_$(firstword $(GPU_ARCHS)) $< -o $@

.PHONY: conformance-gpu
conformance-gpu: $(BUILD)/tests/conformance/conformance_kernels.fatbin

.PHONY: conformance
CONFORMANCE_PROGRAMS = $(filter $(BUILD)/tests/conformance/%,$(TEST_PROGRAMS))
conformance: tests-build ## the driver's rules on softcuda, at three granularities
	$(Q)for size in 64K 2M 4M; do echo "granularity $$size"; \
		SOFTCUDA_GRANULARITY=$$size BUILD=$(BUILD) JOBS=$(TEST_JOBS) tests/run.sh $(CONFORMANCE_PROGRAMS) || exit 1; done
