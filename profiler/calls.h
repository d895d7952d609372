/*
 * profiler/calls.h: what a function of the driver does to memory. Internal to profiler/.
 */
#ifndef KVS_PROFILER_CALLS_H
#define KVS_PROFILER_CALLS_H

/* Which fields of the event say what is in docs/trace.md. */
enum prof_call_class {
	PROF_CALL_OTHER,
	PROF_CALL_ALLOC, /* device memory, addresses and all */
	PROF_CALL_FREE,
	PROF_CALL_ALLOC_HOST,
	PROF_CALL_FREE_HOST,
	PROF_CALL_RESERVE,
	PROF_CALL_UNRESERVE,
	PROF_CALL_CREATE,
	PROF_CALL_RETAIN,
	PROF_CALL_RELEASE,
	PROF_CALL_MAP,
	PROF_CALL_UNMAP,
	PROF_CALL_ACCESS,
	PROF_CALL_COPY, /* copies and sets: `address` is written */
	PROF_CALL_SYNCHRONIZE,
	PROF_CALL_LAUNCH
};

/* Of a name as the driver exports it, version and stream variant included ("cuMemAllocAsync_ptsz"). */
enum prof_call_class prof_call_class_of(const char *function);

#endif
