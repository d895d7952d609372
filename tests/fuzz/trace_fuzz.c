/*
 * tests/fuzz/trace_fuzz.c: any bytes as a trace, read twice, which gives the same both times.
 *
 * A checksum that is random would end every trial at once, so those of the chunks that stand one behind the other are put
 * right first.
 */
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>
#include <zlib.h>

#include "../../profiler/format.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void require(bool holds)
{
	if (!holds)
		abort();
}

static void put_checksums_right(uint8_t *data, size_t size)
{
	struct prof_chunk_header header;
	size_t after = offsetof(struct prof_chunk_header, payload_bytes);

	for (size_t at = sizeof(struct prof_file_header); at + sizeof(header) <= size;) {
		memcpy(&header, data + at, sizeof(header));
		if (header.magic != PROF_CHUNK_MAGIC || header.payload_bytes > size - at - sizeof(header))
			return;
		header.crc = crc32(0, data + at + after, sizeof(header) - after + header.payload_bytes);
		memcpy(data + at, &header, sizeof(header));
		at += sizeof(header) + header.payload_bytes;
	}
}

/* The events, and a sum over all that they say. */
static uint64_t read_all(kvs_trace_reader *reader, uint64_t *sum)
{
	struct kvs_event event;
	uint64_t events = 0;
	int got;

	*sum = 0;
	while ((got = kvs_trace_next(reader, &event, NULL)) > 0) {
		events++;
		*sum = *sum * 31 + event.type + event.time_ns + event.pid;
		if (event.type == KVS_EVENT_CALL) {
			*sum += strlen(event.call.function) + event.call.frame_count;
			for (unsigned i = 0; i < event.call.frame_count; i++)
				*sum += strlen(event.call.frames[i].module) + event.call.frames[i].offset;
		} else if (event.type == KVS_EVENT_PROCESS) {
			*sum += strlen(event.process.command);
		} else if (event.type == KVS_EVENT_COPY) {
			require(event.copy.kind < KVS_COPY_KINDS);
			*sum += event.copy.bytes;
		} else if (event.type == KVS_EVENT_SPAN) {
			require(event.span.kind < KVS_SPAN_KINDS);
			*sum += strlen(event.span.name) + event.span.duration_ns;
		} else if (event.type == KVS_EVENT_USE) {
			require(event.use.kind < KVS_MEMORY_KINDS);
			*sum += event.use.bytes;
		} else if (event.type == KVS_EVENT_NVML) {
			*sum += event.nvml.bytes;
		}
	}
	require(got == 0);
	return events;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	uint8_t *copy = malloc(size + 1);
	kvs_trace_reader *reader;
	uint64_t first, second;
	char path[64];
	int fd = memfd_create("trace", 0);

	require(copy && fd >= 0);
	memcpy(copy, data, size);
	put_checksums_right(copy, size);
	require(write(fd, copy, size) == (ssize_t)size);
	snprintf(path, sizeof(path), "/proc/self/fd/%d", fd);
	if (!kvs_trace_read(path, &reader)) {
		uint64_t events = read_all(reader, &first);
		require(!kvs_trace_rewind(reader));
		require(read_all(reader, &second) == events && first == second);
		kvs_trace_reader_close(reader);
	}
	close(fd);
	free(copy);
	return 0;
}
