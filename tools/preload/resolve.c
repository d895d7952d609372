/*
 * tools/preload/resolve.c: stands between a program and the driver's functions: dlsym, dlvsym and cuGetProcAddress give
 * our hook where they would have given the driver's own function, and everything else unchanged.
 *
 * What counts is the address that the real call returns, never the name alone: so forms of a function that differ in
 * their arguments cannot be mixed up, and a library that has a function of the same name keeps it. A call that is
 * none of our business jumps to the real one, with its caller's return address still on the stack, because RTLD_NEXT
 * and RTLD_DEFAULT depend on that.
 */
#include "preload.h"

#include <dlfcn.h>
#include <pthread.h>
#include <stdlib.h>
#include <string.h>

static const struct hook {
	const char *name;
	void *ours;
	size_t offset; /* of the driver's own, in struct shim_real */
} hooks[] = {
#define HOOK(name) {#name, (void *)name, offsetof(struct shim_real, name)},
	SHIM_HOOKS(HOOK)
#undef HOOK
};
#define HOOK_COUNT (sizeof(hooks) / sizeof(*hooks))

static const struct {
	const char *name;
	size_t offset;
} calls[] = {
#define CALL(name) {#name, offsetof(struct shim_real, name)},
	SHIM_CALLS(CALL)
#undef CALL
};

typedef void *dlsym_fn(void *, const char *);
typedef void *dlvsym_fn(void *, const char *, const char *);

/* Where the forms of dlsym go on to; read by the jumps below. */
__attribute__((visibility("hidden"))) dlsym_fn *shim_next_dlsym;
__attribute__((visibility("hidden"))) dlsym_fn *shim_next_dlsym_old;
__attribute__((visibility("hidden"))) dlvsym_fn *shim_next_dlvsym;
__attribute__((visibility("hidden"))) dlvsym_fn *shim_next_dlvsym_old;

struct shim_real shim_real_table;
atomic_bool shim_real_ready;
static pthread_mutex_t real_lock = PTHREAD_MUTEX_INITIALIZER;

#ifdef __x86_64__
#define OLD_VERSION "GLIBC_2.2.5"
#else
#define OLD_VERSION "GLIBC_2.17"
#endif
#define NEW_VERSION "GLIBC_2.34"

bool shim_is_disabled(void)
{
	static atomic_int known; /* 0: not yet; 1: no; 2: yes */
	const char *value;
	int is = atomic_load_explicit(&known, memory_order_relaxed);

	if (!is) {
		value = getenv("KVSHARE_DISABLE");
		is = value && *value && !shim_same(value, "0") ? 2 : 1;
		atomic_store(&known, is);
	}
	return is == 2;
}

/* Since 2.34 they are in libc, which keeps the old versions; before, in libdl, with the old version alone. */
static void *glibc_find(const char *name, const char *version)
{
	static const char *const libraries[] = {"libc.so.6", "libdl.so.2"};
	void *found = NULL;

	for (size_t i = 0; i < 2 && !found; i++)
		found = shim_elf_find(libraries[i], name, version);
	for (size_t i = 0; i < 2 && !found; i++)
		found = shim_elf_find(libraries[i], name, OLD_VERSION);
	return found;
}

/* Several threads may do it at once, with the same result. */
static void glibc_resolve(void)
{
	shim_next_dlsym_old = glibc_find("dlsym", OLD_VERSION);
	shim_next_dlvsym = glibc_find("dlvsym", NEW_VERSION);
	shim_next_dlvsym_old = glibc_find("dlvsym", OLD_VERSION);
	__atomic_store_n(&shim_next_dlsym, glibc_find("dlsym", NEW_VERSION), __ATOMIC_RELEASE);
}

void *shim_dlsym(void *handle, const char *name)
{
	if (!__atomic_load_n(&shim_next_dlsym, __ATOMIC_ACQUIRE))
		glibc_resolve();
	return shim_next_dlsym ? shim_next_dlsym(handle, name) : NULL;
}

void *shim_real_symbol(void *arg, const char *name)
{
	(void)arg;
	return shim_real_table.library ? shim_dlsym(shim_real_table.library, name) : NULL;
}

/* The program's driver where it is loaded already, by whatever path; else what the loader would give the program. */
static void *library_open(bool load)
{
	void *library = dlopen("libcuda.so.1", RTLD_LAZY | RTLD_NOLOAD);

	return library || !load ? library : dlopen("libcuda.so.1", RTLD_LAZY);
}

static void slot_fill(size_t offset, void *function)
{
	memcpy((char *)&shim_real_table + offset, &function, sizeof(function));
}

static bool real_fill(bool load)
{
	pthread_mutex_lock(&real_lock);
	if (!atomic_load(&shim_real_ready) && (shim_real_table.library = library_open(load))) {
		for (size_t i = 0; i < HOOK_COUNT; i++)
			slot_fill(hooks[i].offset, shim_dlsym(shim_real_table.library, hooks[i].name));
		for (size_t i = 0; i < sizeof(calls) / sizeof(*calls); i++)
			slot_fill(calls[i].offset, shim_dlsym(shim_real_table.library, calls[i].name));
		atomic_store_explicit(&shim_real_ready, true, memory_order_release);
	}
	pthread_mutex_unlock(&real_lock);
	return atomic_load(&shim_real_ready);
}

const struct shim_real *shim_real_find(void)
{
	real_fill(true);
	return &shim_real_table;
}

static void *real_of(const struct hook *hook)
{
	void *function;

	memcpy(&function, (char *)&shim_real_table + hook->offset, sizeof(function));
	return function;
}

/* Our hook for a function that the driver has at `address`, or the address itself. */
static void *hook_of_address(void *address)
{
	for (size_t i = 0; i < HOOK_COUNT; i++)
		if (address && real_of(&hooks[i]) == address)
			return hooks[i].ours;
	return address;
}

/* A function of the driver's that we have a hook for: cuda's names are "cu" and a capital, unlike cublas's and cudnn's. */
static const struct hook *hook_of_name(const char *name)
{
	if (name[0] != 'c' || name[1] != 'u' || name[2] < 'A' || name[2] > 'Z')
		return NULL;
	for (size_t i = 0; i < HOOK_COUNT; i++)
		if (shim_same(hooks[i].name, name))
			return &hooks[i];
	return NULL;
}

/*
 * Our hook, if `name` in `handle` is the driver's function of that name; NULL: the real call has the answer. RTLD_NEXT
 * and RTLD_DEFAULT depend on the caller, and find our exported hooks by themselves.
 */
__attribute__((visibility("hidden"))) void *shim_dlsym_answer(void *handle, const char *name);
void *shim_dlsym_answer(void *handle, const char *name)
{
	const struct hook *hook;
	void *found;

	if (!__atomic_load_n(&shim_next_dlsym, __ATOMIC_ACQUIRE))
		glibc_resolve();
	if (handle == RTLD_NEXT || handle == RTLD_DEFAULT || !name)
		return NULL;
	hook = hook_of_name(name);
	if (!hook || shim_is_disabled())
		return NULL;
	if (!atomic_load_explicit(&shim_real_ready, memory_order_acquire) && !real_fill(false))
		return NULL;
	struct shim_timer timer SHIM_TIMED = shim_timer_start(SHIM_SYMBOLS);
	found = shim_dlsym(handle, name);
	return found && found == real_of(hook) ? hook->ours : NULL;
}

/* ---- the exported forms: ask for our answer, else jump to the real one as if we had never been there ---- */

#if defined(__x86_64__)
#define FORM(label, next)                                                                                              \
	__asm__(".text\n.p2align 4\n.globl " #label "\n.type " #label ",@function\n" #label ":\n"                      \
		"\tendbr64\n\tpushq %rdi\n\tpushq %rsi\n\tpushq %rdx\n"                                                \
		"\tcall shim_dlsym_answer\n"                                                                           \
		"\tpopq %rdx\n\tpopq %rsi\n\tpopq %rdi\n"                                                              \
		"\ttestq %rax, %rax\n\tjne 1f\n"                                                                       \
		"\tjmpq *" #next "(%rip)\n1:\tret\n"                                                                   \
		".size " #label ", .-" #label "\n")
#elif defined(__aarch64__)
#define FORM(label, next)                                                                                              \
	__asm__(".text\n.p2align 4\n.globl " #label "\n.type " #label ",%function\n" #label ":\n"                      \
		"\tstp x29, x30, [sp, #-48]!\n\tstp x0, x1, [sp, #16]\n\tstr x2, [sp, #32]\n"                          \
		"\tbl shim_dlsym_answer\n\tmov x9, x0\n"                                                               \
		"\tldp x0, x1, [sp, #16]\n\tldr x2, [sp, #32]\n\tldp x29, x30, [sp], #48\n"                            \
		"\tcbnz x9, 1f\n\tadrp x9, " #next "\n\tldr x9, [x9, :lo12:" #next "]\n\tbr x9\n"                      \
		"1:\tmov x0, x9\n\tret\n"                                                                              \
		".size " #label ", .-" #label "\n")
#endif

FORM(shim_form_dlsym, shim_next_dlsym);
FORM(shim_form_dlsym_old, shim_next_dlsym_old);
FORM(shim_form_dlvsym, shim_next_dlvsym);
FORM(shim_form_dlvsym_old, shim_next_dlvsym_old);

__asm__(".symver shim_form_dlsym, dlsym@@GLIBC_2.34");
__asm__(".symver shim_form_dlvsym, dlvsym@@GLIBC_2.34");
#ifdef __x86_64__
__asm__(".symver shim_form_dlsym_old, dlsym@GLIBC_2.2.5");
__asm__(".symver shim_form_dlvsym_old, dlvsym@GLIBC_2.2.5");
#else
__asm__(".symver shim_form_dlsym_old, dlsym@GLIBC_2.17");
__asm__(".symver shim_form_dlvsym_old, dlvsym@GLIBC_2.17");
#endif

/* ---- cuGetProcAddress ---- */

CUresult CUDAAPI cuGetProcAddress(const char *symbol, void **pfn, int cudaVersion, cuuint64_t flags)
{
	struct shim_timer timer SHIM_TIMED = shim_timer_start(SHIM_SYMBOLS);
	const struct shim_real *driver = shim_real();
	CUresult result;

	if (!driver->cuGetProcAddress)
		return SHIM_ABSENT;
	result = driver->cuGetProcAddress(symbol, pfn, cudaVersion, flags);
	if (!result && pfn && !shim_is_disabled())
		*pfn = hook_of_address(*pfn);
	return result;
}

CUresult CUDAAPI cuGetProcAddress_v2(
	const char *symbol, void **pfn, int cudaVersion, cuuint64_t flags, CUdriverProcAddressQueryResult *symbolStatus)
{
	struct shim_timer timer SHIM_TIMED = shim_timer_start(SHIM_SYMBOLS);
	const struct shim_real *driver = shim_real();
	CUresult result;

	if (!driver->cuGetProcAddress_v2)
		return SHIM_ABSENT;
	result = driver->cuGetProcAddress_v2(symbol, pfn, cudaVersion, flags, symbolStatus);
	if (!result && pfn && !shim_is_disabled())
		*pfn = hook_of_address(*pfn);
	return result;
}
