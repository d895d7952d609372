/*
 * profiler/cupti/records.h: converts CUPTI's activity records to events. Internal to profiler/cupti/.
 */
#ifndef KVS_PROFILER_CUPTI_RECORDS_H
#define KVS_PROFILER_CUPTI_RECORDS_H

#include "../format.h"
#include "../map.h"

#include <cupti.h>
#include <pthread.h>

/* State between records: NVTX ranges of which one end has been seen. */
struct prof_cupti_records {
	uint32_t pid;
	bool system_threads; /* CUPTI's thread ids are those of the kernel (cuptiSetThreadIdType()); otherwise they are ignored */
	pthread_mutex_t lock;
	struct prof_map open; /* by CUPTI's id of the range */
};

struct prof_cupti_event {
	struct kvs_event event;
	char name[PROF_MAX_STRING + 1]; /* storage for event.span.name */
};

/* The kinds to enable, terminated by 0. */
extern const CUpti_ActivityKind prof_cupti_kinds[];
/*
 * Convert a record. Returns false if there is no event for it. Strings point into the record, except span names, which
 * may be stored in `out`. `now_ns` is used as the time of records without a timestamp. Thread-safe. The two ends of a
 * range may come in either order.
 */
bool prof_cupti_record(struct prof_cupti_records *records, const CUpti_Activity *record, uint64_t now_ns,
	struct prof_cupti_event *out);
void prof_cupti_records_clear(struct prof_cupti_records *records);

#endif
