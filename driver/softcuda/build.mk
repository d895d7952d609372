SOFTCUDA_OBJS = $(patsubst %.c,$(BUILD)/%.o,$(wildcard driver/softcuda/*.c))
SOFTCUDA = $(BUILD)/softcuda/libcuda.so.1
BUILD_PRODUCTS += $(SOFTCUDA)

# nodelete: its threads and signal handlers outlive a dlclose.
$(SOFTCUDA): $(SOFTCUDA_OBJS) driver/softcuda/softcuda.map
	@mkdir -p $(@D)
	$(call say,LD,$@)
	$(Q)$(CC) -shared -Wl,-soname,libcuda.so.1 -Wl,--version-script=driver/softcuda/softcuda.map -Wl,-Bsymbolic -Wl,-z,nodelete \
		-o $@ $(SOFTCUDA_OBJS) $(LINK_FLAGS) -ldl
