RUN = $(BUILD)/kvshare-run
# `exec` checks a layout as the shim will read it.
RUN_OBJS = $(patsubst %.c,$(BUILD)/%.o,$(wildcard tools/run/*.c tools/run/*/*.c)) $(BUILD)/tools/run/plan/exports.o $(addprefix $(BUILD)/tools/preload/,layout.o explicit.o)
LIB_OBJS = $(DRIVER_OBJS) $(CHART_OBJS) $(PROFILER_OBJS) $(VMM_OBJS) $(ATTN_OBJS) $(MODEL_OBJS) $(CALIB_OBJS)
BUILD_PRODUCTS += $(RUN)

$(BUILD)/tools/run/main.o: private CFLAGS_ALL += -DKVS_VERSION='"$(VERSION)"'
$(BUILD)/tools/run/main.o: VERSION

$(RUN): $(RUN_OBJS) $(LIB_OBJS)
	$(call say,LD,$@)
	$(Q)$(CC) -o $@ $^ $(LDLIBS_ALL)

# The Python that `plan convert` writes is part of the program.
$(BUILD)/tools/run/plan/exports.o: $(wildcard tools/run/plan/exports/*.py)
