/*
 * profiler/cupti/library.c: libcupti's functions, found at run time, so that the target also starts on machines without it.
 * With PROF_CUPTI_LINKED they are linked instead; the build uses that to check names and types (build.mk).
 */
#include "library.h"

#include "../../driver/cu.h"
#include "../libcupti.h"

#include <dlfcn.h>
#include <errno.h>

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
	void *library = prof_libcupti_open();

	if (!library)
		return -ENOENT;
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
