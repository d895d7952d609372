RUN = $(BUILD)/kvshare-run
RUN_OBJS = $(patsubst %.c,$(BUILD)/%.o,$(wildcard tools/run/*.c))
LIB_OBJS = $(DRIVER_OBJS) $(VMM_OBJS) $(ATTN_OBJS) $(MODEL_OBJS) $(CALIB_OBJS)
BUILD_PRODUCTS += $(RUN)

$(RUN): $(RUN_OBJS) $(LIB_OBJS)
	$(call say,LD,$@)
	$(Q)$(CC) -o $@ $^ $(LDLIBS_ALL)
