# Each tests/fuzz/NAME_fuzz.c is a libFuzzer target; its seeds are in tests/fuzz/corpus/NAME. All code is built once more, with
# clang, sanitizers and coverage, under $(BUILD)/fuzz.
FUZZ_SECONDS ?= 30
FUZZ_CC ?= clang
FUZZ_NAMES = $(patsubst tests/fuzz/%_fuzz.c,%,$(wildcard tests/fuzz/*_fuzz.c))
FUZZ_PROGRAMS = $(FUZZ_NAMES:%=$(BUILD)/fuzz/%_fuzz)
FUZZ_CXX ?= $(FUZZ_CC)++
FUZZ_FLAGS = -O1 -g $(WARN) -fsanitize=fuzzer-no-link,address,undefined -fno-sanitize-recover=all -fno-omit-frame-pointer -pthread -D_GNU_SOURCE -Idriver $(CUDA_FLAGS) -MMD -MP
FUZZ_LINK_FLAGS = -fsanitize=fuzzer,address,undefined -pthread
# An archive, so that a target links only what it calls, and no kernels.
FUZZ_OBJS = $(patsubst %.c,$(BUILD)/fuzz/%.o,$(wildcard driver/*.c chart/*.c profiler/*.c profiler/report/*.c profiler/export/*.c attn/*.c vmm/*.c model/*.c model/*/*.c calib/*.c calib/*/*.c tests/fuzz/no_images.c)) \
	$(patsubst %.cpp,$(BUILD)/fuzz/%.o,$(wildcard driver/*.cpp)) $(BUILD)/fuzz/profiler/report/assets.o
FUZZ_ARCHIVE = $(BUILD)/fuzz/kvshare.a

$(BUILD)/fuzz/%.o: %.c $(BUILD)/fuzz.flags | deps-present
	@mkdir -p $(@D)
	$(call say,FUZZCC,$@)
	$(Q)$(FUZZ_CC) -std=gnu11 $(FUZZ_FLAGS) -c $< -o $@

$(BUILD)/fuzz/%.o: %.cpp | deps-present
	@mkdir -p $(@D)
	$(call say,FUZZCXX,$@)
	$(Q)$(FUZZ_CXX) -std=c++17 -fno-exceptions -fno-rtti -fno-threadsafe-statics $(FUZZ_FLAGS) -fno-sanitize=function -c $< -o $@

$(BUILD)/fuzz/%.o: %.S $(BUILD)/fuzz.flags
	@mkdir -p $(@D)
	$(call say,FUZZAS,$@)
	$(Q)$(FUZZ_CC) -c $< -o $@

$(BUILD)/fuzz/profiler/demangle.o: private FUZZ_FLAGS += $(if $(LIBIBERTY),-DPROF_LIBIBERTY)
$(BUILD)/fuzz/calib/compensate/stopped.o: private FUZZ_FLAGS += -DKVS_VERSION='"$(VERSION)"'
$(FUZZ_ARCHIVE): $(FUZZ_OBJS)
	@rm -f $@
	$(call say,AR,$@)
	$(Q)ar crs $@ $^

$(BUILD)/fuzz/%_fuzz: $(BUILD)/fuzz/tests/fuzz/%_fuzz.o $(FUZZ_ARCHIVE)
	$(call say,LD,$@)
	$(Q)$(FUZZ_CC) $(FUZZ_LINK_FLAGS) -o $@ $^ -ljansson -lpcre2-8 -lutf8proc -lz -lm -ldl $(LIBIBERTY)

# Each target is a job of make (-j), so that two cores need only half the time.
FUZZ_RUNS = $(FUZZ_NAMES:%=fuzz-run-%)
$(FUZZ_RUNS): fuzz-run-%: $(BUILD)/fuzz/%_fuzz
	$(Q)log=$(BUILD)/fuzz/$*.log; work=$$(mktemp -d); cp -r tests/fuzz/corpus/$*/. $$work; \
	$(BUILD)/fuzz/$*_fuzz -max_total_time=$(FUZZ_SECONDS) -rss_limit_mb=2048 -timeout=10 \
		-artifact_prefix=$(BUILD)/fuzz/$*- $$work >$$log 2>&1; code=$$?; rm -r $$work; \
	[ $$code -eq 0 ] || { tail -n 60 $$log; echo "fuzz $*: failed; the input is under $(BUILD)/fuzz" >&2; exit 1; }; \
	echo "fuzz $*: $$(tail -n 1 $$log)"

fuzz-build: $(FUZZ_PROGRAMS)
fuzz: deps ## run each fuzz target for FUZZ_SECONDS (30) on its seed corpus
	$(Q)$(MAKE) --no-print-directory fuzz-build
	$(Q)$(MAKE) --no-print-directory $(FUZZ_RUNS)
.PHONY: fuzz fuzz-build $(FUZZ_RUNS)
