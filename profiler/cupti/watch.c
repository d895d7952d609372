/*
 * profiler/cupti/watch.c: records what this process does, by means of CUPTI.
 *
 * Calls come from callbacks, on the calling thread. Work of the device comes as records in buffers that CUPTI fills. CUPTI
 * itself returns only full buffers, even with a flush period, so a thread flushes all complete ones every FLUSH_MS: a process
 * that is killed loses at most the events of that time and of the trace's own flush period. CUPTI is never called with a
 * lock held.
 *
 * CUPTI keeps kernel timestamps in buffers of its own. They are placed in pinned host memory and kept small and few, so that
 * the profiler takes almost no device memory. The state is global because CUPTI's buffer callbacks have no user argument.
 */
#include "watch.h"

#include "../../driver/cu.h"
#include "callbacks.h"
#include "library.h"
#include "process.h"
#include "records.h"

#include <errno.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define FLUSH_MS 100
#define MEMORY_MS 100 /* least time between two samples of the free memory */
#define JOIN_MS 2000  /* longest wait for CUPTI at exit */
/* Room for about 300 kernels. Small, because CUPTI does not return a buffer with a kernel that is still running. */
#define BUFFER_BYTES ((size_t)64 << 10)
#define MOST_SPARE 32 /* buffers kept for reuse */
/* CUPTI's timestamp buffers, at 32 bytes per kernel. The defaults are 3.2 MB each, up to 250, in device memory. */
#define TIMES_BYTES ((size_t)1 << 20)
#define TIMES_FIRST ((size_t)2)
#define TIMES_MOST ((size_t)8)

static struct {
	struct prof_cupti cupti;
	struct prof_cupti_records records;
	CUpti_SubscriberHandle subscriber;
	kvs_trace *trace;
	uint64_t device_bytes;      /* device memory taken by CUPTI's buffers */
	atomic_bool recording;      /* callbacks add events */
	atomic_bool cupti_up;       /* CUPTI may be called */
	atomic_bool cupti_died;     /* it reported a fatal error */
	atomic_bool has_buffer;     /* CUPTI has requested one, so there is something to flush */
	atomic_int introduced;      /* process events in the trace: 1 without the device, 2 with it */
	_Atomic uint64_t memory_ns; /* time of the last memory sample */
	pthread_t flusher;
	pthread_mutex_t lock; /* protects what follows */
	pthread_cond_t stop;
	bool stopping;
	uint8_t *spare[MOST_SPARE];
	unsigned spare_count;
} watch = {.lock = PTHREAD_MUTEX_INITIALIZER, .records.lock = PTHREAD_MUTEX_INITIALIZER};

/* Address of the last driver call recorded on this thread since the start of a runtime call. */
#define NO_CALL (KVS_EVENT_NONE - 1)
static __thread uint64_t last_address;
static __thread uint32_t thread_id; /* 0: not asked yet */

/* ---- the process ---- */

static void add(const struct kvs_event *event)
{
	kvs_trace_add(watch.trace, event);
}

/* Adds the process event before the first other event, and once more when there is a context, which has a device. */
static void introduce(bool has_context)
{
	struct prof_cupti_process process;
	int level = has_context ? 2 : 1;

	if (atomic_load_explicit(&watch.introduced, memory_order_acquire) >= level)
		return;
	prof_cupti_describe_process(&process, has_context); /* calls the driver: not under the lock */
	pthread_mutex_lock(&watch.lock);
	if (atomic_load(&watch.introduced) < level) {
		add(&process.event);
		if (watch.device_bytes && !atomic_load(&watch.introduced))
			add(&(struct kvs_event){.type = KVS_EVENT_LABEL,
				.pid = process.event.pid,
				.time_ns = process.event.time_ns,
				.label = {0, watch.device_bytes, KVS_MEMORY_PROFILER, -1, -1}});
		atomic_store_explicit(&watch.introduced, level, memory_order_release);
	}
	pthread_mutex_unlock(&watch.lock);
}

/* Free memory shows what the calls do not: contexts, kernels, other processes. At most once per MEMORY_MS. */
static void sample_memory(void)
{
	uint64_t now = prof_cupti_now_ns(), last = atomic_load(&watch.memory_ns);
	struct kvs_event event;

	if (now - last < MEMORY_MS * 1000000ull || !atomic_compare_exchange_strong(&watch.memory_ns, &last, now))
		return;
	if (prof_cupti_device_memory(&event))
		add(&event);
}

/* ---- callbacks ---- */

/* Whether the driver can be queried: this call would have failed during a stream capture, and it succeeded. */
static bool may_query_driver(const struct kvs_event *event)
{
	return !event->call.result &&
	       (!strcmp(event->call.function, "cuMemAlloc_v2") || !strcmp(event->call.function, "cuMemCreate"));
}

static void on_call(CUpti_CallbackDomain domain, CUpti_CallbackId id, const CUpti_CallbackData *call)
{
	const struct prof_cupti_function *function = prof_cupti_function_of(domain, id);
	bool of_runtime = domain == CUPTI_CB_DOMAIN_RUNTIME_API;
	struct kvs_event event;
	uint64_t now = prof_cupti_now_ns();

	if (!function)
		return;
	if (call->callbackSite == CUPTI_API_ENTER) {
		*call->correlationData = now;
		last_address = of_runtime ? NO_CALL : last_address;
		return;
	}
	prof_cupti_call(function, call, &event);
	if (of_runtime && last_address == event.call.address)
		return; /* CUPTI reported the driver call that the runtime made */
	last_address = event.call.address;
	event.pid = watch.records.pid;
	thread_id = thread_id ? thread_id : (uint32_t)gettid();
	event.tid = thread_id;
	event.time_ns = *call->correlationData ? *call->correlationData : now;
	event.call.duration_ns = now - event.time_ns;
	introduce(call->context != NULL);
	add(&event);
	if (call->context && may_query_driver(&event))
		sample_memory();
}

/* After a fatal error CUPTI has shut itself down. */
static void on_state(CUpti_CallbackId id)
{
	if (id != CUPTI_CBID_STATE_FATAL_ERROR)
		return;
	atomic_store(&watch.cupti_up, false);
	atomic_store(&watch.cupti_died, true);
}

static void CUPTIAPI on_callback(void *arg, CUpti_CallbackDomain domain, CUpti_CallbackId id, const void *data)
{
	(void)arg;
	if (!atomic_load_explicit(&watch.recording, memory_order_acquire))
		return;
	if (domain == CUPTI_CB_DOMAIN_STATE)
		on_state(id);
	else if (domain == CUPTI_CB_DOMAIN_DRIVER_API || domain == CUPTI_CB_DOMAIN_RUNTIME_API)
		on_call(domain, id, data);
}

/* ---- buffers of records ---- */

static void CUPTIAPI give_buffer(uint8_t **buffer, size_t *bytes, size_t *most_records)
{
	*bytes = BUFFER_BYTES;
	*most_records = 0; /* no limit */
	pthread_mutex_lock(&watch.lock);
	*buffer = watch.spare_count ? watch.spare[--watch.spare_count] : NULL;
	pthread_mutex_unlock(&watch.lock);
	if (!*buffer)
		*buffer = aligned_alloc(8, BUFFER_BYTES); /* if NULL, CUPTI counts dropped records */
	atomic_store(&watch.has_buffer, true);
}

static void recycle(uint8_t *buffer)
{
	pthread_mutex_lock(&watch.lock);
	if (watch.spare_count < MOST_SPARE) {
		watch.spare[watch.spare_count++] = buffer;
		buffer = NULL;
	}
	pthread_mutex_unlock(&watch.lock);
	free(buffer);
}

static void add_records(uint8_t *buffer, size_t bytes)
{
	struct prof_cupti_event event;
	CUpti_Activity *record = NULL;
	uint64_t now = prof_cupti_now_ns();
	CUptiResult result;

	while (!(result = watch.cupti.cuptiActivityGetNextRecord(buffer, bytes, &record))) {
		if (prof_cupti_record(&watch.records, record, now, &event)) {
			introduce(false);
			add(&event.event);
		}
	}
	if (result != CUPTI_ERROR_MAX_LIMIT_REACHED)
		kvs_trace_lost(watch.trace, 1); /* at least: the rest of the buffer is unreadable */
}

static void CUPTIAPI take_buffer(CUcontext context, uint32_t stream, uint8_t *buffer, size_t bytes, size_t valid)
{
	(void)context, (void)stream;
	if (!buffer)
		return;
	if (valid && valid <= bytes && atomic_load(&watch.recording))
		add_records(buffer, valid);
	recycle(buffer);
}

static void flush(uint32_t flag)
{
	size_t dropped = 0;

	if (!atomic_load(&watch.has_buffer) || !atomic_load(&watch.cupti_up))
		return;
	watch.cupti.cuptiActivityFlushAll(flag);
	if (!watch.cupti.cuptiActivityGetNumDroppedRecords(NULL, 0, &dropped) && dropped)
		kvs_trace_lost(watch.trace, dropped);
}

static struct timespec in_ms(unsigned ms)
{
	uint64_t at = prof_cupti_now_ns() + ms * 1000000ull;

	return (struct timespec){.tv_sec = at / 1000000000, .tv_nsec = at % 1000000000};
}

static void *flush_until_stopped(void *arg)
{
	(void)arg;
	pthread_mutex_lock(&watch.lock);
	while (!watch.stopping) {
		struct timespec until = in_ms(FLUSH_MS);
		int err = pthread_cond_clockwait(&watch.stop, &watch.lock, CLOCK_MONOTONIC, &until);
		if (err != ETIMEDOUT)
			continue;
		pthread_mutex_unlock(&watch.lock);
		flush(0);
		pthread_mutex_lock(&watch.lock);
	}
	pthread_mutex_unlock(&watch.lock);
	return NULL;
}

/* ---- setting up ---- */

static int subscribe(void)
{
	const struct prof_cupti *cupti = &watch.cupti;
	char incumbent[128] = "";
	CUptiResult result;

#ifdef CUPTI_SUBSCRIBER_NAME_MAX_LEN
	if (cupti->cuptiSubscribe_v2) {
		CUpti_SubscriberParams params = {.structSize = CUpti_SubscriberParams_STRUCT_SIZE,
			.subscriberName = "kvshare",
			.oldSubscriberName = incumbent,
			.oldSubscriberSize = sizeof(incumbent)};
		result = cupti->cuptiSubscribe_v2(&watch.subscriber, on_callback, NULL, &params);
	} else
#endif
		result = cupti->cuptiSubscribe(&watch.subscriber, on_callback, NULL);
	incumbent[sizeof(incumbent) - 1] = '\0';
	if (result == CUPTI_ERROR_MULTIPLE_SUBSCRIBERS_NOT_SUPPORTED)
		return kvs_fail(-EBUSY, "another profiler is active already%s%s", *incumbent ? ": " : "", incumbent);
	return result ? prof_cupti_fail(cupti, result, "cuptiSubscribe failed") : 0;
}

static bool set(CUpti_ActivityAttribute attribute, void *value, size_t bytes)
{
	return !watch.cupti.cuptiActivitySetAttribute(attribute, &bytes, value);
}

/* With confidential computing there are no host-pinned buffers; the device memory that they take is then reported. */
static void place_timestamps(void)
{
	size_t bytes = TIMES_BYTES, first = TIMES_FIRST, most = TIMES_MOST;
	uint8_t pinned = 1;

	if (!set(CUPTI_ACTIVITY_ATTR_MEM_ALLOCATION_TYPE_HOST_PINNED, &pinned, sizeof(pinned)))
		watch.device_bytes = TIMES_BYTES * TIMES_FIRST;
	set(CUPTI_ACTIVITY_ATTR_DEVICE_BUFFER_SIZE, &bytes, sizeof(bytes));
	set(CUPTI_ACTIVITY_ATTR_DEVICE_BUFFER_POOL_LIMIT, &most, sizeof(most));
	set(CUPTI_ACTIVITY_ATTR_DEVICE_BUFFER_PRE_ALLOCATE_VALUE, &first, sizeof(first));
}

static int configure(void)
{
	const struct prof_cupti *cupti = &watch.cupti;
	CUptiResult result = cupti->cuptiActivityRegisterTimestampCallback(prof_cupti_now_ns);

	if (result)
		return prof_cupti_fail(cupti, result, "CUPTI does not accept a clock");
	place_timestamps();
	watch.records.system_threads =
		cupti->cuptiSetThreadIdType && !cupti->cuptiSetThreadIdType(CUPTI_ACTIVITY_THREAD_ID_TYPE_SYSTEM);
	if (cupti->cuptiActivityEnableAllSyncRecords) /* no records of queries that found unfinished work */
		cupti->cuptiActivityEnableAllSyncRecords(0);
	result = cupti->cuptiActivityRegisterCallbacks(give_buffer, take_buffer);
	if (result)
		return prof_cupti_fail(cupti, result, "CUPTI does not accept buffers");
	if (cupti->cuptiActivityFlushPeriod)
		cupti->cuptiActivityFlushPeriod(FLUSH_MS);
	return 0;
}

/* With all signals blocked: the target's handlers must not run on this thread. */
static int start_flusher(void)
{
	sigset_t all, old;
	int err;

	sigfillset(&all);
	pthread_sigmask(SIG_SETMASK, &all, &old);
	err = pthread_create(&watch.flusher, NULL, flush_until_stopped, NULL);
	pthread_sigmask(SIG_SETMASK, &old, NULL);
	return err ? kvs_fail(-err, "cannot start a thread: %s", strerror(err)) : 0;
}

/* Errors are ignored: what this version of CUPTI cannot record is missing from the trace. */
static void enable(void)
{
	const struct prof_cupti *cupti = &watch.cupti;

	atomic_store(&watch.cupti_up, true);
	atomic_store(&watch.recording, true);
	cupti->cuptiEnableCallback(1, watch.subscriber, CUPTI_CB_DOMAIN_STATE, CUPTI_CBID_STATE_FATAL_ERROR);
	for (size_t i = 0; i < prof_cupti_function_count; i++)
		cupti->cuptiEnableCallback(
			1, watch.subscriber, prof_cupti_functions[i].domain, prof_cupti_functions[i].id);
	for (size_t i = 0; prof_cupti_kinds[i]; i++)
		cupti->cuptiActivityEnable(prof_cupti_kinds[i]);
}

/* A child of fork() has no flusher, and cannot use the driver. */
static void leave_child(void)
{
	atomic_store(&watch.recording, false);
	atomic_store(&watch.cupti_up, false);
}

int prof_cupti_watch(const char *path, uint64_t max_bytes)
{
	struct kvs_trace_options options = {.max_bytes = max_bytes, .flush_ms = FLUSH_MS, .append = true};
	int err = prof_cupti_open(&watch.cupti);

	if (!err)
		err = subscribe();
	if (err)
		return err;
	err = kvs_trace_open(path, &options, &watch.trace);
	if (err)
		goto out_unsubscribe;
	watch.records.pid = getpid();
	err = configure();
	if (!err)
		err = start_flusher();
	if (err)
		goto out_close;
	pthread_atfork(NULL, NULL, leave_child);
	enable();
	return 0;

out_close:
	kvs_trace_close(watch.trace);
	watch.trace = NULL;
out_unsubscribe:
	watch.cupti.cuptiUnsubscribe(watch.subscriber);
	return err;
}

/* ---- the end ---- */

int prof_cupti_finish(void)
{
	struct timespec until = in_ms(JOIN_MS);
	int err;

	if (!atomic_load(&watch.recording))
		return 0;
	pthread_mutex_lock(&watch.lock);
	watch.stopping = true;
	pthread_cond_signal(&watch.stop);
	pthread_mutex_unlock(&watch.lock);
	/* If the flusher hangs in CUPTI, another flush would too. */
	if (!pthread_clockjoin_np(watch.flusher, NULL, CLOCK_MONOTONIC, &until))
		flush(CUPTI_ACTIVITY_FLAG_FLUSH_FORCED);
	introduce(false);
	err = kvs_trace_flush(watch.trace);
	if (!err && atomic_load(&watch.cupti_died))
		err = kvs_fail(-EIO, "CUPTI had a fatal error: the trace ends there for kernels and copies");
	return err;
}

int prof_cupti_end(int status)
{
	struct kvs_event event = {
		.type = KVS_EVENT_EXIT, .pid = watch.records.pid, .time_ns = prof_cupti_now_ns(), .exit = {status}};

	if (!atomic_load(&watch.recording))
		return 0;
	add(&event);
	return kvs_trace_flush(watch.trace);
}
