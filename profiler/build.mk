include profiler/bpf/build.mk profiler/report/build.mk
# Names of functions and lines in reports: by elfutils, if it is there.
ifeq ($(origin LIBDW),undefined)
LIBDW := $(shell pkg-config --exists libdw 2>/dev/null && echo -ldw -lelf)
endif
$(BUILD)/profiler/symbols.o: private CFLAGS_ALL += $(if $(LIBDW),-DPROF_LIBDW)
# Names of C++ in plain words.
LIBIBERTY := $(if $(wildcard /usr/include/libiberty/demangle.h /usr/local/include/libiberty/demangle.h),-liberty)
$(BUILD)/profiler/demangle.o: private CFLAGS_ALL += $(if $(LIBIBERTY),-DPROF_LIBIBERTY)
PROFILER_OBJS = $(patsubst %.c,$(BUILD)/%.o,$(wildcard profiler/*.c) $(BPF_SRCS)) $(PAGE_OBJS)

# The library for CUDA_INJECTION64_PATH. It is built if CUPTI's headers are there: a toolkit has them among its own or in a
# folder of their own. libcupti is opened at run time; everything else that the library needs is linked into it.
CUPTI_INCLUDE = $(patsubst %/cupti.h,%,$(firstword $(wildcard $(addprefix $(CUDA)/,include/cupti.h extras/CUPTI/include/cupti.h))))
CUPTI_FLAGS = $(if $(filter-out $(CUDA)/include,$(CUPTI_INCLUDE)),-isystem $(CUPTI_INCLUDE))
CUPTI_OBJS = $(patsubst %.c,$(BUILD)/%.o,$(wildcard profiler/cupti/*.c))
CUPTI_NEEDS = $(addprefix $(BUILD)/,profiler/write.o profiler/encode.o profiler/intern.o profiler/map.o profiler/libcupti.o profiler/process.o driver/error.o)
$(CUPTI_OBJS): private CFLAGS_ALL += $(CUPTI_FLAGS) -fvisibility=hidden

ifneq ($(CUPTI_INCLUDE),)
LIBKVSHARE_CUPTI = $(BUILD)/libkvshare-cupti.so
BUILD_PRODUCTS += $(LIBKVSHARE_CUPTI)
endif
# nodelete: its threads and callbacks outlive a dlclose.
LINK_CUPTI = $(CC) -shared -Wl,--version-script=profiler/cupti/cupti.map -Wl,-z,nodelete
$(BUILD)/libkvshare-cupti.so: $(CUPTI_OBJS) $(CUPTI_NEEDS) profiler/cupti/cupti.map
	$(call say,LD,$@)
	$(Q)$(LINK_CUPTI) -o $@ $(CUPTI_OBJS) $(CUPTI_NEEDS) $(LINK_FLAGS) -lz -ldl

# The same, linked with libcupti where there is one, to check names and types against NVIDIA's library.
CUPTI_LIBRARY = $(firstword $(wildcard $(foreach dir,lib64 lib extras/CUPTI/lib64,$(addprefix $(CUDA)/$(dir)/,libcupti.so libcupti.so.13 libcupti.so.12))))
CUPTI_LINKED = $(if $(and $(CUPTI_INCLUDE),$(CUPTI_LIBRARY)),$(BUILD)/profiler/cupti/linked.so)
$(BUILD)/profiler/cupti/linked.so: profiler/cupti/library.c $(CUPTI_OBJS) $(CUPTI_NEEDS)
	$(call say,LD,$@)
	$(Q)$(LINK_CUPTI) $(filter-out -MMD -MP,$(CFLAGS_ALL)) $(CUPTI_FLAGS) -DPROF_CUPTI_LINKED $(if $(SAN_FLAGS),,-Wl,--no-undefined) -o $@ $< \
		$(filter-out %/library.o,$(CUPTI_OBJS)) $(CUPTI_NEEDS) $(LINK_FLAGS) $(CUPTI_LIBRARY) -lz -ldl
