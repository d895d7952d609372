/*
 * profiler/export/perfetto.c: a trace in Chrome's trace event format, which ui.perfetto.dev and chrome://tracing open.
 *
 * Calls are slices of their thread, kernels and copies of their stream, phases of a track of their own; memory is counters,
 * and a bar (async slice) from when it was taken to when it was given back. The trace is followed once and written as it
 * goes. The file is bounded: of too many slices the longest are kept, of lifetimes those of most bytes for longest, of
 * counters the highest and the last of each step of time. What was left out is counted, and is told in the file.
 *
 * Arrows (flows) lead from a launch to its kernel where the trace has both and links them, and from the call that mapped a block
 * first to those that mapped it again.
 */
#include "flows.h"
#include "lifetimes.h"

#include "../../driver/cu.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define MOST_SLICES 300000
#define COUNTER_STEPS 10000 /* of the whole trace, shared by the processes */
#define LANES 4             /* slices of one stream that overlap go side by side */
/* Numbers of tracks that are no threads: above those of Linux, which are below 2^22. */
#define STREAM_TRACK (1u << 24)
#define SPAN_TRACK (1u << 28)
#define PHASE_TRACK (1u << 29)
#define POWERS 61

struct track {
	uint64_t end_ns[LANES];
	bool named[LANES];
};

struct counter { /* of a process: the step of time that is being gathered */
	uint64_t step, high_ns, last_ns;
	struct prof_totals high, last;
	bool has_any;
	/* the phase that it is in */
	char phase[64];
	uint64_t phase_ns;
};

struct perfetto {
	FILE *to;
	const kvs_report *report; /* made before: what is too much, and when the trace begins */
	struct prof_map tracks, counters;
	struct prof_lifetimes lifetimes;
	struct prof_flows flows;
	struct prof_map plain;        /* names of kernels for people, by the reader's pointer to those of the trace */
	uint64_t least_ns;            /* shorter slices are left out */
	uint64_t edge_every, edge_ns; /* of those from edge_ns to least_ns one in edge_every is kept */
	uint64_t edge_count, left_out, counted_only, step_ns;
	int err;
};

/* ---- JSON ---- */

static void print_string(FILE *to, const char *text)
{
	char shown[256];

	fputc('"', to);
	for (const char *c = kvs_visible(text, shown, sizeof(shown)); *c; c++) {
		if (*c == '"' || *c == '\\')
			fputc('\\', to);
		fputc(*c, to);
	}
	fputc('"', to);
}

/* Readers of JSON take whole numbers as signed ones of 64 bits. */
static unsigned long long whole(uint64_t value)
{
	return value > INT64_MAX ? INT64_MAX : value;
}

/* Microseconds since the trace began, to the nanosecond. */
static void print_time(struct perfetto *p, const char *key, uint64_t time_ns)
{
	uint64_t since = time_ns > p->report->start_ns ? time_ns - p->report->start_ns : 0;

	fprintf(p->to, ",\"%s\":%llu.%03u", key, (unsigned long long)(since / 1000), (unsigned)(since % 1000));
}

static void print_duration(struct perfetto *p, uint64_t ns)
{
	fprintf(p->to, ",\"dur\":%llu.%03u", (unsigned long long)(ns / 1000), (unsigned)(ns % 1000));
}

/* The start of an event that is closed by the caller; a comma stands before each, as the head is there first. */
static void begin(struct perfetto *p, char phase, const char *name, uint32_t pid, uint32_t track)
{
	fprintf(p->to, ",\n{\"ph\":\"%c\",\"pid\":%u,\"tid\":%u,\"name\":", phase, pid, track);
	print_string(p->to, name);
}

static void name_track(struct perfetto *p, uint32_t pid, uint32_t track, const char *name)
{
	begin(p, 'M', "thread_name", pid, track);
	fputs(",\"args\":{\"name\":", p->to);
	print_string(p->to, name);
	fputs("}}", p->to);
}

/* ---- which slices ---- */

static void count_slices(const struct prof_histogram *h, uint64_t *by_power)
{
	for (unsigned power = 0; power < POWERS; power++)
		by_power[power] += prof_histogram_in_power(h, power);
}

/* The least length so that no more than MOST_SLICES are as long; of the next shorter ones, as many as there is room for. */
static void choose_slices(struct perfetto *p)
{
	const kvs_report *r = p->report;
	uint64_t by_power[POWERS] = {0}, kept = 0;
	int power = POWERS;

	for (size_t i = 0; i < r->function_names.intern.count; i++)
		count_slices(&r->functions[i]->latency, by_power);
	for (size_t i = 0; i < r->kernel_names.intern.count; i++)
		count_slices(&r->kernels[i]->latency, by_power);
	for (int k = 0; k < KVS_COPY_KINDS; k++)
		count_slices(&r->copies[k].duration, by_power);
	for (size_t i = 0; i < r->phase_names.intern.count; i++)
		count_slices(&r->phases[i]->duration, by_power);
	for (size_t i = 0; i < r->span_names.intern.count; i++)
		by_power[POWERS - 1] += r->spans[i]->count; /* at most so many */
	while (power > 0 && kept + by_power[power - 1] <= MOST_SLICES)
		kept += by_power[--power];
	p->least_ns = power ? 1ull << power : 0;
	p->edge_ns = power > 1 ? 1ull << (power - 1) : 0;
	if (power)
		p->edge_every = by_power[power - 1] / (MOST_SLICES - kept + 1) + 1;
}

static bool is_kept(struct perfetto *p, uint64_t duration_ns)
{
	bool kept = duration_ns >= p->least_ns ||
		    (duration_ns >= p->edge_ns && p->edge_every && p->edge_count++ % p->edge_every == 0);

	p->left_out += !kept;
	return kept;
}

/* ---- tracks ---- */

static struct track *track_of(struct perfetto *p, uint32_t pid, uint32_t number)
{
	uint64_t key = (uint64_t)pid << 32 | number;
	struct track *track = prof_map_get(&p->tracks, key);

	if (track)
		return track;
	track = calloc(1, sizeof(*track));
	if (!track || !prof_map_set(&p->tracks, key, track, NULL)) {
		free(track);
		p->err = kvs_fail(-ENOMEM, "no memory for tracks");
		return NULL;
	}
	return track;
}

/* A track holds slices one behind the other: one that begins too early goes to the next lane, and into the last if need be. */
static uint32_t lane_of(
	struct perfetto *p, uint32_t pid, uint32_t number, uint64_t start_ns, uint64_t end_ns, const char *name)
{
	struct track *track = track_of(p, pid, number);
	unsigned lane = 0;

	if (!track)
		return number;
	while (lane + 1 < LANES && start_ns < track->end_ns[lane])
		lane++;
	if (end_ns > track->end_ns[lane])
		track->end_ns[lane] = end_ns;
	if (!track->named[lane]) {
		track->named[lane] = true;
		name_track(p, pid, number + (lane << 22), name);
	}
	return number + (lane << 22);
}

static uint32_t thread_track(struct perfetto *p, uint32_t pid, uint32_t tid)
{
	struct track *track = track_of(p, pid, tid);
	char name[32];

	if (track && !track->named[0]) {
		track->named[0] = true;
		snprintf(name, sizeof(name), tid == pid ? "main thread" : "thread %u", tid);
		name_track(p, pid, tid, name);
	}
	return tid;
}

static uint32_t stream_track(struct perfetto *p, const struct kvs_event *event, uint32_t stream, uint64_t duration_ns)
{
	char name[32];

	snprintf(name, sizeof(name), stream < 1u << 16 ? "stream %u" : "stream 0x%x", stream);
	return lane_of(p, event->pid, STREAM_TRACK + (stream & ((1u << 22) - 1)), event->time_ns,
		event->time_ns + duration_ns, name);
}

/* ---- flows ---- */

static void write_flow(struct perfetto *p, const struct prof_flow *flow, const char *name)
{
	for (int end = 0; end < 2; end++) {
		const struct prof_place *place = end ? &flow->to : &flow->from;
		begin(p, end ? 'f' : 's', name, place->pid, place->track);
		/* "bp": it ends at the slice around this time, not at the next one. */
		fprintf(p->to, ",\"cat\":\"%s\",\"id\":%llu%s", name, (unsigned long long)p->flows.count,
			end ? ",\"bp\":\"e\"" : "");
		print_time(p, "ts", place->time_ns);
		fputs("}", p->to);
	}
}

/* Behind each slice that may be an end of an arrow. */
static void link_slice(struct perfetto *p, const struct kvs_event *event, uint32_t track, bool is_launch)
{
	struct prof_flow flow;
	int got;

	if (!event->link || p->err)
		return;
	got = prof_flows_link(
		&p->flows, (struct prof_place){event->pid, track, event->time_ns}, event->link, is_launch, &flow);
	if (got > 0)
		write_flow(p, &flow, "launch");
	else
		p->err = got;
}

static void hear_share(
	void *arg, const struct prof_process *process, const struct prof_handle *handle, const struct prof_call *call)
{
	struct perfetto *p = arg;
	struct prof_flow flow;

	if (prof_flows_share(&p->flows, process->pid, handle->first_address, handle->first_ns, call->address,
		    call->time_ns, &flow))
		write_flow(p, &flow, "share");
}

/* ---- slices ---- */

static void begin_slice(struct perfetto *p, const char *name, uint32_t pid, uint32_t track, uint64_t time_ns,
	uint64_t duration_ns, const char *category)
{
	begin(p, 'X', name, pid, track);
	print_time(p, "ts", time_ns);
	print_duration(p, duration_ns);
	fprintf(p->to, ",\"cat\":\"%s\",\"args\":{", category);
}

static void print_field(FILE *to, const char *key, uint64_t value, bool is_address, const char **comma)
{
	if (value == KVS_EVENT_NONE)
		return;
	if (is_address)
		fprintf(to, "%s\"%s\":\"0x%llx\"", *comma, key, (unsigned long long)value);
	else
		fprintf(to, "%s\"%s\":%llu", *comma, key, whole(value));
	*comma = ",";
}

static void write_call(struct perfetto *p, const struct kvs_event *event)
{
	const char *comma = "";
	uint32_t track;

	if (!is_kept(p, event->call.duration_ns))
		return;
	track = thread_track(p, event->pid, event->tid);
	begin_slice(p, event->call.function, event->pid, track, event->time_ns, event->call.duration_ns, "driver");
	print_field(p->to, "address", event->call.address, true, &comma);
	print_field(p->to, "bytes", event->call.bytes, false, &comma);
	print_field(p->to, "handle", event->call.handle, true, &comma);
	if (event->call.result)
		fprintf(p->to, "%s\"result\":%d", comma, event->call.result);
	fputs("}}", p->to);
	link_slice(p, event, track, true);
	if (!p->err && prof_call_class_of(event->call.function) == PROF_CALL_MAP)
		p->err = prof_flows_map(
			&p->flows, (struct prof_place){event->pid, track, event->time_ns}, event->call.address);
}

/* The reader gives one pointer for one string. */
static const char *plain_name(struct perfetto *p, const char *symbol)
{
	char *name = prof_map_get(&p->plain, (uintptr_t)symbol), out[PROF_PLAIN_NAME];

	if (name)
		return name;
	name = strdup(prof_demangle(symbol, out, sizeof(out)));
	if (name && prof_map_set(&p->plain, (uintptr_t)symbol, name, NULL))
		return name;
	free(name);
	return symbol;
}

static void write_kernel(struct perfetto *p, const struct kvs_event *event)
{
	const char *name = plain_name(p, event->kernel.name);
	uint32_t track;

	if (!is_kept(p, event->kernel.duration_ns))
		return;
	track = stream_track(p, event, event->kernel.stream, event->kernel.duration_ns);
	begin_slice(p, name, event->pid, track, event->time_ns, event->kernel.duration_ns, "kernel");
	fprintf(p->to, "\"class\":\"%s\"", prof_kernel_class(name));
	if (event->kernel.layer >= 0)
		fprintf(p->to, ",\"layer\":%d", event->kernel.layer);
	fputs("}}", p->to);
	link_slice(p, event, track, false);
}

static void write_copy(struct perfetto *p, const struct kvs_event *event)
{
	uint32_t track;

	if (!is_kept(p, event->copy.duration_ns))
		return;
	track = stream_track(p, event, event->copy.stream, event->copy.duration_ns);
	begin_slice(p, prof_copy_name(event->copy.kind), event->pid, track, event->time_ns, event->copy.duration_ns,
		"copy");
	fprintf(p->to, "\"bytes\":%llu}}", whole(event->copy.bytes));
	link_slice(p, event, track, false);
}

static void write_span(struct perfetto *p, const struct kvs_event *event)
{
	char name[48];
	uint32_t track;

	if (!is_kept(p, event->span.duration_ns))
		return;
	snprintf(name, sizeof(name), "ranges of thread %u", event->tid);
	track = lane_of(p, event->pid, SPAN_TRACK + (event->tid & ((1u << 22) - 1)), event->time_ns,
		event->time_ns + event->span.duration_ns, name);
	begin_slice(p, event->span.name, event->pid, track, event->time_ns, event->span.duration_ns,
		prof_span_name(event->span.kind));
	fputs("}}", p->to);
}

/* ---- phases and counters ---- */

static struct counter *counter_of(struct perfetto *p, uint32_t pid)
{
	struct counter *counter = prof_map_get(&p->counters, pid);

	if (counter)
		return counter;
	counter = calloc(1, sizeof(*counter));
	if (!counter || !prof_map_set(&p->counters, pid, counter, NULL)) {
		free(counter);
		p->err = kvs_fail(-ENOMEM, "no memory for counters");
		return NULL;
	}
	return counter;
}

static void end_phase(struct perfetto *p, uint32_t pid, struct counter *c, uint64_t time_ns)
{
	if (*c->phase && time_ns > c->phase_ns && is_kept(p, time_ns - c->phase_ns)) {
		uint32_t track = lane_of(p, pid, PHASE_TRACK, c->phase_ns, time_ns, "phases");
		begin_slice(p, c->phase, pid, track, c->phase_ns, time_ns - c->phase_ns, "phase");
		fputs("}}", p->to);
	}
	*c->phase = 0;
}

static void follow_phase(struct perfetto *p, const struct kvs_event *event)
{
	struct counter *c = counter_of(p, event->pid);

	if (!c)
		return;
	end_phase(p, event->pid, c, event->time_ns);
	snprintf(c->phase, sizeof(c->phase), "%s", event->phase.name);
	c->phase_ns = event->time_ns;
}

static void write_counters(struct perfetto *p, uint32_t pid, uint64_t time_ns, const struct prof_totals *totals)
{
	const struct {
		const char *name;
		uint64_t bytes;
	} counters[] = {{"physical", totals->physical}, {"mapped", totals->mapped},
		{"kv", totals->by_kind[KVS_MEMORY_K] + totals->by_kind[KVS_MEMORY_V]}, {"saved", totals->saved}};

	for (size_t i = 0; i < sizeof(counters) / sizeof(*counters); i++) {
		begin(p, 'C', counters[i].name, pid, 0);
		print_time(p, "ts", time_ns);
		fprintf(p->to, ",\"args\":{\"bytes\":%llu}}", whole(counters[i].bytes));
	}
}

/* The highest and the last of a step, so that neither a peak nor what came after it is lost. */
static void end_step(struct perfetto *p, uint32_t pid, struct counter *c)
{
	if (!c->has_any)
		return;
	write_counters(p, pid, c->high_ns, &c->high);
	if (c->last_ns > c->high_ns)
		write_counters(p, pid, c->last_ns, &c->last);
	c->has_any = false;
}

static void hear_change(void *arg, const struct prof_process *process, uint64_t time_ns)
{
	struct perfetto *p = arg;
	struct counter *c = counter_of(p, process->pid);

	if (!c)
		return;
	if (time_ns < c->last_ns) /* told a little late: what it changes is seen at the next change */
		time_ns = c->last_ns;
	if (c->has_any && time_ns / p->step_ns != c->step)
		end_step(p, process->pid, c);
	if (!c->has_any || process->account.now.physical >= c->high.physical) {
		c->high = process->account.now;
		c->high_ns = time_ns;
	}
	c->last = process->account.now;
	c->last_ns = time_ns;
	c->step = time_ns / p->step_ns;
	c->has_any = true;
}

/* ---- lifetimes ---- */

static void hear_gone(void *arg, const struct prof_process *process, const struct prof_lifetime *lifetime)
{
	struct perfetto *p = arg;

	if (!p->err)
		p->err = prof_lifetimes_add(&p->lifetimes, process->pid, lifetime);
}

static void write_lifetime(struct perfetto *p, const struct prof_kept *kept, size_t number)
{
	const struct prof_lifetime *l = &kept->lifetime;
	char name[64];

	if (l->layer >= 0)
		snprintf(name, sizeof(name), "%s of layer %d", kvs_memory_kind_name(l->kind), l->layer);
	else
		snprintf(name, sizeof(name), "%s", kvs_memory_kind_name(l->kind));
	for (int end = 0; end < 2; end++) {
		begin(p, end ? 'e' : 'b', name, kept->pid, kept->pid);
		fprintf(p->to, ",\"cat\":\"memory\",\"id\":\"%zu\"", number);
		print_time(p, "ts", end ? (l->gone_ns > l->born_ns ? l->gone_ns : l->born_ns) : l->born_ns);
		if (!end) {
			fprintf(p->to, ",\"args\":{\"bytes\":%llu,\"id\":\"0x%llx\",\"function\":", whole(l->bytes),
				(unsigned long long)l->id);
			print_string(p->to, l->function ? l->function : "");
			fputs("}", p->to);
		}
		fputs("}", p->to);
	}
}

/* ---- the whole ---- */

static void hear_event(void *arg, const struct prof_process *process, const struct kvs_event *event)
{
	struct perfetto *p = arg;
	struct counter *c;

	(void)process;
	switch (event->type) {
	case KVS_EVENT_CALL:
		write_call(p, event);
		break;
	case KVS_EVENT_CALLS:
		for (unsigned b = 0; b < KVS_LATENCIES; b++)
			p->counted_only += event->calls.latency[b];
		break;
	case KVS_EVENT_KERNEL:
		write_kernel(p, event);
		break;
	case KVS_EVENT_COPY:
		write_copy(p, event);
		break;
	case KVS_EVENT_SPAN:
		write_span(p, event);
		break;
	case KVS_EVENT_PHASE:
		follow_phase(p, event);
		break;
	case KVS_EVENT_EXIT:
		c = counter_of(p, event->pid);
		if (c)
			end_phase(p, event->pid, c, event->time_ns);
		break;
	default:
		break;
	}
}

static void write_processes(struct perfetto *p)
{
	const kvs_report *r = p->report;
	const char *comma = "";

	fputs("{\"displayTimeUnit\":\"ns\",\"traceEvents\":[\n", p->to);
	for (size_t i = 0; i < r->process_count; i++) {
		const struct prof_process *process = r->processes[i];
		fprintf(p->to,
			"%s{\"ph\":\"M\",\"pid\":%u,\"tid\":0,\"name\":\"process_name\",\"args\":{\"name\":", comma,
			process->pid);
		print_string(p->to, process->command);
		fprintf(p->to,
			"}},\n{\"ph\":\"M\",\"pid\":%u,\"tid\":0,\"name\":\"process_labels\",\"args\":{\"labels\":",
			process->pid);
		print_string(p->to, process->device);
		fputs("}}", p->to);
		comma = ",\n";
	}
}

static void write_rest(struct perfetto *p)
{
	const kvs_report *r = p->report;

	for (size_t i = 0; i < r->process_count; i++) {
		struct counter *c = prof_map_get(&p->counters, r->processes[i]->pid);
		if (!c)
			continue;
		end_step(p, r->processes[i]->pid, c);
		end_phase(p, r->processes[i]->pid, c, r->end_ns);
	}
	for (size_t i = 0; i < p->lifetimes.count; i++)
		write_lifetime(p, &p->lifetimes.list[i], i);
	fprintf(p->to,
		"\n],\n\"otherData\":{\"program\":\"kvshare\",\"slices_left_out\":%llu,\"slices_shorter_than_ns\":%llu,"
		"\"calls_only_counted\":%llu,\"lifetimes_left_out\":%llu,\"events_dropped\":%llu}}\n",
		whole(p->left_out), whole(p->left_out ? p->least_ns : 0), whole(p->counted_only),
		whole(p->lifetimes.left_out), whole(r->health.lost_events));
}

static int write_all(struct perfetto *p)
{
	const struct prof_hooks hooks = {p, hear_event, hear_change, hear_gone, hear_share};
	const kvs_report *r = p->report;
	kvs_report *again = NULL;
	int err;

	choose_slices(p);
	p->step_ns = (r->end_ns - r->start_ns) / COUNTER_STEPS * (r->process_count ? r->process_count : 1) + 1;
	write_processes(p);
	err = prof_report_follow(r->path, &hooks, &again);
	if (!err)
		err = p->err;
	if (!err)
		write_rest(p);
	kvs_report_free(again);
	prof_map_clear(&p->tracks, free);
	prof_map_clear(&p->counters, free);
	prof_flows_clear(&p->flows);
	prof_map_clear(&p->plain, free);
	return err;
}

int kvs_report_perfetto(const kvs_report *report, char **text, struct kvs_left_out *left_out)
{
	size_t bytes;
	struct perfetto p = {.report = report, .to = open_memstream(text, &bytes)};
	int err;

	if (!p.to)
		return kvs_fail(-ENOMEM, "no memory for the trace");
	err = write_all(&p);
	*left_out = (struct kvs_left_out){.slices = p.left_out,
		.shorter_than_ns = p.left_out ? p.least_ns : 0,
		.lifetimes = p.lifetimes.left_out};
	prof_lifetimes_clear(&p.lifetimes);
	if (fclose(p.to) && !err)
		err = kvs_fail(-ENOMEM, "no memory for the trace");
	if (err) {
		free(*text);
		*text = NULL;
	}
	return err;
}
