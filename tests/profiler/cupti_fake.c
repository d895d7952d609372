/*
 * tests/profiler/cupti_fake.c: a libcupti.so.13 for tests. It has the functions that the library calls, checks CUPTI's rules
 * for them, and is controlled by the test. FAKE_old leaves out the functions that older versions lack, FAKE_broken one
 * that the library needs.
 */
#include <errno.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "cupti_fake.h"

#define MOST_ENABLED 256

static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER; /* as in CUPTI, held while a buffer is requested */
static const char *incumbent_name, *failing;
static CUptiResult failing_result;
static CUpti_CallbackFunc subscriber;
static struct {
	CUpti_CallbackDomain domain;
	CUpti_CallbackId id;
} enabled[MOST_ENABLED];
static unsigned enabled_count;
static atomic_uint flush_count;
static bool kinds[CUPTI_ACTIVITY_KIND_COUNT];
static size_t attributes[64], dropped;
static CUpti_BuffersCallbackRequestFunc request;
static CUpti_BuffersCallbackCompleteFunc complete;
static CUpti_TimestampCallbackFunc clock_of;
static uint8_t *buffer;
static size_t buffer_bytes, buffer_used;
static char complaint_text[256];
static __thread bool in_buffer_callback;

static void demand(bool holds, const char *rule)
{
	if (!holds && !*complaint_text)
		snprintf(complaint_text, sizeof(complaint_text), "%s", rule);
}

#define ANSWER(function)                                                                                               \
	do {                                                                                                           \
		demand(!in_buffer_callback, #function " was called while a buffer was asked for");                     \
		if (failing && !strcmp(failing, #function))                                                            \
			return failing_result;                                                                         \
	} while (0)

/* ---- what CUPTI exports ---- */

static CUptiResult take_subscriber(CUpti_SubscriberHandle *out, CUpti_CallbackFunc callback)
{
	if (incumbent_name || subscriber)
		return CUPTI_ERROR_MULTIPLE_SUBSCRIBERS_NOT_SUPPORTED;
	subscriber = callback;
	*out = (CUpti_SubscriberHandle)&subscriber;
	return CUPTI_SUCCESS;
}

CUptiResult cuptiSubscribe(CUpti_SubscriberHandle *out, CUpti_CallbackFunc callback, void *arg)
{
	(void)arg;
	ANSWER(cuptiSubscribe);
	return take_subscriber(out, callback);
}

#if defined(CUPTI_SUBSCRIBER_NAME_MAX_LEN) && !defined(FAKE_old)
CUptiResult cuptiSubscribe_v2(
	CUpti_SubscriberHandle *out, CUpti_CallbackFunc callback, void *arg, CUpti_SubscriberParams *params)
{
	(void)arg;
	ANSWER(cuptiSubscribe_v2);
	demand(params->structSize == CUpti_SubscriberParams_STRUCT_SIZE, "the size of the parameters is wrong");
	demand(params->oldSubscriberSize >= CUPTI_OLD_SUBSCRIBER_NAME_MIN_LEN, "no room for the incumbent's name");
	if (incumbent_name)
		snprintf(params->oldSubscriberName, params->oldSubscriberSize, "%s", incumbent_name);
	return take_subscriber(out, callback);
}
#endif

CUptiResult cuptiUnsubscribe(CUpti_SubscriberHandle handle)
{
	demand(handle == (CUpti_SubscriberHandle)&subscriber && subscriber, "somebody else was unsubscribed");
	subscriber = NULL;
	return CUPTI_SUCCESS;
}

CUptiResult cuptiEnableCallback(
	uint32_t enable, CUpti_SubscriberHandle handle, CUpti_CallbackDomain domain, CUpti_CallbackId id)
{
	ANSWER(cuptiEnableCallback);
	demand(handle == (CUpti_SubscriberHandle)&subscriber, "callbacks are enabled for somebody else");
	if (!enable || enabled_count == MOST_ENABLED)
		return CUPTI_ERROR_INVALID_PARAMETER;
	enabled[enabled_count].domain = domain;
	enabled[enabled_count++].id = id;
	return CUPTI_SUCCESS;
}

CUptiResult cuptiActivityEnable(CUpti_ActivityKind kind)
{
	ANSWER(cuptiActivityEnable);
	demand(clock_of != NULL, "a kind was enabled before the clock was there");
	demand(request != NULL, "a kind was enabled before there were buffers");
	kinds[kind] = true;
	return CUPTI_SUCCESS;
}

CUptiResult cuptiActivitySetAttribute(CUpti_ActivityAttribute attribute, size_t *bytes, void *value)
{
	bool one_byte = attribute == CUPTI_ACTIVITY_ATTR_MEM_ALLOCATION_TYPE_HOST_PINNED;

	ANSWER(cuptiActivitySetAttribute);
	demand(!request, "an attribute was set after the buffers");
	demand(*bytes == (one_byte ? 1 : sizeof(size_t)), "an attribute has another size");
	attributes[attribute] = one_byte ? *(uint8_t *)value : *(size_t *)value;
	return CUPTI_SUCCESS;
}

CUptiResult cuptiActivityRegisterCallbacks(
	CUpti_BuffersCallbackRequestFunc asks, CUpti_BuffersCallbackCompleteFunc gives)
{
	ANSWER(cuptiActivityRegisterCallbacks);
	request = asks;
	complete = gives;
	return CUPTI_SUCCESS;
}

CUptiResult cuptiActivityRegisterTimestampCallback(CUpti_TimestampCallbackFunc tells)
{
	ANSWER(cuptiActivityRegisterTimestampCallback);
	clock_of = tells;
	return CUPTI_SUCCESS;
}

/* Calls the subscriber without the lock. */
static void deliver(void)
{
	uint8_t *full;
	size_t bytes, used;

	pthread_mutex_lock(&lock);
	full = buffer;
	bytes = buffer_bytes;
	used = buffer_used;
	buffer = NULL;
	pthread_mutex_unlock(&lock);
	if (full)
		complete(NULL, 0, full, bytes, used);
}

CUptiResult cuptiActivityFlushAll(uint32_t flag)
{
	(void)flag;
	ANSWER(cuptiActivityFlushAll);
	flush_count++;
	deliver();
	return CUPTI_SUCCESS;
}

#ifndef FAKE_broken
CUptiResult cuptiActivityGetNumDroppedRecords(CUcontext context, uint32_t stream, size_t *out)
{
	ANSWER(cuptiActivityGetNumDroppedRecords);
	demand(!context && !stream, "dropped records are asked for of a queue");
	pthread_mutex_lock(&lock);
	*out = dropped;
	dropped = 0;
	pthread_mutex_unlock(&lock);
	return CUPTI_SUCCESS;
}
#endif

/* In the fake's buffers each record is preceded by its size (8 bytes). */
CUptiResult cuptiActivityGetNextRecord(uint8_t *from, size_t bytes, CUpti_Activity **record)
{
	uint8_t *at = *record ? (uint8_t *)*record + ((uint64_t *)*record)[-1] : from;
	uint64_t size;

	ANSWER(cuptiActivityGetNextRecord);
	if (at >= from + bytes)
		return CUPTI_ERROR_MAX_LIMIT_REACHED;
	memcpy(&size, at, sizeof(size));
	if (sizeof(size) + size > (size_t)(from + bytes - at))
		return CUPTI_ERROR_INVALID_KIND;
	*record = (CUpti_Activity *)(at + sizeof(size));
	return CUPTI_SUCCESS;
}

CUptiResult cuptiGetResultString(CUptiResult result, const char **out)
{
	*out = result == CUPTI_ERROR_NOT_INITIALIZED ? "CUPTI_ERROR_NOT_INITIALIZED" : "CUPTI_ERROR_OF_THE_FAKE";
	return CUPTI_SUCCESS;
}

#ifndef FAKE_old
CUptiResult cuptiActivityFlushPeriod(uint32_t ms)
{
	demand(ms > 0 && ms <= 1000, "the period of flushing is odd");
	return CUPTI_SUCCESS;
}

CUptiResult cuptiSetThreadIdType(CUpti_ActivityThreadIdType type)
{
	demand(type == CUPTI_ACTIVITY_THREAD_ID_TYPE_SYSTEM, "the type of thread ids is odd");
	return CUPTI_SUCCESS;
}
#endif

/* ---- controls ---- */

static void set_incumbent(const char *name)
{
	incumbent_name = name;
}

static void set_failing(const char *function, CUptiResult result)
{
	failing = function;
	failing_result = result;
}

static bool raise_call(CUpti_CallbackDomain domain, CUpti_CallbackId id, const void *data)
{
	for (unsigned i = 0; i < enabled_count && subscriber; i++) {
		if (enabled[i].domain == domain && enabled[i].id == id) {
			subscriber(NULL, domain, id, data);
			return true;
		}
	}
	return false;
}

static bool put_record(const void *record, size_t bytes)
{
	unsigned kind = *(const CUpti_ActivityKind *)record;
	uint64_t size = (bytes + 7) / 8 * 8;
	bool full, put;

	if (kind < CUPTI_ACTIVITY_KIND_COUNT && !kinds[kind])
		return false;
	pthread_mutex_lock(&lock);
	full = buffer && buffer_used + sizeof(size) + size > buffer_bytes;
	pthread_mutex_unlock(&lock);
	if (full)
		deliver();
	pthread_mutex_lock(&lock);
	if (!buffer) {
		size_t most = 1;
		in_buffer_callback = true;
		request(&buffer, &buffer_bytes, &most);
		in_buffer_callback = false;
		demand(most == 0 && (uintptr_t)buffer % 8 == 0, "a buffer is not what CUPTI needs");
		buffer_used = 0;
	}
	put = buffer != NULL;
	if (put) {
		memcpy(buffer + buffer_used, &size, sizeof(size));
		memset(buffer + buffer_used + sizeof(size), 0, size);
		memcpy(buffer + buffer_used + sizeof(size), record, bytes);
		buffer_used += sizeof(size) + size;
	}
	pthread_mutex_unlock(&lock);
	return put;
}

static void tear_buffer(void)
{
	pthread_mutex_lock(&lock);
	buffer_used -= 8;
	pthread_mutex_unlock(&lock);
}

static void drop_records(size_t records)
{
	pthread_mutex_lock(&lock);
	dropped += records;
	pthread_mutex_unlock(&lock);
}

static const char *first_complaint(void)
{
	return complaint_text;
}

static unsigned count_flushes(void)
{
	return flush_count;
}

static size_t attribute_of(CUpti_ActivityAttribute attribute)
{
	return attributes[attribute];
}

static uint64_t clock_now(void)
{
	return clock_of();
}

const struct cupti_fake *cupti_fake(void)
{
	static const struct cupti_fake controls = {set_incumbent, set_failing, raise_call, put_record, tear_buffer,
		deliver, drop_records, first_complaint, count_flushes, attribute_of, clock_now};

	return &controls;
}
