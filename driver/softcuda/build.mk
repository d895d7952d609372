SOFTCUDA_OBJS = $(patsubst %.c,$(BUILD)/%.o,$(wildcard driver/softcuda/*.c))
SOFTCUDA = $(BUILD)/softcuda/libcuda.so.1
# Some programs look for the name that linkers use.
SOFTCUDA_PLAIN = $(BUILD)/softcuda/libcuda.so
BUILD_PRODUCTS += $(SOFTCUDA) $(SOFTCUDA_PLAIN)

# The list of all driver functions, as the CUDA headers in use have it.
SOFTCUDA_NAMES = $(BUILD)/driver/softcuda/names.inc
SOFTCUDA_NAMED = $(addprefix $(BUILD)/driver/softcuda/,absent.o perthread.o procaddress.o)
$(SOFTCUDA_NAMES): driver/softcuda/names.awk $(BUILD)/cc.flags | deps-present
	@mkdir -p $(@D)
	$(call say,NAMES,$@)
	$(Q)echo '#include <cudaTypedefs.h>' | $(CC) -E -P -D__CUDA_API_VERSION_INTERNAL $(CUDA_FLAGS) -x c - | \
		awk -f driver/softcuda/names.awk >$@
$(SOFTCUDA_NAMED): $(SOFTCUDA_NAMES)
$(SOFTCUDA_NAMED): private override CPPFLAGS += -I$(BUILD)/driver/softcuda

# nodelete: its threads and signal handlers outlive a dlclose.
$(SOFTCUDA): $(SOFTCUDA_OBJS) driver/softcuda/softcuda.map
	@mkdir -p $(@D)
	$(call say,LD,$@)
	$(Q)$(CC) -shared -Wl,-soname,libcuda.so.1 -Wl,--version-script=driver/softcuda/softcuda.map -Wl,-Bsymbolic -Wl,-z,nodelete \
		-o $@ $(SOFTCUDA_OBJS) $(LINK_FLAGS) -ldl

$(SOFTCUDA_PLAIN): $(SOFTCUDA)
	$(Q)ln -sf $(notdir $(SOFTCUDA)) $@
