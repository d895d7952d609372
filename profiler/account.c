/*
 * profiler/account.c: what each call changes. A trace may begin in the middle of a program's life or have holes, so a call that
 * does not fit what is known is passed over: what was never seen to begin is not seen to end.
 */
#include "account.h"

#include <stdlib.h>

#define MOST_GONE 4096 /* ranges that are remembered after they were given up */
#define MOST_FINDINGS 1000

/* ---- sums ---- */

static void add(struct prof_account *a, size_t field, int64_t bytes)
{
	*(uint64_t *)((char *)&a->now + field) += bytes;
	if (a->all)
		*(uint64_t *)((char *)a->all + field) += bytes;
}

#define ADD(account, field, bytes) add(account, offsetof(struct prof_totals, field), bytes)

static void add_physical(struct prof_account *a, enum kvs_memory_kind kind, int64_t bytes)
{
	ADD(a, physical, bytes);
	add(a, offsetof(struct prof_totals, by_kind) + kind * sizeof(uint64_t), bytes);
}

static void add_asked(struct prof_account *a, enum kvs_memory_kind kind, int64_t bytes)
{
	add(a, offsetof(struct prof_totals, asked) + kind * sizeof(uint64_t), bytes);
}

static uint64_t asked_in_handles(const struct prof_account *a, enum kvs_memory_kind kind)
{
	return a->use_told[kind] && a->use[kind] < a->in_handles[kind] ? a->use[kind] : a->in_handles[kind];
}

static void add_in_handles(struct prof_account *a, enum kvs_memory_kind kind, int64_t bytes)
{
	uint64_t asked = asked_in_handles(a, kind);

	add_physical(a, kind, bytes);
	a->in_handles[kind] += bytes;
	add_asked(a, kind, asked_in_handles(a, kind) - asked);
}

void prof_account_use(struct prof_account *a, enum kvs_memory_kind kind, uint64_t bytes)
{
	uint64_t asked = asked_in_handles(a, kind);

	a->use[kind] = bytes;
	a->use_told[kind] = true;
	add_asked(a, kind, asked_in_handles(a, kind) - asked);
}

/* +1: it is there, -1: it is not any more. */
static void add_allocation(struct prof_account *a, const struct prof_allocation *allocation, int sign)
{
	add_physical(a, allocation->kind, sign * (int64_t)allocation->taken);
	add_asked(a, allocation->kind, sign * (int64_t)allocation->bytes);
}

static uint64_t saved_by(const struct prof_handle *handle)
{
	return handle->mappings > 1 && handle->kind != KVS_MEMORY_SINK ? (handle->mappings - 1) * handle->bytes : 0;
}

/* ---- findings ---- */

static void find(struct prof_account *a, enum prof_finding_kind kind, const struct prof_call *call)
{
	if (!a->with_findings)
		return;
	for (unsigned i = 0; i < a->finding_count; i++) {
		struct prof_finding *f = &a->findings[i];
		if (f->kind == kind && f->stack == call->stack && f->function == call->function) {
			f->count++;
			return;
		}
	}
	if (a->finding_count == MOST_FINDINGS)
		return;
	if (a->finding_count == a->finding_room) {
		unsigned room = a->finding_room ? 2 * a->finding_room : 16;
		struct prof_finding *larger = realloc(a->findings, room * sizeof(*larger));
		if (!larger) {
			a->no_memory = true;
			return;
		}
		a->findings = larger;
		a->finding_room = room;
	}
	a->findings[a->finding_count++] = (struct prof_finding){.kind = kind,
		.address = call->address,
		.bytes = call->bytes,
		.time_ns = call->time_ns,
		.count = 1,
		.stack = call->stack,
		.function = call->function};
}

static void forget_gone(struct prof_account *a, uint64_t start, uint64_t end)
{
	struct prof_range *r;

	while ((r = prof_ranges_from(&a->gone, start)) && r->start < end) {
		prof_ranges_remove(&a->gone, r->start);
		a->gone_count--;
	}
}

/* The whole of what is remembered is dropped when there is too much: only the last matters. */
static void remember_gone(struct prof_account *a, uint64_t start, uint64_t bytes)
{
	if (!a->with_findings)
		return;
	if (a->gone_count >= MOST_GONE) {
		prof_ranges_clear(&a->gone, NULL);
		a->gone_count = 0;
	}
	forget_gone(a, start, start + bytes);
	a->gone_count += prof_ranges_add(&a->gone, start, start + bytes, a) != NULL;
}

/* ---- handles ---- */

static struct prof_handle *new_handle(struct prof_account *a, const struct prof_call *call)
{
	struct prof_handle *h = calloc(1, sizeof(*h));

	if (!h || !prof_map_set(&a->handles, call->handle, h, NULL)) {
		a->no_memory = true;
		free(h);
		return NULL;
	}
	*h = (struct prof_handle){.id = call->handle,
		.bytes = call->bytes,
		.born_ns = call->time_ns,
		.references = 1,
		.ordinal = a->next_ordinal++,
		.stack = call->stack,
		.layer = -1,
		.function = call->function,
		.next = a->first_handle,
		.link = &a->first_handle};
	if (h->next)
		h->next->link = &h->next;
	a->first_handle = h;
	add_in_handles(a, h->kind, h->bytes);
	return h;
}

static void tell_handle(const struct prof_account *a, const struct prof_handle *h)
{
	struct prof_lifetime lifetime = {.born_ns = h->born_ns,
		.gone_ns = a->time_ns,
		.bytes = h->bytes,
		.id = h->id,
		.kind = h->was,
		.layer = h->was ? h->layer_was : -1,
		.function = h->function};

	if (a->hear)
		a->hear(a->hear_arg, &lifetime);
}

static void tell_allocation(const struct prof_account *a, const struct prof_allocation *allocation)
{
	struct prof_lifetime lifetime = {.born_ns = allocation->born_ns,
		.gone_ns = a->time_ns,
		.bytes = allocation->taken,
		.id = allocation->address,
		.kind = allocation->kind,
		.layer = allocation->layer,
		.function = allocation->function};

	if (a->hear && !allocation->host)
		a->hear(a->hear_arg, &lifetime);
}

static void end_handle(struct prof_account *a, struct prof_handle *h)
{
	if (h->references || h->mappings)
		return;
	tell_handle(a, h);
	add_in_handles(a, h->kind, -(int64_t)h->bytes);
	*h->link = h->next;
	if (h->next)
		h->next->link = h->link;
	free(h);
}

static void set_handle_kind(struct prof_account *a, struct prof_handle *h, enum kvs_memory_kind kind, int layer)
{
	uint64_t saved = saved_by(h);

	add_in_handles(a, h->kind, -(int64_t)h->bytes);
	h->kind = kind;
	h->layer = layer;
	if (kind != KVS_MEMORY_UNKNOWN) {
		h->was = kind;
		h->layer_was = layer;
	}
	add_in_handles(a, h->kind, h->bytes);
	ADD(a, saved, saved_by(h) - saved);
}

static void create(struct prof_account *a, const struct prof_call *call)
{
	struct prof_handle *old = prof_map_get(&a->handles, call->handle);

	if (call->bytes == KVS_EVENT_NONE || call->handle == KVS_EVENT_NONE)
		return;
	if (old) { /* its release was not seen */
		prof_map_remove(&a->handles, call->handle);
		old->references = 0;
		end_handle(a, old);
	}
	new_handle(a, call);
}

static void release(struct prof_account *a, const struct prof_call *call)
{
	struct prof_handle *h = prof_map_get(&a->handles, call->handle);

	if (!h)
		return;
	if (--h->references == 0) {
		prof_map_remove(&a->handles, call->handle);
		end_handle(a, h);
	}
}

static void retain(struct prof_account *a, const struct prof_call *call)
{
	struct prof_handle *h = prof_map_get(&a->handles, call->handle);

	if (h)
		h->references++;
}

/* ---- mappings ---- */

static void apply_label(struct prof_account *a, struct prof_mapping *m, const struct prof_label *label)
{
	m->kind = label->kind;
	m->layer = label->layer;
	m->owner = label->owner;
	if (m->handle->kind == KVS_MEMORY_UNKNOWN && label->kind != KVS_MEMORY_UNKNOWN)
		set_handle_kind(a, m->handle, label->kind, label->owner >= 0 ? label->owner : label->layer);
}

static void map(struct prof_account *a, const struct prof_call *call)
{
	struct prof_handle *h = prof_map_get(&a->handles, call->handle);
	struct prof_mapping *m = calloc(1, sizeof(*m));
	struct prof_range *label = prof_ranges_at(&a->labels, call->address);

	if (call->bytes == KVS_EVENT_NONE || call->address + call->bytes < call->address) {
		free(m);
		return;
	}
	if (!h) /* made before anybody watched */
		h = new_handle(a, call);
	if (!m || !h) {
		free(m);
		a->no_memory = true;
		return;
	}
	*m = (struct prof_mapping){.handle = h, .layer = -1, .owner = -1};
	if (!prof_ranges_add(&a->mappings, call->address, call->address + call->bytes, m)) {
		free(m); /* the unmap was not seen, or there is no memory */
		return;
	}
	forget_gone(a, call->address, call->address + call->bytes);
	ADD(a, saved, -(int64_t)saved_by(h));
	h->mappings++;
	ADD(a, saved, saved_by(h));
	ADD(a, mapped, call->bytes);
	if (h->mappings == 1) {
		h->first_address = call->address;
		h->first_ns = call->time_ns;
	} else if (a->hear_share && h->kind != KVS_MEMORY_SINK) {
		a->hear_share(a->hear_arg, h, call);
	}
	if (label)
		apply_label(a, m, label->value);
}

/* All mappings that lie in the range: a call may take several. */
static void unmap(struct prof_account *a, const struct prof_call *call)
{
	uint64_t end = call->address + call->bytes;
	struct prof_range *r;

	while ((r = prof_ranges_from(&a->mappings, call->address)) && r->start >= call->address && r->end <= end) {
		uint64_t start = r->start, bytes = r->end - r->start;
		struct prof_mapping *m = prof_ranges_remove(&a->mappings, start);
		struct prof_handle *h = m->handle;
		ADD(a, saved, -(int64_t)saved_by(h));
		h->mappings--;
		ADD(a, saved, saved_by(h));
		ADD(a, mapped, -(int64_t)bytes);
		if (!h->mappings) /* it waits to be used again, for whatever */
			set_handle_kind(a, h, KVS_MEMORY_UNKNOWN, -1);
		end_handle(a, h);
		free(m);
		remember_gone(a, start, bytes);
	}
}

/* ---- reservations and allocations ---- */

static void drop_labels(struct prof_account *a, uint64_t start, uint64_t end)
{
	struct prof_range *r;

	while ((r = prof_ranges_from(&a->labels, start)) && r->start < end)
		free(prof_ranges_remove(&a->labels, r->start));
}

static void reserve(struct prof_account *a, const struct prof_call *call)
{
	if (call->address == KVS_EVENT_NONE || call->bytes == KVS_EVENT_NONE || !call->bytes)
		return;
	void *old = NULL;
	if (!prof_map_set(&a->reservations, call->address, (void *)(uintptr_t)call->bytes, &old)) {
		a->no_memory = true;
		return;
	}
	ADD(a, reserved, call->bytes - (uint64_t)(uintptr_t)old);
}

static void unreserve(struct prof_account *a, const struct prof_call *call)
{
	uint64_t bytes = (uintptr_t)prof_map_remove(&a->reservations, call->address);

	ADD(a, reserved, -(int64_t)bytes);
	if (bytes)
		drop_labels(a, call->address, call->address + bytes);
}

static void end_allocation(struct prof_account *a, struct prof_allocation *allocation)
{
	tell_allocation(a, allocation);
	if (allocation->host) {
		ADD(a, host, -(int64_t)allocation->bytes);
	} else {
		add_allocation(a, allocation, -1);
		ADD(a, reserved, -(int64_t)allocation->bytes);
		ADD(a, mapped, -(int64_t)allocation->bytes);
		drop_labels(a, allocation->address, allocation->address + allocation->bytes);
	}
	*allocation->link = allocation->next;
	if (allocation->next)
		allocation->next->link = allocation->link;
	free(allocation);
}

static void allocate(struct prof_account *a, const struct prof_call *call, bool host)
{
	struct prof_allocation *old = prof_map_remove(&a->allocations, call->address), *new;
	uint64_t unit = a->unit_bytes ? a->unit_bytes : 1;

	if (old) /* its free was not seen */
		end_allocation(a, old);
	if (call->address == KVS_EVENT_NONE || call->bytes == KVS_EVENT_NONE)
		return;
	new = calloc(1, sizeof(*new));
	if (!new || !prof_map_set(&a->allocations, call->address, new, NULL)) {
		a->no_memory = true;
		free(new);
		return;
	}
	*new = (struct prof_allocation){.address = call->address,
		.bytes = call->bytes,
		.taken = (call->bytes + unit - 1) / unit * unit,
		.born_ns = call->time_ns,
		.host = host,
		.stack = call->stack,
		.layer = -1,
		.function = call->function,
		.next = a->first_allocation,
		.link = &a->first_allocation};
	if (new->next)
		new->next->link = &new->next;
	a->first_allocation = new;
	if (host) {
		ADD(a, host, new->bytes);
		return;
	}
	forget_gone(a, call->address, call->address + call->bytes);
	add_allocation(a, new, 1);
	ADD(a, reserved, new->bytes);
	ADD(a, mapped, new->bytes);
}

static void give_back(struct prof_account *a, const struct prof_call *call)
{
	struct prof_allocation *allocation = prof_map_remove(&a->allocations, call->address);

	if (!allocation)
		return;
	if (!allocation->host)
		remember_gone(a, call->address, allocation->bytes);
	end_allocation(a, allocation);
}

/* ---- labels ---- */

void prof_account_label(struct prof_account *a, uint64_t address, uint64_t bytes, struct prof_label label)
{
	struct prof_label *copy = malloc(sizeof(*copy));
	uint64_t end = address + bytes;

	if (!copy || end <= address) {
		a->no_memory = a->no_memory || !copy;
		free(copy);
		return;
	}
	*copy = label;
	drop_labels(a, address, end);
	if (!prof_ranges_add(&a->labels, address, end, copy)) {
		free(copy);
		return;
	}
	for (struct prof_range *r = prof_ranges_from(&a->mappings, address); r && r->start < end;
		r = prof_ranges_from(&a->mappings, r->end))
		apply_label(a, r->value, copy);
	struct prof_allocation *allocation = prof_map_get(&a->allocations, address);
	if (allocation && !allocation->host) {
		add_allocation(a, allocation, -1);
		allocation->kind = label.kind;
		allocation->layer = label.layer;
		add_allocation(a, allocation, 1);
	}
}

/* ---- calls ---- */

/* A call that the driver refused: sometimes it shows a fault of the program. */
static void look_at_failure(struct prof_account *a, const struct prof_call *call)
{
	struct prof_range *r;

	switch (call->class) {
	case PROF_CALL_MAP:
		r = prof_ranges_from(&a->mappings, call->address);
		if (r && call->bytes != KVS_EVENT_NONE && r->start < call->address + call->bytes)
			find(a, PROF_DOUBLE_MAP, call);
		break;
	case PROF_CALL_FREE:
	case PROF_CALL_UNMAP:
		if (prof_ranges_at(&a->gone, call->address))
			find(a, PROF_DOUBLE_FREE, call);
		break;
	default:
		break;
	}
}

static void look_at_copy(struct prof_account *a, const struct prof_call *call)
{
	if (call->address != KVS_EVENT_NONE && prof_ranges_at(&a->gone, call->address))
		find(a, PROF_USE_AFTER_UNMAP, call);
}

void prof_account_call(struct prof_account *a, const struct prof_call *call)
{
	a->time_ns = call->time_ns;
	if (call->class == PROF_CALL_COPY)
		look_at_copy(a, call);
	if (call->result) {
		look_at_failure(a, call);
		return;
	}
	switch (call->class) {
	case PROF_CALL_ALLOC:
	case PROF_CALL_ALLOC_HOST:
		allocate(a, call, call->class == PROF_CALL_ALLOC_HOST);
		break;
	case PROF_CALL_FREE:
	case PROF_CALL_FREE_HOST:
		give_back(a, call);
		break;
	case PROF_CALL_RESERVE:
		reserve(a, call);
		break;
	case PROF_CALL_UNRESERVE:
		unreserve(a, call);
		break;
	case PROF_CALL_CREATE:
		create(a, call);
		break;
	case PROF_CALL_RETAIN:
		retain(a, call);
		break;
	case PROF_CALL_RELEASE:
		release(a, call);
		break;
	case PROF_CALL_MAP:
		map(a, call);
		break;
	case PROF_CALL_UNMAP:
		unmap(a, call);
		break;
	default:
		break;
	}
}

void prof_account_reset(struct prof_account *a)
{
	struct prof_account fresh = {.unit_bytes = a->unit_bytes,
		.all = a->all,
		.with_findings = a->with_findings,
		.findings = a->findings,
		.finding_count = a->finding_count,
		.finding_room = a->finding_room,
		.hear = a->hear,
		.hear_share = a->hear_share,
		.hear_arg = a->hear_arg,
		.no_memory = a->no_memory};

	prof_map_clear(&a->handles, NULL);
	prof_map_clear(&a->allocations, NULL);
	prof_map_clear(&a->reservations, NULL);
	for (struct prof_handle *h = a->first_handle, *next; h; h = next) {
		next = h->next;
		tell_handle(a, h);
		free(h);
	}
	for (struct prof_allocation *allocation = a->first_allocation, *next; allocation; allocation = next) {
		next = allocation->next;
		tell_allocation(a, allocation);
		free(allocation);
	}
	prof_ranges_clear(&a->mappings, free);
	prof_ranges_clear(&a->labels, free);
	prof_ranges_clear(&a->gone, NULL);
	*a = fresh;
}

void prof_account_clear(struct prof_account *a)
{
	prof_account_reset(a);
	free(a->findings);
	*a = (struct prof_account){0};
}
