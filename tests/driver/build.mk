$(BUILD)/tests/driver/planted.so: $(BUILD)/tests/driver/planted.o
	$(call say,LD,$@)
	$(Q)$(CC) -shared -o $@ $< $(SAN_FLAGS)
$(BUILD)/tests/driver/locate_test: | $(BUILD)/tests/driver/planted.so
