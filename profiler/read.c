/*
 * profiler/read.c: a trace that is being read.
 *
 * The file may be cut, damaged or hostile, and may still be growing. Only a chunk whose checksum is right is looked into;
 * behind anything else the next one is searched for byte by byte. A record that makes no sense ends its chunk.
 */
#include "format.h"
#include "map.h"

#include "../driver/cu.h"

#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>
#include <zlib.h>

struct stack {
	unsigned count;
	struct {
		uint32_t module;
		uint64_t offset;
	} frames[];
};

/* A writer: which chunk comes next, and what it has lost. */
struct writer {
	uint64_t next_number, lost;
};

struct kvs_trace_reader {
	int fd;
	uint64_t at, file_bytes; /* at: where the chunk after this one is */
	bool grows;              /* what is no whole chunk at the end may become one */
	struct kvs_trace_health health;
	struct prof_map strings, stacks; /* by who told it and its number */
	struct prof_map writers;
	/* the chunk that is being read */
	struct prof_chunk_header header;
	uint8_t *payload; /* [PROF_MAX_PAYLOAD] */
	size_t used;
	uint64_t last_ns;
	uint32_t link; /* of the event that follows */
	uint32_t pid, tid;
	struct kvs_frame frames[KVS_MAX_FRAMES];
};

/* ---- numbers and strings ---- */

struct cursor {
	const uint8_t *at, *end;
	bool bad;
};

static uint64_t get(struct cursor *c)
{
	uint64_t value = 0;

	for (unsigned shift = 0; shift < 64 && c->at < c->end; shift += 7) {
		uint8_t byte = *c->at++;
		value |= (uint64_t)(byte & 127) << shift;
		if (byte < 128)
			return value;
	}
	c->bad = true;
	return 0;
}

static int64_t get_signed(struct cursor *c)
{
	return prof_unzigzag(get(c));
}

static uint8_t get_byte(struct cursor *c)
{
	if (c->at < c->end)
		return *c->at++;
	c->bad = true;
	return 0;
}

static uint64_t name_of(const kvs_trace_reader *reader, uint64_t number)
{
	uint32_t teller = reader->header.writer + reader->header.generation * 0x9e3779b9u;

	return (uint64_t)teller << 32 | (uint32_t)number;
}

/* "" where the string was lost, or there never was one. */
static const char *string_of(const kvs_trace_reader *reader, uint64_t number)
{
	const char *text = number ? prof_map_get(&reader->strings, name_of(reader, number)) : NULL;

	return text ? text : "";
}

static const char *get_string(struct cursor *c, const kvs_trace_reader *reader)
{
	return string_of(reader, get(c));
}

/* A string or a stack is told once. Told again (a damaged file, or two writers of one number), the first is kept, as events point to it. */
static int keep(struct prof_map *map, uint64_t key, void *value)
{
	if (prof_map_get(map, key)) {
		free(value);
		return 0;
	}
	if (value && prof_map_set(map, key, value, NULL))
		return 0;
	free(value);
	return kvs_fail(-ENOMEM, "no memory for the names in the trace");
}

static int read_string(kvs_trace_reader *reader, struct cursor *c)
{
	uint64_t number = get(c), bytes = get(c);
	const char *text = (const char *)c->at;

	if (c->bad || number > PROF_MAX_STRINGS || bytes > PROF_MAX_STRING || bytes > (size_t)(c->end - c->at)) {
		c->bad = true;
		return 0;
	}
	c->at += bytes;
	return keep(&reader->strings, name_of(reader, number), strndup(text, bytes));
}

static int read_stack(kvs_trace_reader *reader, struct cursor *c)
{
	uint64_t number = get(c), count = get(c);
	struct stack *stack;

	if (c->bad || number > PROF_MAX_STACKS || count > KVS_MAX_FRAMES) {
		c->bad = true;
		return 0;
	}
	stack = malloc(sizeof(*stack) + count * sizeof(*stack->frames));
	if (!stack)
		return kvs_fail(-ENOMEM, "no memory for the stacks in the trace");
	stack->count = count;
	for (unsigned i = 0; i < count; i++) {
		stack->frames[i].module = get(c);
		stack->frames[i].offset = get(c);
	}
	if (!c->bad)
		return keep(&reader->stacks, name_of(reader, number), stack);
	free(stack);
	return 0;
}

/* ---- records ---- */

static void read_process(const kvs_trace_reader *reader, struct cursor *c, struct kvs_event *out)
{
	out->process.source = get(c);
	out->process.command = get_string(c, reader);
	out->process.device = get_string(c, reader);
	out->process.parent = get(c);
	out->process.driver_version = get(c);
	out->process.device_bytes = get(c);
	out->process.wall_ns = get(c);
	out->process.unit_bytes = get(c);
}

static void read_call(kvs_trace_reader *reader, struct cursor *c, struct kvs_event *out)
{
	const struct stack *stack = NULL;
	uint8_t has;

	out->call.function = get_string(c, reader);
	out->call.duration_ns = get(c);
	has = get_byte(c);
	out->call.address = has & PROF_HAS_ADDRESS ? get(c) : KVS_EVENT_NONE;
	out->call.bytes = has & PROF_HAS_BYTES ? get(c) : KVS_EVENT_NONE;
	out->call.handle = has & PROF_HAS_HANDLE ? get(c) : KVS_EVENT_NONE;
	if (has & PROF_HAS_STACK)
		stack = prof_map_get(&reader->stacks, name_of(reader, get(c)));
	out->call.result = has & PROF_HAS_RESULT ? get_signed(c) : 0;
	out->call.frame_count = stack ? stack->count : 0;
	out->call.frames = reader->frames;
	for (unsigned i = 0; i < out->call.frame_count; i++)
		reader->frames[i] =
			(struct kvs_frame){string_of(reader, stack->frames[i].module), stack->frames[i].offset};
}

static void read_calls(const kvs_trace_reader *reader, struct cursor *c, struct kvs_event *out)
{
	unsigned bucket;

	out->calls.function = get_string(c, reader);
	out->calls.failures = get(c);
	out->calls.total_ns = get(c);
	memset(out->calls.latency, 0, sizeof(out->calls.latency));
	while ((bucket = get_byte(c)) < KVS_LATENCIES && !c->bad)
		out->calls.latency[bucket] = get(c);
}

static void read_kernel(const kvs_trace_reader *reader, struct cursor *c, struct kvs_event *out)
{
	out->kernel.name = get_string(c, reader);
	out->kernel.duration_ns = get(c);
	out->kernel.stream = get(c);
	out->kernel.layer = get_signed(c);
}

static enum kvs_memory_kind get_kind(struct cursor *c)
{
	uint64_t kind = get(c);

	return kind < KVS_MEMORY_KINDS ? kind : KVS_MEMORY_UNKNOWN;
}

static void read_label(struct cursor *c, struct kvs_event *out)
{
	out->label.address = get(c);
	out->label.bytes = get(c);
	out->label.kind = get_kind(c);
	out->label.layer = get_signed(c);
	out->label.owner = get_signed(c);
}

static void read_copy(struct cursor *c, struct kvs_event *out)
{
	uint64_t kind = get(c);

	out->copy.kind = kind < KVS_COPY_KINDS ? kind : KVS_COPY_OTHER;
	out->copy.bytes = get(c);
	out->copy.duration_ns = get(c);
	out->copy.stream = get(c);
}

static void read_span(const kvs_trace_reader *reader, struct cursor *c, struct kvs_event *out)
{
	uint64_t kind = get(c);

	out->span.kind = kind < KVS_SPAN_KINDS ? kind : KVS_SPAN_OTHER;
	out->span.name = get_string(c, reader);
	out->span.duration_ns = get(c);
}

/* The event of `tag`, read behind its tag. */
static void read_event(kvs_trace_reader *reader, struct cursor *c, uint8_t tag, struct kvs_event *out)
{
	reader->last_ns += get_signed(c);
	*out = (struct kvs_event){
		.type = tag, .pid = reader->pid, .tid = reader->tid, .link = reader->link, .time_ns = reader->last_ns};
	reader->link = 0;
	switch (out->type) {
	case KVS_EVENT_PROCESS:
		read_process(reader, c, out);
		break;
	case KVS_EVENT_CALL:
		read_call(reader, c, out);
		break;
	case KVS_EVENT_CALLS:
		read_calls(reader, c, out);
		break;
	case KVS_EVENT_KERNEL:
		read_kernel(reader, c, out);
		break;
	case KVS_EVENT_LABEL:
		read_label(c, out);
		break;
	case KVS_EVENT_PHASE:
		out->phase.name = get_string(c, reader);
		out->phase.tokens = get(c);
		break;
	case KVS_EVENT_DEVICE:
		out->device.free_bytes = get(c);
		out->device.total_bytes = get(c);
		break;
	case KVS_EVENT_EXIT:
		out->exit.status = get_signed(c);
		break;
	case KVS_EVENT_COPY:
		read_copy(c, out);
		break;
	case KVS_EVENT_SPAN:
		read_span(reader, c, out);
		break;
	case KVS_EVENT_USE:
		out->use.kind = get_kind(c);
		out->use.bytes = get(c);
		break;
	case KVS_EVENT_NVML:
		out->nvml.bytes = get(c);
		break;
	default:
		c->bad = true;
	}
}

/* The next event of the chunk: 1; 0: it has no more; or an error. */
static int read_record(kvs_trace_reader *reader, struct kvs_event *out)
{
	struct cursor c = {reader->payload + reader->used, reader->payload + reader->header.payload_bytes, false};
	int err = 0;

	while (c.at < c.end && !c.bad && !err) {
		uint8_t tag = get_byte(&c);
		if (tag == PROF_TAG_STRING) {
			err = read_string(reader, &c);
		} else if (tag == PROF_TAG_STACK) {
			err = read_stack(reader, &c);
		} else if (tag == PROF_TAG_THREAD) {
			reader->pid = get(&c);
			reader->tid = get(&c);
		} else if (tag == PROF_TAG_LINK) {
			reader->link = get(&c);
		} else {
			read_event(reader, &c, tag, out);
			if (c.bad)
				break;
			reader->used = c.at - reader->payload;
			reader->health.events++;
			return 1;
		}
	}
	if (c.bad)
		reader->health.damaged_bytes += reader->header.payload_bytes - reader->used;
	reader->used = reader->header.payload_bytes;
	return err;
}

/* ---- chunks ---- */

/* How many of `bytes` bytes at `at` there are: fewer at the end of the file. -EIO. */
static ssize_t read_at(const kvs_trace_reader *reader, uint64_t at, void *out, size_t bytes)
{
	size_t have = 0;

	while (have < bytes) {
		ssize_t got = pread(reader->fd, (char *)out + have, bytes - have, at + have);
		if (got < 0 && errno == EINTR)
			continue;
		if (got < 0)
			return kvs_fail(-EIO, "the trace cannot be read: %s", strerror(errno));
		if (!got)
			break;
		have += got;
	}
	return have;
}

/* Whether a whole chunk is at `at`: 1, with header and payload read; 0: none; or an error. */
static int read_chunk(kvs_trace_reader *reader, uint64_t at)
{
	struct prof_chunk_header *header = &reader->header;
	size_t after = offsetof(struct prof_chunk_header, payload_bytes);
	ssize_t got = read_at(reader, at, header, sizeof(*header));
	uLong crc;

	if (got < 0)
		return got;
	if (got < (ssize_t)sizeof(*header) || header->magic != PROF_CHUNK_MAGIC ||
		header->payload_bytes > PROF_MAX_PAYLOAD)
		return 0;
	got = read_at(reader, at + sizeof(*header), reader->payload, header->payload_bytes);
	if (got < (ssize_t)header->payload_bytes)
		return got < 0 ? got : 0;
	crc = crc32(0, (const uint8_t *)header + after, sizeof(*header) - after);
	return crc32(crc, reader->payload, header->payload_bytes) == header->crc;
}

/* Where the next four bytes are that may begin a chunk, from `from` on; the end of the file where there are none. -EIO. */
static int64_t find_magic(const kvs_trace_reader *reader, uint64_t from)
{
	const uint32_t magic = PROF_CHUNK_MAGIC;
	uint8_t window[4096];
	ssize_t got;

	for (;; from += got - (sizeof(magic) - 1)) {
		got = read_at(reader, from, window, sizeof(window));
		if (got < 0)
			return got;
		uint8_t *found = got < (ssize_t)sizeof(magic) ? NULL : memmem(window, got, &magic, sizeof(magic));
		if (found)
			return from + (found - window);
		if (got < (ssize_t)sizeof(window))
			return from + got;
	}
}

static int count_chunk(kvs_trace_reader *reader)
{
	const struct prof_chunk_header *header = &reader->header;
	struct writer *writer = prof_map_get(&reader->writers, header->writer);

	if (!writer) {
		writer = calloc(1, sizeof(*writer));
		if (!writer || !prof_map_set(&reader->writers, header->writer, writer, NULL)) {
			free(writer);
			return kvs_fail(-ENOMEM, "no memory for the trace's writers");
		}
	}
	if (header->number > writer->next_number)
		reader->health.missing_chunks += header->number - writer->next_number;
	writer->next_number = (uint64_t)header->number + 1;
	if (header->lost > writer->lost) {
		reader->health.lost_events += header->lost - writer->lost;
		writer->lost = header->lost;
	}
	reader->used = 0;
	reader->last_ns = header->time_ns;
	reader->link = 0;
	reader->pid = reader->tid = 0;
	return 0;
}

/* Go to the next whole chunk: 1; 0: there is none. */
static int next_chunk(kvs_trace_reader *reader)
{
	for (;;) {
		int found = read_chunk(reader, reader->at);
		int64_t next;
		if (found < 0)
			return found;
		if (found) {
			int err = count_chunk(reader);
			reader->at += sizeof(reader->header) + reader->header.payload_bytes;
			return err ? err : 1;
		}
		reader->header.payload_bytes = reader->used = 0;
		next = find_magic(reader, reader->at + 1);
		if (next < 0)
			return next;
		if ((uint64_t)next > reader->file_bytes)
			next = reader->file_bytes;
		if (reader->grows && (uint64_t)next == reader->file_bytes)
			return 0;
		if ((uint64_t)next > reader->at)
			reader->health.damaged_bytes += next - reader->at;
		reader->at = next;
		if (reader->at >= reader->file_bytes)
			return 0;
	}
}

/* ---- the reader ---- */

static int check_header(const kvs_trace_reader *reader, const char *path)
{
	struct prof_file_header header;
	ssize_t got = read_at(reader, 0, &header, sizeof(header));

	if (got < 0)
		return got;
	if (got < (ssize_t)sizeof(header) || memcmp(header.magic, PROF_MAGIC, sizeof(header.magic)))
		return kvs_fail(-EINVAL, "%s is no trace of kvshare", path);
	if (header.version != PROF_VERSION)
		return kvs_fail(-EINVAL, "%s is a trace of version %u, and this program reads version %d", path,
			header.version, PROF_VERSION);
	return 0;
}

static void forget(kvs_trace_reader *reader)
{
	prof_map_clear(&reader->strings, free);
	prof_map_clear(&reader->stacks, free);
	prof_map_clear(&reader->writers, free);
}

int prof_trace_go_on(kvs_trace_reader *reader, uint64_t *done)
{
	struct stat st;

	if (fstat(reader->fd, &st))
		return kvs_fail(-EIO, "the trace cannot be read: %s", strerror(errno));
	reader->grows = true;
	reader->file_bytes = st.st_size;
	*done = reader->at;
	return 0;
}

int kvs_trace_rewind(kvs_trace_reader *reader)
{
	struct stat st;

	if (fstat(reader->fd, &st))
		return kvs_fail(-EIO, "the trace cannot be read: %s", strerror(errno));
	forget(reader);
	reader->at = sizeof(struct prof_file_header);
	reader->file_bytes = st.st_size;
	reader->header.payload_bytes = reader->used = 0;
	reader->health = (struct kvs_trace_health){.file_bytes = st.st_size};
	return 0;
}

int kvs_trace_read(const char *path, kvs_trace_reader **out)
{
	kvs_trace_reader *reader = calloc(1, sizeof(*reader));
	struct stat st;
	int err = 0;

	if (!reader || !(reader->payload = malloc(PROF_MAX_PAYLOAD))) {
		free(reader);
		return kvs_fail(-ENOMEM, "no memory for reading a trace");
	}
	reader->fd = open(path, O_RDONLY | O_CLOEXEC | O_NOCTTY | O_NONBLOCK);
	if (reader->fd < 0 || fstat(reader->fd, &st))
		err = kvs_fail(-errno, "%s: %s", path, strerror(errno));
	else if (!S_ISREG(st.st_mode))
		err = kvs_fail(-EINVAL, "%s: a trace is a regular file, and this is none", path);
	if (!err)
		err = check_header(reader, path);
	if (!err)
		err = kvs_trace_rewind(reader);
	if (err)
		kvs_trace_reader_close(reader);
	else
		*out = reader;
	return err;
}

void kvs_trace_reader_close(kvs_trace_reader *reader)
{
	if (!reader)
		return;
	forget(reader);
	if (reader->fd >= 0)
		close(reader->fd);
	free(reader->payload);
	free(reader);
}

int kvs_trace_next(kvs_trace_reader *reader, struct kvs_event *out, uint32_t *writer)
{
	for (;;) {
		int got = read_record(reader, out);
		if (got > 0 && writer)
			*writer = reader->header.writer;
		if (got)
			return got;
		if (reader->at >= reader->file_bytes)
			return 0;
		got = next_chunk(reader);
		if (got <= 0)
			return got;
	}
}

void kvs_trace_get_health(const kvs_trace_reader *reader, struct kvs_trace_health *out)
{
	*out = reader->health;
}
