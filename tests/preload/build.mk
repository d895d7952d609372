# These run programs of tests/clients under the shim.
$(BUILD)/tests/preload/calls_test $(BUILD)/tests/preload/answers_test $(BUILD)/tests/preload/writers_test $(BUILD)/tests/preload/corners_test $(BUILD)/tests/preload/refusals_test $(BUILD)/tests/preload/crowd_test: | $(PRELOAD) $(RUN) $(SOFTCUDA) $(CLIENTS) $(BUILD)/tests/clients/decoder_kernels.so
$(BUILD)/tests/bench/shim_bench: | $(PRELOAD) $(RUN) $(SOFTCUDA) $(CLIENTS) $(BUILD)/tests/clients/decoder_kernels.so
# It has the shim's list of kernels in itself.
$(BUILD)/tests/preload/known_test: $(BUILD)/tools/preload/writers.o
