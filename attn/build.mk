# One source, two images: kernels.so for softcuda, kernels.fatbin for GPUs (empty without nvcc). Both travel inside the program.
ATTN_CU = $(wildcard attn/*.cu)
ATTN_HOST_IMAGE = $(BUILD)/attn/kernels.so
ATTN_GPU_IMAGE = $(BUILD)/attn/kernels.fatbin
ATTN_OBJS = $(patsubst %.c,$(BUILD)/%.o,$(wildcard attn/*.c)) $(BUILD)/attn/images.o

$(ATTN_HOST_IMAGE): $(patsubst %.cu,$(BUILD)/%.simt.o,$(ATTN_CU)) $(SIMT_OBJS)
	$(call say,LD,$@)
	$(Q)$(CXX) -shared -o $@ $^ $(SAN_FLAGS) -pthread $(SIMT_LIBS)
