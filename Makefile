# kvshare. `make` alone prints the targets; V=1 shows whole command lines; all build output is under $(BUILD).
# Each folder describes its own part in a build.mk.

BUILD ?= build
VERSION := $(file <VERSION)
# make's own defaults (cc, g++) are nobody's choice, so they are replaced; the environment and the command line are kept.
ifeq ($(origin CC),default)
CC = gcc
endif
ifeq ($(origin CXX),default)
CXX = g++
endif
# A CUDA toolkit (12.4 or newer) is preferred to the headers from `make deps`; an empty CUDA_HOME hides it.
toolkit := $(shell for dir in /usr/local/cuda /opt/cuda /usr; do awk '$$2 == "CUDA_VERSION" && $$3 >= 12040 {new = 1} END {exit !new}' \
	$$dir/include/cuda.h 2>/dev/null && echo $$dir && break; done)
CUDA_HOME ?= $(toolkit)
CUDA = $(or $(CUDA_HOME),$(patsubst %/include/cuda.h,%,$(firstword $(wildcard $(BUILD)/cuda/include/cuda.h build/cuda/include/cuda.h))))
CUDA_FLAGS = $(if $(filter-out /usr,$(CUDA)),-isystem $(CUDA)/include)
NVCC ?= $(firstword $(wildcard $(CUDA)/bin/nvcc) $(if $(CUDA_HOME),$(shell command -v nvcc)) $(wildcard $(BUILD)/cuda/bin/nvcc build/cuda/bin/nvcc))
PREFIX ?= /usr/local
SANITIZE ?= # address,undefined or thread
GPU_ARCHS = 80 86 89 90 100 120

V ?= 0
Q = $(if $(filter 0,$(V)),@,)
say = $(if $(filter 0,$(V)),@printf '  %-7s %s\n' $(1) $(patsubst $(BUILD)/%,%,$(2)))

OPT ?= -O2 -g
SAN_FLAGS = $(if $(strip $(SANITIZE)),-fsanitize=$(strip $(SANITIZE)) -fno-omit-frame-pointer -fno-sanitize-recover=all)
# Future compilers have more warnings; those should stop developers, not users.
WERROR ?= 0
WARN = -Wall -Wextra $(if $(filter 1,$(WERROR)),-Werror)
# cu.h is included by name alone, as in an installed kvshare.
BASE_FLAGS = $(OPT) $(WARN) $(SAN_FLAGS) -fPIC -pthread -D_GNU_SOURCE -Idriver $(CUDA_FLAGS) -MMD -MP \
	-ffile-prefix-map=$(CURDIR)=.
CFLAGS_ALL = -std=gnu11 -Wmissing-prototypes -Wstrict-prototypes $(BASE_FLAGS) $(CPPFLAGS) $(CFLAGS)
CXXFLAGS_ALL = -std=c++17 $(BASE_FLAGS) $(CPPFLAGS) $(CXXFLAGS)
# For every link, and for the programs that use the engine.
LINK_FLAGS = $(SAN_FLAGS) -pthread $(LDFLAGS)
LDLIBS_ALL = $(LINK_FLAGS) -ljansson -lpcre2-8 -lutf8proc -lz -lm -ldl $(BPF_LIBS) $(LIBDW) $(LIBIBERTY)

.DELETE_ON_ERROR:
.SECONDARY:
.SUFFIXES:
.PHONY: help deps build demo check bench clean format check-format

help: ## print this
	@awk -F ':.*## ' '/^[a-z0-9-]+:.*## /{printf "  make %-13s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

include driver/build.mk driver/softcuda/build.mk driver/simt/build.mk chart/build.mk profiler/build.mk vmm/build.mk attn/build.mk model/build.mk calib/build.mk
include tools/preload/build.mk tools/build.mk tools/install.mk tests/build.mk tests/fuzz/build.mk

comma := ,
deps: ## install what building and testing need (Debian packages, CUDA headers); DEV=1, GPU=1 install more
	$(Q)BUILD='$(BUILD)' CUDA='$(CUDA)' NVCC='$(NVCC)' GPU='$(GPU)' DEV='$(DEV)' tools/deps.sh

build: $(BUILD_PRODUCTS) ## everything: kvshare-run, libkvshare.so, softcuda

# $(BUILD)/KIND.flags holds the command for each kind of file, and is rewritten only if that changes: so a change of CC, OPT,
# SANITIZE and the like rebuilds just the files concerned. ccache gives the same result as its compiler, and does not count.
FLAGS_cc = $(filter-out ccache,$(CC)) $(CFLAGS_ALL) $(LDLIBS_ALL)
FLAGS_cxx = $(filter-out ccache,$(CXX)) $(CXXFLAGS_ALL) $(LINK_FLAGS)
FLAGS_nvcc = $(NVCC) $(NVCC_FLAGS)
FLAGS_fuzz = $(filter-out ccache,$(FUZZ_CC)) $(FUZZ_FLAGS) $(FUZZ_LINK_FLAGS)
$(BUILD)/%.flags: FORCE
	@mkdir -p $(@D)
	@echo '$(subst ','\'',$(FLAGS_$*))' >$@.new; if cmp -s $@.new $@; then rm $@.new; else mv $@.new $@; fi
.PHONY: FORCE

$(BUILD)/%.o: %.c $(BUILD)/cc.flags | deps-present
	@mkdir -p $(@D)
	$(call say,CC,$@)
	$(Q)$(CC) $(CFLAGS_ALL) -c $< -o $@

$(BUILD)/%.o: %.cpp $(BUILD)/cxx.flags | deps-present
	@mkdir -p $(@D)
	$(call say,CXX,$@)
	$(Q)$(CXX) $(CXXFLAGS_ALL) -c $< -o $@

# Files that travel inside the program (.incbin).
$(BUILD)/%.o: %.S $(BUILD)/cc.flags
	@mkdir -p $(@D)
	$(call say,AS,$@)
	$(Q)$(CC) -c $< -o $@

.PHONY: deps-present
deps-present:
	@[ -e "$(CUDA)/include/cuda.h" ] || { echo "kvshare: $(if $(CUDA),CUDA_HOME is $(CUDA)$(comma) where there is no include/cuda.h,there is no cuda.h: \`make deps\` fetches it)" >&2; exit 1; }

.PHONY: print-nvcc
print-nvcc:
	@echo $(NVCC)

clean: ## remove all build output
	rm -rf $(BUILD)

FORMATTED = $(shell git ls-files '*.c' '*.h' '*.cu' '*.cuh' '*.cpp')
format: ## format the sources with .clang-format
	$(Q)clang-format -i $(FORMATTED)
check-format: ## fail if a source is formatted otherwise
	$(Q)clang-format --dry-run -Werror $(FORMATTED)

-include $(shell find $(BUILD) -path $(BUILD)/mutants -prune -o -name '*.d' -print 2>/dev/null)
