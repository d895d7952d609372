# The shim. It lives in other people's programs, so everything that it needs is linked into it, and it exports its hooks alone.
PRELOAD = $(BUILD)/libkvshare-preload.so
PRELOAD_OBJS = $(patsubst %.c,$(BUILD)/%.o,$(wildcard tools/preload/*.c))
BUILD_PRODUCTS += $(PRELOAD)
# A sanitizer calls dlsym, which is ours, before it is ready for code that it checks.
$(addprefix $(BUILD)/tools/preload/,resolve.o elf.o): private SAN_FLAGS =
$(PRELOAD_OBJS): private CFLAGS_ALL += -fvisibility=hidden

# Of driver/, vmm/ and profiler/ it gets what it uses, through an archive: that needs no other library; zlib's checksum is linked in too. nodelete: its exit handler and the
# pointers that programs got from it outlive a dlclose.
$(BUILD)/tools/preload/parts.a: $(DRIVER_OBJS) $(VMM_OBJS) $(addprefix $(BUILD)/profiler/,write.o encode.o intern.o process.o)
	$(call say,AR,$@)
	$(Q)rm -f $@ && $(AR) rcs $@ $^
# Functions that glibc has had anew since 2.31: glibc.c has them in their old versions. A sanitizer has its own of some.
PRELOAD_OLD = dlopen dlclose dlerror pthread_create pthread_join pthread_once pthread_key_create pthread_setspecific pthread_sigmask pthread_condattr_setclock \
	pthread_rwlock_rdlock pthread_rwlock_wrlock pthread_rwlock_unlock stat fstat
PRELOAD_LINK = $(if $(SAN_FLAGS),-ldl,-Wl,--no-undefined $(addprefix -Wl$(comma)--wrap=,$(PRELOAD_OLD)) \
	-Wl,--no-as-needed -l:libpthread.so.0 -l:libdl.so.2)
$(PRELOAD): $(PRELOAD_OBJS) $(BUILD)/tools/preload/parts.a tools/preload/preload.map
	$(call say,LD,$@)
	$(Q)$(CC) -shared -Wl,-soname,$(notdir $@) -Wl,--version-script=tools/preload/preload.map -Wl,-Bsymbolic -Wl,-z,nodelete \
		-o $@ $(PRELOAD_OBJS) $(BUILD)/tools/preload/parts.a $(LINK_FLAGS) -l:libz.a $(PRELOAD_LINK)
