VMM_OBJS = $(patsubst %.c,$(BUILD)/%.o,$(wildcard vmm/*.c))
LIBKVSHARE = $(BUILD)/libkvshare.so
BUILD_PRODUCTS += $(LIBKVSHARE)

$(LIBKVSHARE): $(DRIVER_OBJS) $(VMM_OBJS) vmm/kvshare.map
	$(call say,LD,$@)
	$(Q)$(CC) -shared -Wl,-soname,libkvshare.so.0 -Wl,--version-script=vmm/kvshare.map -o $@ $(DRIVER_OBJS) $(VMM_OBJS) $(LINK_FLAGS) -ljansson -ldl

.PHONY: install-vmm
install: install-vmm ## put library, headers and softcuda under PREFIX (/usr/local); honours DESTDIR
install-vmm: $(LIBKVSHARE) $(SOFTCUDA)
	$(Q)install -d $(DESTDIR)$(PREFIX)/include/kvshare $(DESTDIR)$(PREFIX)/lib/pkgconfig $(DESTDIR)$(PREFIX)/lib/kvshare/softcuda
	$(Q)install -m 644 vmm/kvshare.h driver/cu.h $(DESTDIR)$(PREFIX)/include/kvshare
	$(Q)install -m 755 $(LIBKVSHARE) $(DESTDIR)$(PREFIX)/lib/libkvshare.so.0
	$(Q)ln -sf libkvshare.so.0 $(DESTDIR)$(PREFIX)/lib/libkvshare.so
	$(Q)install -m 755 $(SOFTCUDA) $(DESTDIR)$(PREFIX)/lib/kvshare/softcuda
	$(Q)sed 's|@PREFIX@|$(PREFIX)|; s|@CUDA_HOME@|$(CUDA)|' vmm/kvshare.pc.in >$(DESTDIR)$(PREFIX)/lib/pkgconfig/kvshare.pc

# The examples of docs/vmm.md, built as a user builds them: against the header and the shared library alone.
$(BUILD)/docs/examples/%: docs/examples/%.c vmm/kvshare.h driver/cu.h $(LIBKVSHARE)
	@mkdir -p $(@D)
	@ln -sf libkvshare.so $(BUILD)/libkvshare.so.0
	$(call say,LD,$@)
	$(Q)$(CC) $(OPT) $(WARN) $(SAN_FLAGS) -Ivmm -Idriver $(CUDA_FLAGS) -o $@ $< -L$(BUILD) -lkvshare -Wl,-rpath,'$$ORIGIN/../..'
$(BUILD)/tests/vmm/example_test: | $(BUILD)/docs/examples/cache $(BUILD)/docs/examples/slab $(SOFTCUDA)
