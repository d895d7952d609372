# kvshare. `make` alone prints the targets; V=1 shows whole command lines; everything built goes under $(BUILD).
# Each folder lists what it holds in a build.mk of its own.

BUILD ?= build
VERSION := $(file <VERSION)
# make's own defaults (cc, g++) are not a choice that somebody made; the environment and the command line are.
ifeq ($(origin CC),default)
CC = gcc
endif
ifeq ($(origin CXX),default)
CXX = g++
endif
# A CUDA toolkit (12.4 or newer) comes before what `make deps` brought; an empty CUDA_HOME hides it.
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
# A compiler of tomorrow warns of more; that must stop developers, not users.
WERROR ?= 0
WARN = -Wall -Wextra $(if $(filter 1,$(WERROR)),-Werror)
# cu.h is found by name alone, as it is where kvshare is installed.
BASE_FLAGS = $(OPT) $(WARN) $(SAN_FLAGS) -fPIC -pthread -D_GNU_SOURCE -Idriver $(CUDA_FLAGS) -MMD -MP \
	-ffile-prefix-map=$(CURDIR)=.
CFLAGS_ALL = -std=gnu11 -Wmissing-prototypes -Wstrict-prototypes $(BASE_FLAGS) $(CPPFLAGS) $(CFLAGS)
CXXFLAGS_ALL = -std=c++17 $(BASE_FLAGS) $(CPPFLAGS) $(CXXFLAGS)
# What every link takes, and what the programs that stand on the engine take.
LINK_FLAGS = $(SAN_FLAGS) -pthread $(LDFLAGS)
LDLIBS_ALL = $(LINK_FLAGS) -ljansson -lpcre2-8 -lutf8proc -lz -lm -ldl

.DELETE_ON_ERROR:
.SECONDARY:
.SUFFIXES:
.PHONY: help deps build demo check bench clean format check-format

help: ## print this
	@awk -F ':.*## ' '/^[a-z-]+:.*## /{printf "  make %-13s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

include driver/build.mk driver/softcuda/build.mk driver/simt/build.mk profiler/build.mk vmm/build.mk attn/build.mk model/build.mk calib/build.mk
include tools/build.mk tools/install.mk tests/build.mk tests/fuzz/build.mk

comma := ,
deps: ## bring what building and testing need (Debian packages, CUDA headers); DEV=1, GPU=1 bring more
	$(Q)BUILD='$(BUILD)' CUDA='$(CUDA)' NVCC='$(NVCC)' GPU='$(GPU)' DEV='$(DEV)' tools/deps.sh

build: $(BUILD_PRODUCTS) ## everything: kvshare-run, libkvshare.so, softcuda

# What each kind of file is built with, in $(BUILD)/KIND.flags, which is new only where it changed: so a change of CC, OPT,
# SANITIZE and the like rebuilds what it must. ccache gives what the compiler behind it gives, and does not count.
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

.PHONY: deps-present
deps-present:
	@[ -e "$(CUDA)/include/cuda.h" ] || { echo "kvshare: $(if $(CUDA),CUDA_HOME is $(CUDA)$(comma) where there is no include/cuda.h,there is no cuda.h: \`make deps\` brings it)" >&2; exit 1; }

.PHONY: print-nvcc
print-nvcc:
	@echo $(NVCC)

clean: ## remove what was built
	rm -rf $(BUILD)

FORMATTED = $(shell git ls-files '*.c' '*.h' '*.cu' '*.cuh' '*.cpp')
format: ## lay out the sources as .clang-format says
	$(Q)clang-format -i $(FORMATTED)
check-format: ## fail where a source is laid out otherwise
	$(Q)clang-format --dry-run -Werror $(FORMATTED)

-include $(shell find $(BUILD) -path $(BUILD)/mutants -prune -o -name '*.d' -print 2>/dev/null)
