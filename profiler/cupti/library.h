/*
 * profiler/cupti/library.h: the functions of libcupti that are called. Internal to profiler/cupti/.
 */
#ifndef KVS_PROFILER_CUPTI_LIBRARY_H
#define KVS_PROFILER_CUPTI_LIBRARY_H

#include <cupti.h>

/* clang-format off */
/* All of these are needed. */
#define PROF_CUPTI_FUNCTIONS(F)                                                                                        \
	F(cuptiSubscribe) F(cuptiUnsubscribe) F(cuptiEnableCallback) F(cuptiGetResultString)                           \
	F(cuptiActivityEnable) F(cuptiActivityRegisterCallbacks) F(cuptiActivityRegisterTimestampCallback)             \
	F(cuptiActivitySetAttribute) F(cuptiActivityFlushAll) F(cuptiActivityGetNextRecord)                            \
	F(cuptiActivityGetNumDroppedRecords)
/* clang-format on */

/* The functions outside the list are optional (NULL if missing), as older versions lack them; so does their cupti.h. */
struct prof_cupti {
#define PROF_CUPTI_MEMBER(name) __typeof__(name) *name;
	PROF_CUPTI_FUNCTIONS(PROF_CUPTI_MEMBER)
#undef PROF_CUPTI_MEMBER
	CUptiResult (*cuptiActivityFlushPeriod)(uint32_t ms);
	CUptiResult (*cuptiActivityEnableAllSyncRecords)(uint8_t enable);
	CUptiResult (*cuptiSetThreadIdType)(CUpti_ActivityThreadIdType type);
#ifdef CUPTI_SUBSCRIBER_NAME_MAX_LEN
	CUptiResult (*cuptiSubscribe_v2)(
		CUpti_SubscriberHandle *, CUpti_CallbackFunc, void *userdata, CUpti_SubscriberParams *);
#endif
};

/*
 * Open libcupti (prof_libcupti_open()) and find its functions. Returns 0, or -ENOENT if there is none or it lacks one.
 */
int prof_cupti_open(struct prof_cupti *out);
/* Calls kvs_fail() with CUPTI's name for `result`; returns -EIO. */
int prof_cupti_fail(const struct prof_cupti *cupti, CUptiResult result, const char *what);

#endif
