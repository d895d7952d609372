# make gpu-bundle: all that verifies kvshare on a GPU, in one folder that runs where nothing of ours is installed; README.md.
#
# Programs are the objects of the ordinary build, linked once more, with third-party code from archives. The images of the
# kernels are one shared library there, as each program would else carry them. OpenBLAS is opened at run time, so it stays a
# library, made of its archive and of what is called. cmocka has no archive in Debian and is carried.
GPU_BUNDLE = $(BUILD)/gpu-bundle
GPU_BUNDLE_MIB = 60
GPU_PARTS = $(BUILD)/gpu-parts
GPU_IMAGES = $(GPU_PARTS)/lib/libkvshare-images.so
GPU_ENGINE = $(GPU_PARTS)/engine.a
GPU_OPENBLAS = $(GPU_PARTS)/lib/libopenblas.so.0
GPU_CUPTI = $(LIBKVSHARE_CUPTI:$(BUILD)/%=$(GPU_PARTS)/lib/%)
GPU_RUN = $(GPU_PARTS)/bin/kvshare-run
GPU_TESTS = $(patsubst %.c,$(GPU_PARTS)/%,$(filter-out %/cublas_test.c %/native_test.c %/sets_test.c, \
	$(wildcard tests/conformance/*_test.c tests/kernels/*_test.c tests/gpu/*_test.c)) \
	tests/e2e/sharing_test.c tests/e2e/eval_golden_test.c tests/model/skip_test.c tests/bench/vmm_bench.c tests/bench/calib_bench.c)
# What is copied as the ordinary build leaves it; the probes carry their libraries themselves.
GPU_AS_BUILT = $(addprefix $(BUILD)/,softcuda/libcuda.so.1 tests/conformance/conformance_kernels.so \
	tests/conformance/conformance_kernels.fatbin)
GPU_PROBES = $(PROBES) $(if $(PROBES),$(addprefix $(BUILD)/tests/probes/probe_kernels,.so .fatbin))
GPU_DATA = tests/models tests/golden/eval tests/golden/models tests/golden/gguf
GPU_RPATH = -Wl,--enable-new-dtags,-rpath,'$$ORIGIN/../lib:$$ORIGIN/../../lib'

$(GPU_PARTS)/kernels.so: $(ATTN_HOST_IMAGE)
	@mkdir -p $(@D)
	$(Q)strip -o $@ $<

$(GPU_PARTS)/images.o: attn/images.S $(GPU_PARTS)/kernels.so $(BUILD)/attn/kernels.fatbin
	$(call say,AS,$@)
	$(Q)$(CC) -c -DKVS_HOST_IMAGE='"$(GPU_PARTS)/kernels.so"' -DKVS_GPU_IMAGE='"$(BUILD)/attn/kernels.fatbin"' \
		-DKVS_GPU_ARCHS='"$(GPU_ARCHS)"' $< -o $@

$(GPU_IMAGES): $(GPU_PARTS)/images.o
	@mkdir -p $(@D)
	$(call say,LD,$@)
	$(Q)$(CC) -shared -nostdlib -Wl,-soname,$(@F) -o $@ $<

# Without elfutils, whose libraries need others still: a stack there is offsets in files.
$(GPU_PARTS)/symbols.o: profiler/symbols.c $(BUILD)/cc.flags
	@mkdir -p $(@D)
	$(call say,CC,$@)
	$(Q)$(CC) $(CFLAGS_ALL) -c $< -o $@

$(GPU_ENGINE): $(filter-out $(BUILD)/attn/images.o $(BUILD)/profiler/symbols.o,$(LIB_OBJS)) $(GPU_PARTS)/symbols.o
	@mkdir -p $(@D)
	@rm -f $@
	$(call say,AR,$@)
	$(Q)$(AR) cr $@ $^

# What attn/gemm_openblas.c and calib/compensate/lapack.c look up. Nothing of it may need Fortran's library (as dsyevd_ does).
GPU_CBLAS = cblas_sgemm cblas_sgemv cblas_dgemm cblas_dsyrk cblas_dsymm dposv_ dsyev_ openblas_set_num_threads blas_memory_alloc blas_memory_free
$(GPU_OPENBLAS): | deps-present
	@mkdir -p $(@D)
	$(call say,LD,$@)
	$(Q)echo '{ global: $(GPU_CBLAS:%=%;) local: *; };' >$@.map
	$(Q)$(CC) -shared -Wl,-soname,$(@F) -Wl,--version-script=$@.map -Wl,--gc-sections $(GPU_CBLAS:%=-Wl,-u,%) -o $@ \
		-l:libopenblas.a -pthread -lm

$(GPU_PARTS)/lib/libkvshare-cupti.so: $(CUPTI_OBJS) $(CUPTI_NEEDS)
	@mkdir -p $(@D)
	$(call say,LD,$@)
	$(Q)$(LINK_CUPTI) -o $@ $^ -pthread -l:libz.a -ldl

$(GPU_RUN): $(RUN_OBJS)
$(filter $(GPU_PARTS)/tests/conformance/%,$(GPU_TESTS)): $(BUILD)/tests/conformance/conformance.o
$(filter $(GPU_PARTS)/tests/kernels/%,$(GPU_TESTS)): $(BUILD)/tests/kernels/device.o
$(filter $(GPU_PARTS)/tests/e2e/%,$(GPU_TESTS)): $(TEST_SUPPORT)
$(GPU_TESTS): $(GPU_PARTS)/%: $(BUILD)/%.o
$(GPU_RUN) $(GPU_TESTS): $(GPU_ENGINE) $(GPU_IMAGES)
	@mkdir -p $(@D)
	$(call say,LD,$@)
	$(Q)$(CC) -o $@ $(filter %.o,$^) -Wl,--as-needed $(GPU_ENGINE) $(GPU_IMAGES) $(GPU_RPATH) -pthread \
		-l:libjansson.a -l:libpcre2-8.a -l:libutf8proc.a $(BPF_LIBS:-l%=-l:lib%.a) $(LIBIBERTY) -l:libz.a -lcmocka -lm -ldl

# The folder is made anew each time, so that nothing stale is in it.
.PHONY: gpu-bundle check-gpu check-bundle
gpu-bundle: $(GPU_IMAGES) $(GPU_OPENBLAS) $(GPU_CUPTI) $(GPU_RUN) $(GPU_TESTS) $(GPU_AS_BUILT) $(GPU_PROBES) ## a folder that runs check-gpu on a bare GPU machine
	$(Q)BUNDLE=$(GPU_BUNDLE) MIB=$(GPU_BUNDLE_MIB) CMOCKA=$$($(CC) -print-file-name=libcmocka.so.0) tests/gpu/pack.sh \
		$(GPU_PARTS) '$(GPU_IMAGES) $(GPU_OPENBLAS) $(GPU_CUPTI) $(GPU_RUN) $(GPU_TESTS)' $(BUILD) '$(GPU_AS_BUILT) $(GPU_PROBES)' '$(GPU_DATA)'
check-bundle: gpu-bundle ## run the bundle on softcuda in an empty chroot, where a missing library shows
	$(Q)tests/gpu/chroot.sh $(GPU_BUNDLE)
check-gpu: ## verify everything on this machine's GPU; without one says so and exits 77 (as make's "Error 77")
	$(Q)BUILD=$(BUILD) MAKE="$(MAKE)" tests/gpu/check-gpu.sh
