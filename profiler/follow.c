/*
 * profiler/follow.c: a trace, read three times.
 *
 * First, which source to believe for each process: calls are counted once, whoever else saw them. Then everything, in bounded
 * memory whatever the length of the trace. Then once more up to the moment with the most physical memory, to see who held
 * it: nobody can know that it is the peak when it is there.
 */
#include "order.h"
#include "report.h"

#include "../driver/cu.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum pass { CHOOSE, FOLLOW, TO_PEAK };

struct prof_follow {
	kvs_report *report;
	const struct prof_hooks *hooks; /* NULL: none; they are called in FOLLOW alone */
	enum pass pass;
	struct prof_map processes; /* struct watched, by pid */
	struct prof_map numbers;   /* of function names, by the reader's pointer to them, plus 1 */
	uint64_t event;            /* changes of memory so far */
	uint32_t number;           /* of the process in hand */
	bool live; /* nobody chooses sources first: the first that introduces a process is believed, until a better one comes */
	bool done;
	int err;
};

struct watched {
	struct prof_process *process;
	const struct prof_hooks *hooks;
	uint32_t number;
	uint32_t writer; /* that its calls are taken from */
	struct prof_order order;
};

static void free_watched(void *value)
{
	struct watched *watched = value;

	prof_order_clear(&watched->order);
	free(watched);
}

static int no_memory(struct prof_follow *f)
{
	if (!f->err)
		f->err = kvs_fail(-ENOMEM, "no memory for the report");
	return f->err;
}

static void add_totals(struct prof_totals *to, const struct prof_totals *from, int sign)
{
	uint64_t *sum = (uint64_t *)to;
	const uint64_t *value = (const uint64_t *)from;

	for (size_t i = 0; i < sizeof(*to) / sizeof(*sum); i++)
		sum[i] += sign * value[i];
}

/* ---- names ---- */

static const char *keep(struct prof_follow *f, const char *text)
{
	uint32_t number = prof_names_add(&f->report->names, text);

	if (!number && *text)
		no_memory(f);
	return prof_names_text(&f->report->names, number);
}

/* Grows an array of pointers to hold the item `number`, from 1; it is made where it is not there yet. */
static void *item_of(struct prof_follow *f, void ***items, uint32_t number, size_t bytes)
{
	if (!number) {
		no_memory(f);
		return NULL;
	}
	if ((number & (number - 1)) == 0) { /* the first time for a power of two: as many again */
		void **larger = realloc(*items, 2 * (size_t)number * sizeof(*larger));
		if (!larger) {
			no_memory(f);
			return NULL;
		}
		*items = larger;
	}
	(*items)[number - 1] = calloc(1, bytes);
	if (!(*items)[number - 1])
		no_memory(f);
	return (*items)[number - 1];
}

/* Of too many different names the later ones are taken together: each has a histogram of 8 KiB. */
static const char *key_or_others(const struct prof_names *names, const char *key, uint32_t most)
{
	bool has_place = names->intern.count < most || prof_intern_data(&names->intern, key, strlen(key) + 1);

	return has_place ? key : PROF_OTHERS;
}

static struct prof_timing *timing_of(struct prof_follow *f, struct prof_names *names, struct prof_timing ***list,
	const char *key, const char *name, int layer)
{
	const char *kept = key_or_others(names, *key ? key : "?", PROF_MAX_TIMINGS);
	uint32_t before = names->intern.count, number = prof_names_add(names, kept);
	struct prof_timing *timing;

	if (number && number <= before)
		return (*list)[number - 1];
	timing = item_of(f, (void ***)list, number, sizeof(*timing));
	if (timing) {
		bool is_one = strcmp(kept, PROF_OTHERS) != 0;
		timing->name = timing->symbol = keep(f, !is_one ? PROF_OTHERS : *name ? name : "?");
		timing->layer = is_one ? layer : -1;
		timing->class = prof_call_class_of(timing->name);
	}
	return timing;
}

/* The reader gives one pointer for one string, so most names need no search. */
static struct prof_timing *function_of(struct prof_follow *f, const char *name)
{
	kvs_report *r = f->report;
	uintptr_t key = (uintptr_t)name;
	struct prof_timing *timing = prof_map_get(&f->numbers, key);

	if (timing)
		return timing;
	timing = timing_of(f, &r->function_names, &r->functions, name, name, -1);
	if (timing && !prof_map_set(&f->numbers, key, timing, NULL))
		no_memory(f);
	return timing;
}

static uint32_t stack_of(struct prof_follow *f, const struct kvs_event *event)
{
	kvs_report *r = f->report;
	uint64_t key[2 * KVS_MAX_FRAMES];
	struct prof_stack *stack;
	uint32_t number;
	bool is_new;

	for (unsigned i = 0; i < event->call.frame_count; i++) {
		key[2 * i] = prof_names_add(&r->modules, event->call.frames[i].module);
		key[2 * i + 1] = event->call.frames[i].offset;
	}
	number = prof_intern(&r->stack_keys, key, 2 * event->call.frame_count * sizeof(*key), &is_new);
	if (!is_new)
		return number;
	stack = item_of(f, (void ***)&r->stacks, number,
		offsetof(struct prof_stack, frames) + event->call.frame_count * sizeof(stack->frames[0]));
	if (!stack)
		return 0;
	stack->count = event->call.frame_count;
	for (unsigned i = 0; i < stack->count; i++) {
		stack->frames[i].module = key[2 * i];
		stack->frames[i].offset = key[2 * i + 1];
	}
	return number;
}

/* ---- processes ---- */

static struct watched *new_process(struct prof_follow *f, uint32_t pid)
{
	kvs_report *r = f->report;
	struct watched *watched = calloc(1, sizeof(*watched));
	uint32_t number = r->process_count;
	struct prof_process *process;

	if (!watched || !prof_map_set(&f->processes, pid, watched, NULL)) {
		free(watched);
		no_memory(f);
		return NULL;
	}
	process = item_of(f, (void ***)&r->processes, number + 1, sizeof(*process));
	if (!process)
		return NULL;
	r->process_count++;
	process->pid = pid;
	process->command = process->device = "";
	process->account.all = f->live ? &r->now : NULL;
	watched->process = process;
	watched->hooks = f->hooks;
	watched->number = number;
	return watched;
}

/* A process that nobody introduced is taken as it comes: its introduction was lost. */
static struct watched *process_of(struct prof_follow *f, uint32_t pid)
{
	struct watched *watched = prof_map_get(&f->processes, pid);

	return watched ? watched : new_process(f, pid);
}

/* Ours knows most, then who sees every call, then CUPTI. */
static bool is_better(enum kvs_source new, enum kvs_source old)
{
	return new && (!old || new < old);
}

static void introduce(struct prof_follow *f, const struct kvs_event *event, uint32_t writer)
{
	struct watched *watched = process_of(f, event->pid);
	struct prof_process *p = watched ? watched->process : NULL;

	if (!p)
		return;
	if (is_better(event->process.source, p->source)) {
		p->source = event->process.source;
		watched->writer = writer;
	}
	if (!p->start_ns || event->time_ns < p->start_ns)
		p->start_ns = event->time_ns;
	if (*event->process.command)
		p->command = keep(f, event->process.command);
	if (*event->process.device)
		p->device = keep(f, event->process.device);
	p->parent = event->process.parent ? event->process.parent : p->parent;
	p->driver_version = event->process.driver_version ? event->process.driver_version : p->driver_version;
	p->device_bytes = event->process.device_bytes ? event->process.device_bytes : p->device_bytes;
	p->unit_bytes = event->process.unit_bytes ? event->process.unit_bytes : p->unit_bytes;
}

/* ---- memory ---- */

static int take_snapshot(struct prof_follow *f)
{
	kvs_report *r = f->report;
	int err = 0;

	for (size_t i = 0; i < r->process_count && !err; i++) {
		err = prof_hold(r->processes[i], i, false, &r->at_peak);
		if (!err)
			err = prof_kv_take(r->processes[i], i, &r->kv);
	}
	prof_holders_merge(&r->at_peak);
	return err;
}

/* Of moments with as much physical memory the one with most of it mapped, and of those the last: what it is for is known then. */
static bool is_peak(const struct prof_totals *new, const struct prof_totals *old)
{
	return new->physical > old->physical || (new->physical == old->physical &&new->mapped >= old->mapped);
}

static void note_change(struct prof_follow *f, struct prof_process *p, uint64_t time_ns)
{
	kvs_report *r = f->report;

	f->event++;
	if (f->pass == TO_PEAK) {
		if (f->event == r->peak_event) {
			f->err = f->err ? f->err : take_snapshot(f);
			f->done = true;
		}
		return;
	}
	if (f->hooks)
		f->hooks->change(f->hooks->arg, p, time_ns);
	if (is_peak(&p->account.now, &p->peak))
		p->peak = p->account.now;
	if (r->now.physical && is_peak(&r->now, &r->peak)) {
		r->peak = r->now;
		r->peak_ns = time_ns;
		r->peak_event = f->event;
	}
	prof_series_add(r->series, time_ns, &r->now);
}

static void apply(struct prof_follow *f, struct watched *watched)
{
	struct prof_item item = prof_order_pop(&watched->order);
	struct prof_account *account = &watched->process->account;

	if (f->done)
		return;
	if (item.type == PROF_ITEM_LABEL)
		prof_account_label(account, item.label.address, item.label.bytes, item.label.label);
	else if (item.type == PROF_ITEM_USE)
		prof_account_use(account, item.use.kind, item.use.bytes);
	else
		prof_account_call(account, &item.call);
	f->report->no_memory |= account->no_memory;
	note_change(f, watched->process, item.time_ns);
}

static void hold_back(struct prof_follow *f, struct watched *watched, const struct prof_item *item)
{
	if (watched->order.count == PROF_ORDER_WINDOW)
		apply(f, watched);
	if (!prof_order_push(&watched->order, item))
		no_memory(f);
}

static void drain(struct prof_follow *f, struct watched *watched)
{
	while (watched->order.count)
		apply(f, watched);
}

/* ---- events ---- */

static bool changes_memory(enum prof_call_class class)
{
	return class != PROF_CALL_OTHER && class != PROF_CALL_SYNCHRONIZE && class != PROF_CALL_LAUNCH &&
	       class != PROF_CALL_ACCESS;
}

static bool brings_memory(enum prof_call_class class)
{
	return class == PROF_CALL_ALLOC || class == PROF_CALL_ALLOC_HOST || class == PROF_CALL_RESERVE ||
	       class == PROF_CALL_CREATE || class == PROF_CALL_RETAIN || class == PROF_CALL_MAP;
}

static void follow_call(struct prof_follow *f, struct watched *watched, const struct kvs_event *event)
{
	struct prof_timing *function = function_of(f, event->call.function);
	struct prof_item item = {.time_ns = event->time_ns};

	if (!function)
		return;
	if (f->pass == FOLLOW) {
		prof_histogram_add(&function->latency, event->call.duration_ns);
		function->failures += event->call.result != 0;
		f->report->calls++;
		watched->process->calls++;
		f->report->failures += event->call.result != 0;
	}
	if (!changes_memory(function->class))
		return;
	if (brings_memory(function->class))
		item.time_ns += event->call.duration_ns;
	item.call = (struct prof_call){.class = function->class,
		.function = function->name,
		.time_ns = event->time_ns,
		.duration_ns = event->call.duration_ns,
		.address = event->call.address,
		.bytes = event->call.bytes,
		.handle = event->call.handle,
		.stack = event->call.frame_count ? stack_of(f, event) : 0,
		.result = event->call.result};
	hold_back(f, watched, &item);
}

static void follow_calls(struct prof_follow *f, struct prof_process *p, const struct kvs_event *event)
{
	struct prof_timing *function = function_of(f, event->calls.function);
	uint64_t before;

	if (!function || f->pass != FOLLOW)
		return;
	before = function->latency.count;
	for (unsigned b = 0; b < KVS_LATENCIES; b++)
		prof_histogram_add_power(&function->latency, b, event->calls.latency[b]);
	function->latency.total_ns += event->calls.total_ns;
	function->failures += event->calls.failures;
	f->report->calls += function->latency.count - before;
	p->calls += function->latency.count - before;
	f->report->failures += event->calls.failures;
}

static void follow_kernel(struct prof_follow *f, const struct kvs_event *event)
{
	kvs_report *r = f->report;
	char key[1100];
	struct prof_timing *kernel;

	if (f->pass != FOLLOW)
		return;
	snprintf(key, sizeof(key), "%d %s", event->kernel.layer, event->kernel.name);
	kernel = timing_of(f, &r->kernel_names, &r->kernels, key, event->kernel.name, event->kernel.layer);
	if (kernel)
		prof_histogram_add(&kernel->latency, event->kernel.duration_ns);
}

static void follow_copy(struct prof_follow *f, const struct kvs_event *event)
{
	struct prof_copies *copies = &f->report->copies[event->copy.kind];

	if (f->pass != FOLLOW)
		return;
	copies->bytes += event->copy.bytes;
	prof_histogram_add(&copies->duration, event->copy.duration_ns);
}

static void follow_span(struct prof_follow *f, const struct kvs_event *event)
{
	kvs_report *r = f->report;
	uint32_t before = r->span_names.intern.count, number;
	char key[1100];
	struct prof_span *span;

	if (f->pass != FOLLOW)
		return;
	if (event->span.kind == KVS_SPAN_OVERHEAD)
		r->overhead_ns += event->span.duration_ns;
	snprintf(key, sizeof(key), "%d %s", event->span.kind, event->span.name);
	number = prof_names_add(&r->span_names, before < PROF_MAX_SPANS ? key : "others");
	span = number && number <= before ? r->spans[number - 1]
					  : item_of(f, (void ***)&r->spans, number, sizeof(*span));
	if (!span)
		return;
	if (!span->count) {
		span->kind = before < PROF_MAX_SPANS ? event->span.kind : KVS_SPAN_OTHER;
		span->name = before < PROF_MAX_SPANS ? keep(f, event->span.name) : "all others";
	}
	span->count++;
	span->total_ns += event->span.duration_ns;
	span->max_ns = event->span.duration_ns > span->max_ns ? event->span.duration_ns : span->max_ns;
}

static void mark_phase(kvs_report *r, uint64_t time_ns, uint32_t phase)
{
	if (r->mark_count < PROF_MAX_PHASES)
		r->marks[r->mark_count++] = (struct prof_phase_mark){time_ns, phase};
}

/* One without an address is no range, but what a profiler takes. */
static void follow_label(struct prof_follow *f, struct watched *watched, const struct kvs_event *event)
{
	struct prof_item item = {.time_ns = event->time_ns, .type = PROF_ITEM_LABEL};

	if (event->label.kind == KVS_MEMORY_PROFILER && !event->label.address) {
		if (event->label.bytes > watched->process->overhead)
			watched->process->overhead = event->label.bytes;
		return;
	}
	item.label.address = event->label.address;
	item.label.bytes = event->label.bytes;
	item.label.label = (struct prof_label){event->label.kind, event->label.layer, event->label.owner};
	hold_back(f, watched, &item);
}

static void follow_use(struct prof_follow *f, struct watched *watched, const struct kvs_event *event)
{
	struct prof_item item = {
		.time_ns = event->time_ns, .type = PROF_ITEM_USE, .use = {event->use.kind, event->use.bytes}};

	hold_back(f, watched, &item);
}

static void end_phase(struct prof_follow *f, struct prof_process *p, uint64_t time_ns)
{
	if (p->phase && time_ns >= p->phase_ns)
		prof_histogram_add(&f->report->phases[p->phase - 1]->duration, time_ns - p->phase_ns);
	p->phase = 0;
}

static void follow_phase(struct prof_follow *f, struct prof_process *p, const struct kvs_event *event)
{
	kvs_report *r = f->report;
	uint32_t before = r->phase_names.intern.count, number;
	bool changes;

	if (f->pass != FOLLOW)
		return;
	changes = !p->phase || strcmp(r->phases[p->phase - 1]->name, event->phase.name) != 0;
	if (p->phase && !*event->phase.name)
		mark_phase(r, event->time_ns, 0);
	end_phase(f, p, event->time_ns);
	if (!*event->phase.name)
		return;
	number = prof_names_add(
		&r->phase_names, key_or_others(&r->phase_names, event->phase.name, PROF_MAX_PHASE_NAMES));
	if (number > before) {
		struct prof_phase *phase = item_of(f, (void ***)&r->phases, number, sizeof(*phase));
		if (!phase)
			return;
		phase->name = prof_names_text(&r->phase_names, number);
	}
	if (!number) {
		no_memory(f);
		return;
	}
	r->phases[number - 1]->tokens += event->phase.tokens;
	p->phase = number;
	p->phase_ns = event->time_ns;
	if (changes)
		mark_phase(r, event->time_ns, number);
}

/* Only of the source that the calls are taken from: what another tells comes before or behind those calls, so what they hold differs. */
static void follow_device(struct prof_follow *f, struct watched *watched, const struct kvs_event *event)
{
	uint64_t used = event->device.total_bytes - event->device.free_bytes, known;

	drain(f, watched);
	watched->process->asked = true;
	known = watched->process->account.now.physical + watched->process->overhead;
	if (used > known && used - known > watched->process->untracked)
		watched->process->untracked = used - known;
}

/* NVML is asked now and then, and calls are told a moment later: what is held is what was told by then. */
static void follow_nvml(struct prof_follow *f, struct watched *watched, const struct kvs_event *event)
{
	struct prof_process *p = watched->process;
	uint64_t bytes = event->nvml.bytes, known;

	drain(f, watched);
	known = p->account.now.physical + p->overhead;
	p->nvml_asked = true;
	p->nvml = bytes > p->nvml ? bytes : p->nvml;
	if (bytes > known && bytes - known > p->nvml_untracked)
		p->nvml_untracked = bytes - known;
}

/* What it still holds has leaked, though the system takes it back. */
static void follow_exit(struct prof_follow *f, struct watched *watched, const struct kvs_event *event)
{
	struct prof_process *p = watched->process;

	drain(f, watched);
	if (f->pass == FOLLOW) {
		end_phase(f, p, event->time_ns);
		p->ended = true;
		p->end_ns = event->time_ns;
		p->status = event->exit.status;
		if (!f->err)
			f->err = prof_hold(p, watched->number, true, &f->report->leaks);
	}
	if (f->done)
		return;
	add_totals(&f->report->now, &p->account.now, -1);
	p->account.time_ns = event->time_ns;
	prof_account_reset(&p->account);
	note_change(f, p, event->time_ns);
}

static void note_time(kvs_report *r, const struct kvs_event *event)
{
	uint64_t end = event->time_ns;

	if (event->type == KVS_EVENT_CALL)
		end += event->call.duration_ns;
	if (event->type == KVS_EVENT_KERNEL)
		end += event->kernel.duration_ns;
	if (event->type == KVS_EVENT_COPY)
		end += event->copy.duration_ns;
	if (event->type == KVS_EVENT_CALLS)
		return; /* its time is when it was written down */
	r->start_ns = !r->start_ns || event->time_ns < r->start_ns ? event->time_ns : r->start_ns;
	r->end_ns = end > r->end_ns ? end : r->end_ns;
}

static bool is_call(const struct kvs_event *event)
{
	return event->type == KVS_EVENT_CALL || event->type == KVS_EVENT_CALLS || event->type == KVS_EVENT_EXIT;
}

static void follow_event(struct prof_follow *f, const struct kvs_event *event, uint32_t writer)
{
	struct watched *watched;
	bool chosen;

	if (event->type == KVS_EVENT_PROCESS) {
		if (f->pass == CHOOSE || f->live)
			introduce(f, event, writer);
		return;
	}
	watched = process_of(f, event->pid);
	if (!watched || !watched->process || f->pass == CHOOSE)
		return;
	chosen = !watched->process->source || watched->writer == writer;
	if (f->pass == FOLLOW) {
		note_time(f->report, event);
		if (f->hooks && (chosen || !is_call(event)))
			f->hooks->event(f->hooks->arg, watched->process, event);
	}
	if (event->type == KVS_EVENT_CALL && chosen) {
		follow_call(f, watched, event);
	} else if (event->type == KVS_EVENT_CALLS && chosen) {
		follow_calls(f, watched->process, event);
	} else if (event->type == KVS_EVENT_KERNEL) {
		follow_kernel(f, event);
	} else if (event->type == KVS_EVENT_COPY) {
		follow_copy(f, event);
	} else if (event->type == KVS_EVENT_SPAN) {
		follow_span(f, event);
	} else if (event->type == KVS_EVENT_LABEL) {
		follow_label(f, watched, event);
	} else if (event->type == KVS_EVENT_USE) {
		follow_use(f, watched, event);
	} else if (event->type == KVS_EVENT_PHASE) {
		follow_phase(f, watched->process, event);
	} else if (event->type == KVS_EVENT_DEVICE && chosen) {
		follow_device(f, watched, event);
	} else if (event->type == KVS_EVENT_NVML) {
		follow_nvml(f, watched, event);
	} else if (event->type == KVS_EVENT_EXIT && chosen) {
		follow_exit(f, watched, event);
	}
}

/* ---- passes ---- */

static void drain_all(struct prof_follow *f)
{
	for (size_t i = 0; i < f->processes.slot_count; i++) {
		struct watched *watched = f->processes.slots[i].value;
		if (watched && watched->process)
			drain(f, watched);
	}
}

static void tell_gone(void *arg, const struct prof_lifetime *lifetime)
{
	const struct watched *watched = arg;

	watched->hooks->gone(watched->hooks->arg, watched->process, lifetime);
}

static void tell_share(void *arg, const struct prof_handle *handle, const struct prof_call *call)
{
	const struct watched *watched = arg;

	watched->hooks->share(watched->hooks->arg, watched->process, handle, call);
}

static void hear_gone(struct prof_follow *f)
{
	for (size_t i = 0; i < f->processes.slot_count; i++) {
		struct watched *watched = f->processes.slots[i].value;
		if (!watched || !watched->process)
			continue;
		watched->process->account.hear = tell_gone;
		watched->process->account.hear_share = f->hooks->share ? tell_share : NULL;
		watched->process->account.hear_arg = watched;
	}
}

/* What is never given back is gone at the end of the trace. */
static void end_all(struct prof_follow *f)
{
	for (size_t i = 0; i < f->report->process_count; i++) {
		struct prof_account *account = &f->report->processes[i]->account;
		account->time_ns = f->report->end_ns;
		prof_account_reset(account);
		account->hear = NULL;
		account->hear_share = NULL;
	}
}

/* Memory is followed anew in each pass. */
static void begin_pass(struct prof_follow *f, enum pass pass)
{
	kvs_report *r = f->report;

	f->pass = pass;
	f->event = 0;
	r->now = (struct prof_totals){0};
	prof_map_clear(&f->numbers, NULL);
	for (size_t i = 0; i < r->process_count; i++) {
		struct prof_account *account = &r->processes[i]->account;
		prof_account_reset(account);
		account->unit_bytes = r->processes[i]->unit_bytes;
		account->all = &r->now;
		account->with_findings = pass == FOLLOW;
	}
}

static int run_pass(struct prof_follow *f, kvs_trace_reader *reader, enum pass pass)
{
	struct kvs_event event;
	uint32_t writer;
	int got = kvs_trace_rewind(reader);

	if (got)
		return got;
	begin_pass(f, pass);
	if (f->hooks && pass == FOLLOW)
		hear_gone(f);
	while (!f->err && !f->done && (got = kvs_trace_next(reader, &event, &writer)) > 0)
		follow_event(f, &event, writer);
	if (got < 0)
		return got;
	if (!f->err && !f->done)
		drain_all(f);
	return f->err;
}

int prof_follow(kvs_report *report, kvs_trace_reader *reader, const struct prof_hooks *hooks)
{
	struct prof_follow f = {.report = report, .hooks = hooks};
	int err = run_pass(&f, reader, CHOOSE);

	if (!err)
		err = run_pass(&f, reader, FOLLOW);
	if (!err)
		kvs_trace_get_health(reader, &report->health);
	if (!err)
		prof_holders_merge(&report->leaks);
	if (!err && hooks)
		end_all(&f);
	if (!err && report->peak_event && !hooks)
		err = run_pass(&f, reader, TO_PEAK);
	prof_map_clear(&f.processes, free_watched);
	prof_map_clear(&f.numbers, NULL);
	return err;
}

/* ---- a trace that grows ---- */

struct prof_follow *prof_follow_open(kvs_report *report)
{
	struct prof_follow *f = calloc(1, sizeof(*f));

	if (!f)
		return NULL;
	f->report = report;
	f->live = true;
	f->pass = FOLLOW;
	return f;
}

int prof_follow_news(struct prof_follow *f, kvs_trace_reader *reader)
{
	struct kvs_event event;
	uint32_t writer;
	int got = 0;

	while (!f->err && (got = kvs_trace_next(reader, &event, &writer)) > 0)
		follow_event(f, &event, writer);
	if (got < 0)
		return got;
	drain_all(f);
	kvs_trace_get_health(reader, &f->report->health);
	return f->err;
}

void prof_follow_close(struct prof_follow *f)
{
	if (!f)
		return;
	prof_map_clear(&f->processes, free_watched);
	prof_map_clear(&f->numbers, NULL);
	free(f);
}
