/*
 * profiler/cupti/records.c: converts CUPTI's activity records to events.
 *
 * Enabled are the kinds that show what callbacks do not: kernels with their time on the device (0.6 us per launch on an
 * H200, docs/measurements/h200.md), copies and fills, waits, overheads, and NVTX ranges. Not enabled: DRIVER and RUNTIME
 * (one more record per launch, and kernel records say more), MEMORY2 (the same calls as the callbacks, but without
 * handles, which show what is shared), GRAPH_TRACE (hides the kernels of a graph).
 *
 * CUPTI's structs grow at their end, and each version gets a new name. The structs used here are those of CUDA 12.4; those
 * of later versions begin with the same fields.
 */
#include "records.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* Open ranges that are remembered, so that a program that never closes them takes a bounded amount of memory. */
#define MOST_OPEN 65536

const CUpti_ActivityKind prof_cupti_kinds[] = {CUPTI_ACTIVITY_KIND_CONCURRENT_KERNEL, CUPTI_ACTIVITY_KIND_MEMCPY,
	CUPTI_ACTIVITY_KIND_MEMCPY2, CUPTI_ACTIVITY_KIND_MEMSET, CUPTI_ACTIVITY_KIND_SYNCHRONIZATION,
	CUPTI_ACTIVITY_KIND_OVERHEAD, CUPTI_ACTIVITY_KIND_MARKER, 0};

struct open_range {
	uint64_t time_ns;
	uint32_t tid;
	bool is_end; /* this is the end of the range, and its start has not been seen */
	char name[]; /* of a start */
};

static uint64_t duration(uint64_t start, uint64_t end)
{
	return end > start ? end - start : 0;
}

/* ---- what the device did ---- */

/* Both times are 0 if CUPTI could not measure them; only `end` is 0 if the record was flushed before it was complete. */
static void begin_event(struct kvs_event *out, enum kvs_event_type type, uint64_t start, uint64_t now_ns)
{
	out->type = type;
	out->time_ns = start ? start : now_ns;
}

static void read_kernel(const CUpti_ActivityKernel9 *record, uint64_t now_ns, struct kvs_event *out)
{
	begin_event(out, KVS_EVENT_KERNEL, record->start, now_ns);
	out->kernel.name = record->name ? record->name : "";
	out->kernel.duration_ns = record->start ? duration(record->start, record->end) : 0;
	out->kernel.stream = record->streamId;
	out->kernel.layer = -1;
}

static enum kvs_copy_kind copy_kind(uint8_t kind)
{
	switch (kind) {
	case CUPTI_ACTIVITY_MEMCPY_KIND_HTOD:
	case CUPTI_ACTIVITY_MEMCPY_KIND_HTOA:
		return KVS_COPY_HTOD;
	case CUPTI_ACTIVITY_MEMCPY_KIND_DTOH:
	case CUPTI_ACTIVITY_MEMCPY_KIND_ATOH:
		return KVS_COPY_DTOH;
	case CUPTI_ACTIVITY_MEMCPY_KIND_DTOD:
	case CUPTI_ACTIVITY_MEMCPY_KIND_DTOA:
	case CUPTI_ACTIVITY_MEMCPY_KIND_ATOD:
	case CUPTI_ACTIVITY_MEMCPY_KIND_ATOA:
		return KVS_COPY_DTOD;
	case CUPTI_ACTIVITY_MEMCPY_KIND_PTOP:
		return KVS_COPY_PTOP;
	default:
		return KVS_COPY_OTHER;
	}
}

/* The structs of copies, copies between devices and fills have these fields in common. */
#define READ_COPY(record, kind_of_copy)                                                                                \
	do {                                                                                                           \
		begin_event(event, KVS_EVENT_COPY, (record)->start, now_ns);                                           \
		event->copy.kind = (kind_of_copy);                                                                     \
		event->copy.bytes = (record)->bytes;                                                                   \
		event->copy.duration_ns = (record)->start ? duration((record)->start, (record)->end) : 0;              \
		event->copy.stream = (record)->streamId;                                                               \
	} while (0)

/* ---- what threads did ---- */

/* Reported as calls, as other sources do. CUPTI does not say which thread waited. */
static bool read_wait(const CUpti_ActivitySynchronization *record, uint64_t now_ns, struct kvs_event *out)
{
	static const char *const functions[] = {
		[CUPTI_ACTIVITY_SYNCHRONIZATION_TYPE_EVENT_SYNCHRONIZE] = "cuEventSynchronize",
		[CUPTI_ACTIVITY_SYNCHRONIZATION_TYPE_STREAM_WAIT_EVENT] = "cuStreamWaitEvent",
		[CUPTI_ACTIVITY_SYNCHRONIZATION_TYPE_STREAM_SYNCHRONIZE] = "cuStreamSynchronize",
		[CUPTI_ACTIVITY_SYNCHRONIZATION_TYPE_CONTEXT_SYNCHRONIZE] = "cuCtxSynchronize",
	};
	unsigned type = record->type;

	if (type >= sizeof(functions) / sizeof(*functions) || !functions[type])
		return false;
	begin_event(out, KVS_EVENT_CALL, record->start, now_ns);
	out->call.function = functions[type];
	out->call.duration_ns = record->start ? duration(record->start, record->end) : 0;
	out->call.address = out->call.bytes = out->call.handle = KVS_EVENT_NONE;
	return true;
}

static const char *overhead_name(CUpti_ActivityOverheadKind kind)
{
	switch ((int)kind) { /* numbers, because the cupti.h of CUDA 12.4 does not name all of them */
	case 1:
		return "JIT compilation";
	case 1 << 16:
		return "CUPTI: buffer flush";
	case 2 << 16:
		return "CUPTI: instrumentation";
	case 3 << 16:
		return "CUPTI: resource creation";
	case 4 << 16:
		return "module loading";
	case 5 << 16:
		return "lazy function loading";
	case 6 << 16:
		return "command buffer full";
	case 7 << 16:
		return "CUPTI: buffer request";
	case 8 << 16:
		return "CUPTI: managed memory setup";
	default:
		return "overhead";
	}
}

static uint32_t thread_of(
	const struct prof_cupti_records *records, CUpti_ActivityObjectKind kind, const CUpti_ActivityObjectKindId *id)
{
	return records->system_threads && kind == CUPTI_ACTIVITY_OBJECT_THREAD ? id->pt.threadId : 0;
}

static void read_overhead(const struct prof_cupti_records *records, const CUpti_ActivityOverhead3 *record,
	uint64_t now_ns, struct kvs_event *out)
{
	begin_event(out, KVS_EVENT_SPAN, record->start, now_ns);
	out->tid = thread_of(records, record->objectKind, &record->objectId);
	out->span.kind = KVS_SPAN_OVERHEAD;
	out->span.name = overhead_name(record->overheadKind);
	out->span.duration_ns = record->start ? duration(record->start, record->end) : 0;
}

/* ---- NVTX: a range has a record for each end, a mark has one ---- */

/* "domain: name"; the default domain has no name. */
static void put_name(char *out, size_t bytes, const CUpti_ActivityMarker2 *record)
{
	const char *domain = record->domain ? record->domain : "", *name = record->name ? record->name : "";

	snprintf(out, bytes, "%s%s%s", domain, *domain ? ": " : "", name);
}

static struct open_range *open_range_of(
	const struct prof_cupti_records *records, const CUpti_ActivityMarker2 *record, uint64_t time_ns)
{
	char name[PROF_MAX_STRING + 1] = "";
	struct open_range *range;

	if (records->open.count >= MOST_OPEN)
		return NULL;
	put_name(name, sizeof(name), record);
	range = malloc(sizeof(*range) + strlen(name) + 1);
	if (!range)
		return NULL;
	range->time_ns = time_ns;
	range->tid = thread_of(records, record->objectKind, &record->objectId);
	range->is_end = record->flags & CUPTI_ACTIVITY_FLAG_MARKER_END;
	strcpy(range->name, name);
	return range;
}

/* Call with the lock. Remembers this end, or completes the range if the other end is there. Buffers come in any order. */
static bool match_ends(struct prof_cupti_records *records, const CUpti_ActivityMarker2 *record, uint64_t time_ns,
	struct prof_cupti_event *out)
{
	bool is_end = record->flags & CUPTI_ACTIVITY_FLAG_MARKER_END;
	struct open_range *other = prof_map_get(&records->open, record->id);

	if (!other || other->is_end == is_end) {
		struct open_range *mine = open_range_of(records, record, time_ns), *old = NULL;
		if (mine && !prof_map_set(&records->open, record->id, mine, (void **)&old))
			free(mine);
		free(old); /* the id is used again; the earlier range was never closed */
		return false;
	}
	uint64_t start = is_end ? other->time_ns : time_ns, end = is_end ? time_ns : other->time_ns;
	begin_event(&out->event, KVS_EVENT_SPAN, start, time_ns);
	out->event.tid = is_end ? other->tid : thread_of(records, record->objectKind, &record->objectId);
	out->event.span.duration_ns = duration(start, end);
	if (is_end)
		strcpy(out->name, other->name);
	else
		put_name(out->name, sizeof(out->name), record);
	free(prof_map_remove(&records->open, record->id));
	return true;
}

static bool read_marker(struct prof_cupti_records *records, const CUpti_ActivityMarker2 *record, uint64_t now_ns,
	struct prof_cupti_event *out)
{
	uint64_t time_ns = record->timestamp ? record->timestamp : now_ns;
	bool complete = false;

	out->event.span.kind = KVS_SPAN_RANGE;
	out->event.span.name = out->name;
	if (record->flags & CUPTI_ACTIVITY_FLAG_MARKER_INSTANTANEOUS) {
		begin_event(&out->event, KVS_EVENT_SPAN, time_ns, now_ns);
		out->event.tid = thread_of(records, record->objectKind, &record->objectId);
		put_name(out->name, sizeof(out->name), record);
		complete = true;
	} else if (record->flags & (CUPTI_ACTIVITY_FLAG_MARKER_START | CUPTI_ACTIVITY_FLAG_MARKER_END)) {
		pthread_mutex_lock(&records->lock);
		complete = match_ends(records, record, time_ns, out);
		pthread_mutex_unlock(&records->lock);
	}
	return complete;
}

/* ---- any record ---- */

bool prof_cupti_record(
	struct prof_cupti_records *records, const CUpti_Activity *record, uint64_t now_ns, struct prof_cupti_event *out)
{
	struct kvs_event *event = &out->event;

	*event = (struct kvs_event){.pid = records->pid};
	switch (record->kind) {
	case CUPTI_ACTIVITY_KIND_KERNEL:
	case CUPTI_ACTIVITY_KIND_CONCURRENT_KERNEL:
		read_kernel((const CUpti_ActivityKernel9 *)record, now_ns, event);
		return true;
	case CUPTI_ACTIVITY_KIND_MEMCPY:
		READ_COPY((const CUpti_ActivityMemcpy5 *)record,
			copy_kind(((const CUpti_ActivityMemcpy5 *)record)->copyKind));
		return true;
	case CUPTI_ACTIVITY_KIND_MEMCPY2:
		READ_COPY((const CUpti_ActivityMemcpyPtoP4 *)record, KVS_COPY_PTOP);
		return true;
	case CUPTI_ACTIVITY_KIND_MEMSET:
		READ_COPY((const CUpti_ActivityMemset4 *)record, KVS_COPY_FILL);
		return true;
	case CUPTI_ACTIVITY_KIND_SYNCHRONIZATION:
		return read_wait((const CUpti_ActivitySynchronization *)record, now_ns, event);
	case CUPTI_ACTIVITY_KIND_OVERHEAD:
		read_overhead(records, (const CUpti_ActivityOverhead3 *)record, now_ns, event);
		return true;
	case CUPTI_ACTIVITY_KIND_MARKER:
		return read_marker(records, (const CUpti_ActivityMarker2 *)record, now_ns, out);
	default:
		return false;
	}
}

void prof_cupti_records_clear(struct prof_cupti_records *records)
{
	prof_map_clear(&records->open, free);
}
