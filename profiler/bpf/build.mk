# The eBPF source: programs for the kernel, compiled by clang and embedded by a skeleton that bpftool makes. Built where clang,
# bpftool, libbpf and libelf are there (auto) or must be (BPF=1); left out elsewhere, and with BPF=0.
BPF ?= auto
BPF_CLANG ?= clang
BPFTOOL ?= $(firstword $(wildcard $(addsuffix /bpftool,$(subst :, ,$(PATH)) /usr/sbin /usr/local/sbin)))
BPF_ARCH := $(patsubst x86_64,x86,$(patsubst aarch64,arm64,$(shell uname -m)))
bpf_found := $(shell [ '$(BPF)' != auto ] || { pkg-config --exists 'libbpf >= 1.0' libelf && command -v $(BPF_CLANG) && \
	'$(BPFTOOL)' version; } >/dev/null 2>&1 && echo 1)
WITH_BPF := $(and $(filter x86 arm64,$(BPF_ARCH)),$(filter-out 0,$(BPF)),$(bpf_found))
BPF_LIBS = $(if $(WITH_BPF),-lbpf -lelf)
BPF_SKELETON = $(BUILD)/profiler/bpf/watch.skel.h
BPF_SRCS = $(if $(WITH_BPF),$(filter-out %.bpf.c %/absent.c,$(wildcard profiler/bpf/*.c)),profiler/bpf/absent.c)
FLAGS_bpf = -O2 -g -ffile-prefix-map=$(CURDIR)=. -target bpf -D__TARGET_ARCH_$(BPF_ARCH) -Wall -Wextra -Wno-unused-parameter $(if $(filter 1,$(WERROR)),-Werror) \
	$(addprefix -I/usr/include/,$(shell $(CC) -print-multiarch 2>/dev/null))

$(BUILD)/profiler/bpf/watch.bpf.o: profiler/bpf/watch.bpf.c $(BUILD)/bpf.flags
	@mkdir -p $(@D)
	$(call say,BPF,$@)
	$(Q)$(BPF_CLANG) $(FLAGS_bpf) -MMD -MP -c $< -o $@

# Linked by itself it loses what is there for debuggers alone: nine tenths.
$(BPF_SKELETON): $(BUILD)/profiler/bpf/watch.bpf.o
	$(call say,SKEL,$@)
	$(Q)$(BPFTOOL) gen object $(@:.skel.h=.linked.o) $<
	$(Q)$(BPFTOOL) gen skeleton $(@:.skel.h=.linked.o) name watch_programs >$@

$(BUILD)/profiler/bpf/programs.o: $(BPF_SKELETON)
$(BUILD)/profiler/bpf/programs.o: private CFLAGS_ALL += -isystem $(BUILD)/profiler/bpf
