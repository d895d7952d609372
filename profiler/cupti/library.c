/*
 * profiler/cupti/library.c: opens libcupti at run time, so that the target also starts on machines without it.
 *
 * A copy that is loaded already comes first: PyTorch brings its own, and two in one process would not know of each other.
 * With PROF_CUPTI_LINKED the functions are linked instead; the build uses that to check names and types (build.mk).
 */
#include "library.h"

#include "../../driver/cu.h"

#include <dlfcn.h>
#include <errno.h>
#include <stdlib.h>

/* CUDA 13 and 12: the fields of the records that are used (records.c) have the same offsets in both. */
static const char *const names[] = {"libcupti.so.13", "libcupti.so.12"};
static const char *const places[] = {"libcupti.so.13", "libcupti.so.12", "/usr/local/cuda/lib64/libcupti.so",
	"/usr/local/cuda/extras/CUPTI/lib64/libcupti.so", "/opt/cuda/lib64/libcupti.so",
	"/opt/cuda/extras/CUPTI/lib64/libcupti.so"};

static void *open_any(void)
{
	const char *asked = getenv("KVSHARE_CUPTI");
	void *library = NULL;

	if (asked && *asked)
		return dlopen(asked, RTLD_NOW | RTLD_NODELETE);
	for (size_t i = 0; i < sizeof(names) / sizeof(*names) && !library; i++)
		library = dlopen(names[i], RTLD_NOW | RTLD_NODELETE | RTLD_NOLOAD);
	for (size_t i = 0; i < sizeof(places) / sizeof(*places) && !library; i++)
		library = dlopen(places[i], RTLD_NOW | RTLD_NODELETE);
	return library;
}

static int not_there(void)
{
	const char *asked = getenv("KVSHARE_CUPTI"), *reason = dlerror();

	if (asked && *asked)
		return kvs_fail(-ENOENT, "KVSHARE_CUPTI=%s cannot be loaded: %s", asked, reason ? reason : "no reason");
	return kvs_fail(-ENOENT,
		"there is no libcupti.so.13 or .12 here: it comes with the CUDA toolkit (extras/CUPTI); KVSHARE_CUPTI "
		"names one that lies elsewhere");
}

#ifdef PROF_CUPTI_LINKED
#define FIND(name) out->name = name;
#else
#define FIND(name)                                                                                                     \
	out->name = (__typeof__(out->name))dlsym(library, #name);                                                      \
	missing = out->name ? missing : #name;
#endif

int prof_cupti_open(struct prof_cupti *out)
{
	const char *missing = NULL;
	void *library = open_any();

	if (!library)
		return not_there();
	PROF_CUPTI_FUNCTIONS(FIND)
	out->cuptiActivityFlushPeriod =
		(__typeof__(out->cuptiActivityFlushPeriod))dlsym(library, "cuptiActivityFlushPeriod");
	out->cuptiActivityEnableAllSyncRecords =
		(__typeof__(out->cuptiActivityEnableAllSyncRecords))dlsym(library, "cuptiActivityEnableAllSyncRecords");
	out->cuptiSetThreadIdType = (__typeof__(out->cuptiSetThreadIdType))dlsym(library, "cuptiSetThreadIdType");
#ifdef CUPTI_SUBSCRIBER_NAME_MAX_LEN
	out->cuptiSubscribe_v2 = (__typeof__(out->cuptiSubscribe_v2))dlsym(library, "cuptiSubscribe_v2");
#endif
	return missing ? kvs_fail(-ENOENT, "libcupti lacks %s: it is too old", missing) : 0;
}

int prof_cupti_fail(const struct prof_cupti *cupti, CUptiResult result, const char *what)
{
	const char *words = NULL;

	if (cupti->cuptiGetResultString(result, &words))
		words = NULL;
	return kvs_fail(-EIO, "%s: %s (CUPTI's error %d)", what, words ? words : "no words", (int)result);
}
