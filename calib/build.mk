CALIB_OBJS = $(patsubst %.c,$(BUILD)/%.o,$(wildcard calib/*.c calib/*/*.c))

# A fit that was stopped is gone on with by the same program alone.
$(BUILD)/calib/compensate/stopped.o: private CFLAGS_ALL += -DKVS_VERSION='"$(VERSION)"'
$(BUILD)/calib/compensate/stopped.o: VERSION
