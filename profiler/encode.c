/*
 * profiler/encode.c: events as bytes.
 *
 * Numbers are LEB128: seven bits a byte, the lowest first, the top bit set where more follow. Times are differences to the
 * record before, as most lie close together. A string is told once, when it is first needed, and then named by its number.
 */
#include "encode.h"

#include <string.h>
#include <zlib.h>

static void put_byte(struct prof_chunk *chunk, uint8_t byte)
{
	chunk->payload[chunk->used++] = byte;
}

static void put(struct prof_chunk *chunk, uint64_t value)
{
	for (; value > 127; value >>= 7)
		put_byte(chunk, value | 128);
	put_byte(chunk, value);
}

static void put_signed(struct prof_chunk *chunk, int64_t value)
{
	put(chunk, prof_zigzag(value));
}

static uint32_t length_of(const char *text)
{
	return text ? strnlen(text, PROF_MAX_STRING) : 0;
}

/* The string's number, told now if it has to be; "" is 0, as is one that there is no number left for. */
static uint32_t tell_string(struct prof_chunk *chunk, struct prof_told *told, const char *text)
{
	uint32_t bytes = length_of(text), id;
	bool is_new;

	id = prof_intern(&told->strings, text, bytes, &is_new);
	if (is_new) {
		put_byte(chunk, PROF_TAG_STRING);
		put(chunk, id);
		put(chunk, bytes);
		memcpy(chunk->payload + chunk->used, text, bytes);
		chunk->used += bytes;
	}
	return id;
}

static unsigned frames_of(const struct kvs_event *event)
{
	unsigned count = event->type == KVS_EVENT_CALL ? event->call.frame_count : 0;

	return count < KVS_MAX_FRAMES ? count : KVS_MAX_FRAMES;
}

static uint32_t tell_stack(struct prof_chunk *chunk, struct prof_told *told, const struct kvs_event *event)
{
	uint64_t key[2 * KVS_MAX_FRAMES];
	unsigned count = frames_of(event);
	uint32_t id;
	bool is_new;

	for (unsigned i = 0; i < count; i++) {
		key[2 * i] = tell_string(chunk, told, event->call.frames[i].module);
		key[2 * i + 1] = event->call.frames[i].offset;
	}
	id = prof_intern(&told->stacks, key, 2 * count * sizeof(*key), &is_new);
	if (is_new) {
		put_byte(chunk, PROF_TAG_STACK);
		put(chunk, id);
		put(chunk, count);
		for (unsigned i = 0; i < 2 * count; i++)
			put(chunk, key[i]);
	}
	return id;
}

/* The most bytes that the event can take, its strings and frames included. */
static size_t room_for(const struct kvs_event *event)
{
	size_t room = PROF_MAX_EVENT;

	switch (event->type) {
	case KVS_EVENT_PROCESS:
		room += length_of(event->process.command) + length_of(event->process.device);
		break;
	case KVS_EVENT_CALL:
		room += length_of(event->call.function);
		break;
	case KVS_EVENT_CALLS:
		room += length_of(event->calls.function);
		break;
	case KVS_EVENT_KERNEL:
		room += length_of(event->kernel.name);
		break;
	case KVS_EVENT_PHASE:
		room += length_of(event->phase.name);
		break;
	case KVS_EVENT_SPAN:
		room += length_of(event->span.name);
		break;
	default:
		break;
	}
	for (unsigned i = 0; i < frames_of(event); i++)
		room += 24 + length_of(event->call.frames[i].module);
	return room;
}

static void put_head(struct prof_chunk *chunk, const struct kvs_event *event)
{
	if (event->pid != chunk->pid || event->tid != chunk->tid) {
		put_byte(chunk, PROF_TAG_THREAD);
		put(chunk, event->pid);
		put(chunk, event->tid);
		chunk->pid = event->pid;
		chunk->tid = event->tid;
	}
	if (event->link) {
		put_byte(chunk, PROF_TAG_LINK);
		put(chunk, event->link);
	}
	put_byte(chunk, event->type);
	put_signed(chunk, event->time_ns - chunk->last_ns);
	chunk->last_ns = event->time_ns;
}

static void add_process(struct prof_chunk *chunk, struct prof_told *told, const struct kvs_event *event)
{
	uint32_t command = tell_string(chunk, told, event->process.command);
	uint32_t device = tell_string(chunk, told, event->process.device);

	put_head(chunk, event);
	put(chunk, event->process.source);
	put(chunk, command);
	put(chunk, device);
	put(chunk, event->process.parent);
	put(chunk, event->process.driver_version);
	put(chunk, event->process.device_bytes);
	put(chunk, event->process.wall_ns);
	put(chunk, event->process.unit_bytes);
}

static void add_call(struct prof_chunk *chunk, struct prof_told *told, const struct kvs_event *event)
{
	uint32_t function = tell_string(chunk, told, event->call.function), stack = tell_stack(chunk, told, event);
	uint8_t has = (event->call.address != KVS_EVENT_NONE ? PROF_HAS_ADDRESS : 0) |
		      (event->call.bytes != KVS_EVENT_NONE ? PROF_HAS_BYTES : 0) |
		      (event->call.handle != KVS_EVENT_NONE ? PROF_HAS_HANDLE : 0) | (stack ? PROF_HAS_STACK : 0) |
		      (event->call.result ? PROF_HAS_RESULT : 0);

	put_head(chunk, event);
	put(chunk, function);
	put(chunk, event->call.duration_ns);
	put_byte(chunk, has);
	if (has & PROF_HAS_ADDRESS)
		put(chunk, event->call.address);
	if (has & PROF_HAS_BYTES)
		put(chunk, event->call.bytes);
	if (has & PROF_HAS_HANDLE)
		put(chunk, event->call.handle);
	if (has & PROF_HAS_STACK)
		put(chunk, stack);
	if (has & PROF_HAS_RESULT)
		put_signed(chunk, event->call.result);
}

/* Only the buckets that hold something: the number of the bucket, then its count; closed by the number of buckets. */
static void add_calls(struct prof_chunk *chunk, struct prof_told *told, const struct kvs_event *event)
{
	uint32_t function = tell_string(chunk, told, event->calls.function);

	put_head(chunk, event);
	put(chunk, function);
	put(chunk, event->calls.failures);
	put(chunk, event->calls.total_ns);
	for (unsigned b = 0; b < KVS_LATENCIES; b++) {
		if (event->calls.latency[b]) {
			put_byte(chunk, b);
			put(chunk, event->calls.latency[b]);
		}
	}
	put_byte(chunk, KVS_LATENCIES);
}

static void add_kernel(struct prof_chunk *chunk, struct prof_told *told, const struct kvs_event *event)
{
	uint32_t name = tell_string(chunk, told, event->kernel.name);

	put_head(chunk, event);
	put(chunk, name);
	put(chunk, event->kernel.duration_ns);
	put(chunk, event->kernel.stream);
	put_signed(chunk, event->kernel.layer);
}

static void add_label(struct prof_chunk *chunk, const struct kvs_event *event)
{
	put_head(chunk, event);
	put(chunk, event->label.address);
	put(chunk, event->label.bytes);
	put(chunk, event->label.kind);
	put_signed(chunk, event->label.layer);
	put_signed(chunk, event->label.owner);
}

static void add_phase(struct prof_chunk *chunk, struct prof_told *told, const struct kvs_event *event)
{
	uint32_t name = tell_string(chunk, told, event->phase.name);

	put_head(chunk, event);
	put(chunk, name);
	put(chunk, event->phase.tokens);
}

static void add_copy(struct prof_chunk *chunk, const struct kvs_event *event)
{
	put_head(chunk, event);
	put(chunk, event->copy.kind);
	put(chunk, event->copy.bytes);
	put(chunk, event->copy.duration_ns);
	put(chunk, event->copy.stream);
}

static void add_span(struct prof_chunk *chunk, struct prof_told *told, const struct kvs_event *event)
{
	uint32_t name = tell_string(chunk, told, event->span.name);

	put_head(chunk, event);
	put(chunk, event->span.kind);
	put(chunk, name);
	put(chunk, event->span.duration_ns);
}

void prof_chunk_begin(struct prof_chunk *chunk)
{
	chunk->used = 0;
	chunk->events = 0;
	chunk->pid = chunk->tid = 0;
}

bool prof_chunk_add(struct prof_chunk *chunk, struct prof_told *told, const struct kvs_event *event)
{
	if (chunk->used + room_for(event) > sizeof(chunk->payload))
		return false;
	if (!chunk->used)
		chunk->last_ns = chunk->header.time_ns = event->time_ns;
	switch (event->type) {
	case KVS_EVENT_PROCESS:
		add_process(chunk, told, event);
		break;
	case KVS_EVENT_CALL:
		add_call(chunk, told, event);
		break;
	case KVS_EVENT_CALLS:
		add_calls(chunk, told, event);
		break;
	case KVS_EVENT_KERNEL:
		add_kernel(chunk, told, event);
		break;
	case KVS_EVENT_LABEL:
		add_label(chunk, event);
		break;
	case KVS_EVENT_PHASE:
		add_phase(chunk, told, event);
		break;
	case KVS_EVENT_DEVICE:
		put_head(chunk, event);
		put(chunk, event->device.free_bytes);
		put(chunk, event->device.total_bytes);
		break;
	case KVS_EVENT_EXIT:
		put_head(chunk, event);
		put_signed(chunk, event->exit.status);
		break;
	case KVS_EVENT_COPY:
		add_copy(chunk, event);
		break;
	case KVS_EVENT_SPAN:
		add_span(chunk, told, event);
		break;
	case KVS_EVENT_USE:
		put_head(chunk, event);
		put(chunk, event->use.kind);
		put(chunk, event->use.bytes);
		break;
	case KVS_EVENT_NVML:
		put_head(chunk, event);
		put(chunk, event->nvml.bytes);
		break;
	default:
		return true; /* no event of ours */
	}
	chunk->events++;
	return true;
}

size_t prof_chunk_seal(struct prof_chunk *chunk)
{
	struct prof_chunk_header *header = &chunk->header;
	size_t after = offsetof(struct prof_chunk_header, payload_bytes);

	header->magic = PROF_CHUNK_MAGIC;
	header->payload_bytes = chunk->used;
	header->crc = crc32(0, (const uint8_t *)header + after, sizeof(*header) - after + chunk->used);
	return sizeof(*header) + chunk->used;
}
