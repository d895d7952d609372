/*
 * tests/profiler/cupti_fake.h: controls of the fake libcupti. The test loads the fake and finds cupti_fake() by dlsym.
 */
#ifndef KVS_TESTS_PROFILER_CUPTI_FAKE_H
#define KVS_TESTS_PROFILER_CUPTI_FAKE_H

#include <cupti.h>

struct cupti_fake {
	/* Another subscriber is active (NULL: none). Call it before anybody subscribes. */
	void (*incumbent)(const char *name);
	/* From now on this function returns `result`. NULL: none does. */
	void (*refuse)(const char *function, CUptiResult result);
	/* Run the subscriber's callback if it is enabled. Returns whether it is. */
	bool (*call)(CUpti_CallbackDomain domain, CUpti_CallbackId id, const void *data);
	/* Put a record into a buffer. Returns false if its kind is not enabled or there is no buffer. */
	bool (*record)(const void *record, size_t bytes);
	/* Cut the end off the last record in the buffer. */
	void (*tear)(void);
	/* Return the buffer to the subscriber, as CUPTI's own thread does. */
	void (*deliver)(void);
	void (*drop)(size_t records); /* count so many dropped records */
	/* The first rule of CUPTI that the subscriber broke; "" if none. */
	const char *(*complaint)(void);
	unsigned (*flushes)(void);                              /* number of calls of cuptiActivityFlushAll() */
	size_t (*attribute)(CUpti_ActivityAttribute attribute); /* its value, 0 if it was not set */
	uint64_t (*clock)(void);                                /* calls the registered timestamp callback */
};

const struct cupti_fake *cupti_fake(void);

#endif
