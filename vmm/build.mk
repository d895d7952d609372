VMM_OBJS = $(patsubst %.c,$(BUILD)/%.o,$(wildcard vmm/*.c))
# libkvshare.so and libkvshare.so.0 are links to the file, in the build folder as where it is installed.
LIBKVSHARE = $(BUILD)/libkvshare.so
LIBKVSHARE_SONAME = libkvshare.so.$(firstword $(subst ., ,$(VERSION)))
LIBKVSHARE_FILE = $(LIBKVSHARE).$(VERSION)
BUILD_PRODUCTS += $(LIBKVSHARE)

$(LIBKVSHARE_FILE): $(DRIVER_OBJS) $(VMM_OBJS) vmm/kvshare.map
	$(call say,LD,$@)
	$(Q)$(CC) -shared -Wl,-soname,$(LIBKVSHARE_SONAME) -Wl,--version-script=vmm/kvshare.map -o $@ $(DRIVER_OBJS) $(VMM_OBJS) $(LINK_FLAGS) -ljansson -ldl

$(LIBKVSHARE): $(LIBKVSHARE_FILE)
	@ln -sf $(notdir $<) $(BUILD)/$(LIBKVSHARE_SONAME)
	@ln -sf $(notdir $<) $@

# The examples of docs/vmm.md, built as a user builds them: against the header and the shared library alone.
$(BUILD)/docs/examples/%: docs/examples/%.c vmm/kvshare.h driver/cu.h $(BUILD)/cc.flags $(LIBKVSHARE)
	@mkdir -p $(@D)
	$(call say,LD,$@)
	$(Q)$(CC) $(OPT) $(WARN) $(SAN_FLAGS) -Ivmm -Idriver $(CUDA_FLAGS) -o $@ $< -L$(BUILD) -lkvshare -Wl,-rpath,'$$ORIGIN/../..'
$(BUILD)/tests/vmm/example_test: | $(BUILD)/docs/examples/cache $(BUILD)/docs/examples/slab $(SOFTCUDA)
