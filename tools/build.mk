RUN = $(BUILD)/kvshare-run
RUN_OBJS = $(patsubst %.c,$(BUILD)/%.o,$(wildcard tools/run/*.c)) $(BUILD)/tools/run/exports.o
LIB_OBJS = $(DRIVER_OBJS) $(VMM_OBJS) $(ATTN_OBJS) $(MODEL_OBJS) $(CALIB_OBJS)
BUILD_PRODUCTS += $(RUN)

$(RUN): $(RUN_OBJS) $(LIB_OBJS)
	$(call say,LD,$@)
	$(Q)$(CC) -o $@ $^ $(LDLIBS_ALL)

# The Python that `plan convert` writes travels inside the program.
$(BUILD)/tools/run/exports.o: tools/run/exports.S $(wildcard tools/run/exports/*.py)
	@mkdir -p $(@D)
	$(call say,AS,$@)
	$(Q)$(CC) -c $< -o $@
