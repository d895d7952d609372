# tests/fuzz/NAME_fuzz.c is a libFuzzer target; its seeds are in tests/fuzz/corpus/NAME. Everything is built once more with
# clang, sanitizers and coverage, under $(BUILD)/fuzz.
FUZZ_SECONDS ?= 30
FUZZ_CC ?= clang
FUZZ_NAMES = $(patsubst tests/fuzz/%_fuzz.c,%,$(wildcard tests/fuzz/*_fuzz.c))
FUZZ_PROGRAMS = $(FUZZ_NAMES:%=$(BUILD)/fuzz/%_fuzz)
FUZZ_FLAGS = -std=gnu11 -O1 -g $(WARN) -fsanitize=fuzzer-no-link,address,undefined -fno-sanitize-recover=all -fno-omit-frame-pointer -pthread -D_GNU_SOURCE -Idriver $(CUDA_FLAGS) -MMD -MP
FUZZ_LINK_FLAGS = -fsanitize=fuzzer,address,undefined -pthread
# An archive, so that a target links what it calls and not the engine behind it.
FUZZ_OBJS = $(patsubst %.c,$(BUILD)/fuzz/%.o,$(wildcard driver/*.c attn/*.c vmm/*.c model/*.c model/*/*.c calib/*.c calib/*/*.c))
FUZZ_ARCHIVE = $(BUILD)/fuzz/kvshare.a

$(BUILD)/fuzz/%.o: %.c $(BUILD)/fuzz.flags | deps-present
	@mkdir -p $(@D)
	$(call say,FUZZCC,$@)
	$(Q)$(FUZZ_CC) $(FUZZ_FLAGS) -c $< -o $@

$(FUZZ_ARCHIVE): $(FUZZ_OBJS)
	@rm -f $@
	$(call say,AR,$@)
	$(Q)ar crs $@ $^

$(BUILD)/fuzz/%_fuzz: $(BUILD)/fuzz/tests/fuzz/%_fuzz.o $(FUZZ_ARCHIVE)
	$(call say,LD,$@)
	$(Q)$(FUZZ_CC) $(FUZZ_LINK_FLAGS) -o $@ $^ -ljansson -lpcre2-8 -lutf8proc -lm -ldl

fuzz-build: $(FUZZ_PROGRAMS)
fuzz: ## run each fuzz target for FUZZ_SECONDS (30) on its seed corpus
	$(Q)$(MAKE) --no-print-directory deps DEV=1
	$(AND_THEN) run-fuzz
run-fuzz: fuzz-build
	$(Q)for name in $(FUZZ_NAMES); do \
		log=$(BUILD)/fuzz/$$name.log; work=$$(mktemp -d); cp -r tests/fuzz/corpus/$$name/. $$work; \
		$(BUILD)/fuzz/$${name}_fuzz -max_total_time=$(FUZZ_SECONDS) -rss_limit_mb=2048 -timeout=10 \
			-artifact_prefix=$(BUILD)/fuzz/$$name- $$work >$$log 2>&1; code=$$?; rm -r $$work; \
		[ $$code -eq 0 ] || { tail -n 60 $$log; echo "fuzz $$name: failed; the input is under $(BUILD)/fuzz" >&2; exit 1; }; \
		echo "fuzz $$name: $$(tail -n 1 $$log)"; \
	done
.PHONY: fuzz fuzz-build run-fuzz
