VMM_OBJS = $(patsubst %.c,$(BUILD)/%.o,$(wildcard vmm/*.c))
LIBKVSHARE = $(BUILD)/libkvshare.so
BUILD_PRODUCTS += $(LIBKVSHARE)

$(LIBKVSHARE): $(DRIVER_OBJS) $(VMM_OBJS) vmm/kvshare.map
	$(call say,LD,$@)
	$(Q)$(CC) -shared -Wl,-soname,libkvshare.so.0 -Wl,--version-script=vmm/kvshare.map -o $@ $(DRIVER_OBJS) $(VMM_OBJS) $(SAN_FLAGS) -pthread -ljansson -ldl
