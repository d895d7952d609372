SOFTCUDA_OBJS = $(patsubst %.c,$(BUILD)/%.o,$(wildcard driver/softcuda/*.c))
SOFTCUDA = $(BUILD)/softcuda/libcuda.so.1
BUILD_PRODUCTS += $(SOFTCUDA)

$(SOFTCUDA): $(SOFTCUDA_OBJS) driver/softcuda/softcuda.map
	@mkdir -p $(@D)
	$(call say,LD,$@)
	$(Q)$(CC) -shared -Wl,-soname,libcuda.so.1 -Wl,--version-script=driver/softcuda/softcuda.map -o $@ $(SOFTCUDA_OBJS) $(SAN_FLAGS) -pthread -ldl
