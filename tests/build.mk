# tests/ROOM/NAME_test.c is a test program of its own; it links everything below tools/ and cmocka.
# tests/ROOM/NAME_kernels.cu beside it is a module of kernels for softcuda, built into $(BUILD)/tests/ROOM/NAME_kernels.so.
TEST_SRCS = $(wildcard tests/*/*_test.c)
TEST_PROGRAMS = $(patsubst %.c,$(BUILD)/%,$(TEST_SRCS))
TEST_SUPPORT = $(patsubst %.c,$(BUILD)/%.o,$(wildcard tests/support/*.c))
TEST_MODULES = $(patsubst %.cu,$(BUILD)/%.so,$(wildcard tests/*/*_kernels.cu))

$(BUILD)/tests/%_kernels.so: $(BUILD)/tests/%_kernels.simt.o $(SIMT_OBJS)
	$(call say,LD,$@)
	$(Q)$(CXX) -shared -o $@ $^ $(SAN_FLAGS) -pthread $(SIMT_LIBS)

$(BUILD)/tests/%_test: $(BUILD)/tests/%_test.o $(TEST_SUPPORT) $(LIB_OBJS)
	$(call say,LD,$@)
	$(Q)$(CC) -o $@ $^ -lcmocka $(LDLIBS_ALL)

-include tests/conformance/build.mk

tests-build: build $(TEST_PROGRAMS) $(TEST_MODULES)
check: deps tests-build ## all tests; ends in "N passed, N failed, N skipped"
	$(Q)BUILD=$(BUILD) tests/run.sh $(TEST_PROGRAMS)
