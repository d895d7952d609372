# One source, two images that travel inside the program: kernels.so for softcuda, kernels.fatbin for GPUs.
#
# GPU=1 builds the fatbin, which takes nvcc a few minutes; GPU=0 leaves it empty. auto: where this machine has a GPU.
GPU ?= auto
WITH_GPU = $(if $(filter auto,$(GPU)),$(and $(NVCC),$(wildcard /dev/nvidiactl /dev/dxg)),$(filter-out 0,$(GPU)))

ATTN_CU = $(wildcard attn/*.cu)
ATTN_HOST_IMAGE = $(BUILD)/attn/kernels.so
ATTN_GPU_IMAGE = $(BUILD)/attn/$(if $(WITH_GPU),kernels.fatbin,no_kernels.fatbin)
ATTN_OBJS = $(patsubst %.c,$(BUILD)/%.o,$(wildcard attn/*.c)) $(BUILD)/attn/images.o

# Native bodies, once for each instruction set. One order of sums for all of them: no fused products.
NATIVE_FLAGS = -O3 -ffp-contract=off -fno-math-errno -fno-trapping-math -fvisibility=hidden
NATIVE_SETS = plain $(if $(filter x86_64,$(shell $(CC) -dumpmachine | cut -d- -f1)),avx2 avx512)
NATIVE_FLAGS_avx2 = -mavx2 -mfma -mf16c
NATIVE_FLAGS_avx512 = $(NATIVE_FLAGS_avx2) -mavx512f
NATIVE_FLAGS_wide = $(NATIVE_FLAGS_avx2) -DNATIVE_WIDTH=16 -Wno-psabi -O1
NATIVE_BODIES = $(filter-out attn/native/table.c,$(wildcard attn/native/*.c))
NATIVE_OBJS = $(BUILD)/attn/native/table.o $(foreach set,$(NATIVE_SETS),$(NATIVE_BODIES:%.c=$(BUILD)/%.$(set).o))
$(BUILD)/attn/native/table.o: private override CFLAGS += -fvisibility=hidden
define NATIVE_RULE
$$(BUILD)/attn/native/%.$(1).o: attn/native/%.c attn/build.mk $$(BUILD)/cc.flags
	@mkdir -p $$(@D)
	$$(call say,CC,$$@)
	$$(Q)$$(CC) $$(CFLAGS_ALL) $$(NATIVE_FLAGS) $$(NATIVE_FLAGS_$(1)) -DNATIVE_SET=$(1) -c $$< -o $$@
endef
$(foreach set,$(NATIVE_SETS) wide,$(eval $(call NATIVE_RULE,$(set))))

$(ATTN_HOST_IMAGE): $(NATIVE_OBJS) $(patsubst %.cu,$(BUILD)/%.simt.o,$(ATTN_CU)) $(SIMT_OBJS)
	$(call say,LD,$@)
	$(Q)$(CXX) -shared -o $@ $^ $(LINK_FLAGS) $(SIMT_LIBS)

# A module is one image, so nvcc gets one file that includes all; it works on several architectures at once (-t).
NVCC_ARCHS = $(foreach arch,$(GPU_ARCHS),-gencode arch=compute_$(arch),code=sm_$(arch))
NVCC_FLAGS = -std=c++17 -I. -Idriver $(if $(filter 1,$(WERROR)),--Werror all-warnings) -Xcompiler -Wall,-Wextra $(NVCC_ARCHS) \
	-gencode arch=compute_$(lastword $(GPU_ARCHS)),code=compute_$(lastword $(GPU_ARCHS))

# A seventh of the size. Only from CUDA 13 on, whose programs need a driver that can read it anyway.
NVCC_SMALL = $(NVCC) --version | grep -qE 'release (1[3-9]|[2-9][0-9])' && echo -compress-mode=size

$(BUILD)/attn/kernels.cu: $(ATTN_CU)
	@mkdir -p $(@D)
	$(Q)printf '#include "%s"\n' $(ATTN_CU) >$@

$(BUILD)/attn/kernels.fatbin: $(BUILD)/attn/kernels.cu $(wildcard attn/*.h attn/*.cuh driver/simt/*.h driver/simt/*.cuh driver/cu.h) $(BUILD)/nvcc.flags
	@[ -n "$(NVCC)" ] || { echo "kvshare: no nvcc found: install the CUDA toolkit, set NVCC, or build with GPU=0" >&2; exit 1; }
	$(call say,NVCC,$@)
	$(Q)$(NVCC) -fatbin -t 0 $(NVCC_FLAGS) $$($(NVCC_SMALL)) -Xptxas -v $< -o $@ 2>$(BUILD)/attn/ptxas.log || { cat $(BUILD)/attn/ptxas.log >&2; exit 1; }

$(BUILD)/attn/no_kernels.fatbin: | deps-present
	@mkdir -p $(@D)
	$(Q): >$@

# Changes when GPU or the architectures do, so that the program gets the other image.
$(BUILD)/attn/gpu_image: FORCE
	@mkdir -p $(@D)
	@echo $(ATTN_GPU_IMAGE) $(GPU_ARCHS) | cmp -s - $@ || echo $(ATTN_GPU_IMAGE) $(GPU_ARCHS) >$@

$(BUILD)/attn/images.o: attn/images.S $(BUILD)/cc.flags $(ATTN_HOST_IMAGE) $(ATTN_GPU_IMAGE) $(BUILD)/attn/gpu_image
	$(call say,AS,$@)
	$(Q)$(CC) -c -DKVS_HOST_IMAGE='"$(ATTN_HOST_IMAGE)"' -DKVS_GPU_IMAGE='"$(ATTN_GPU_IMAGE)"' \
		-DKVS_GPU_ARCHS='"$(if $(WITH_GPU),$(GPU_ARCHS))"' $< -o $@

.PHONY: nvcc-check
nvcc-check: $(BUILD)/attn/kernels.fatbin ## compile the kernels for every GPU architecture; fail where registers spill
	$(Q)awk '/Compiling entry function/ {name = $$7 " for " $$9} /spill stores/ && !/ 0 bytes spill stores/ {print "spills: " name ": " $$0; bad = 1} \
		/Used [0-9]+ registers/ {kernels++; if ($$5 > most) most = $$5} END {print kernels " kernels, at most " most " registers"; exit bad}' \
		$(BUILD)/attn/ptxas.log
