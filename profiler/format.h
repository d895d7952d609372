/*
 * profiler/format.h: the bytes of a trace, which docs/trace.md describes. Internal to profiler/.
 *
 * A file is a header and chunks. A chunk is whole by itself: its checksum covers all of it, and times and threads start anew
 * in it, so that one that is damaged or missing costs its own events and nothing else. Only strings and stacks are told once
 * for each writer.
 */
#ifndef KVS_PROFILER_FORMAT_H
#define KVS_PROFILER_FORMAT_H

#include "profiler.h"

#define PROF_MAGIC "kvstrace"
#define PROF_VERSION 1
#define PROF_CHUNK_MAGIC 0x4b4e4843u /* "CHNK" */
#define PROF_MAX_PAYLOAD (256u << 10)
#define PROF_MAX_STRING 1024u /* bytes; longer ones are cut */
#define PROF_MAX_STRINGS (1u << 20)
#define PROF_MAX_STACKS (1u << 20)

struct prof_file_header {
	char magic[8];
	uint32_t version, reserved;
};

/* Little-endian, as all hosts of CUDA are. */
struct prof_chunk_header {
	uint32_t magic, crc; /* crc: zlib's crc32 of all that follows it, payload included */
	uint32_t payload_bytes;
	uint32_t writer;     /* a random number for each kvs_trace_open() */
	uint32_t number;     /* of the chunk among its writer's, from 0 */
	uint32_t generation; /* strings and stacks are numbered anew in each, as some may have been lost with a chunk */
	uint64_t time_ns;    /* that the first record's time counts from */
	uint64_t lost;       /* events that the writer has lost so far */
};

/* A record starts with its tag. Numbers up from 1 are those of enum kvs_event_type. */
enum prof_tag {
	PROF_TAG_STRING = 64, /* number, length, bytes: a string of this writer's */
	PROF_TAG_STACK,       /* number, count, a module (a string) and an offset for each: a stack of this writer's */
	PROF_TAG_THREAD,      /* pid, tid: of the events that follow in this chunk */
	PROF_TAG_LINK,        /* number: of the one event that follows */
};

/* Which of a call's fields follow. */
enum { PROF_HAS_ADDRESS = 1, PROF_HAS_BYTES = 2, PROF_HAS_HANDLE = 4, PROF_HAS_STACK = 8, PROF_HAS_RESULT = 16 };

/* An event takes at most this, its strings not counted: a calls record, whose numbers are many. */
#define PROF_MAX_EVENT ((size_t)24 + 10 * (KVS_LATENCIES + 8))

static inline uint64_t prof_zigzag(int64_t value)
{
	return ((uint64_t)value << 1) ^ (uint64_t)(value >> 63);
}

static inline int64_t prof_unzigzag(uint64_t value)
{
	return (int64_t)(value >> 1) ^ -(int64_t)(value & 1);
}

/*
 * The file may have grown (read.c): what is in it now can be read, and what is only half written there waits. `done`: bytes
 * at its beginning that have been read and are not needed again.
 */
int prof_trace_go_on(kvs_trace_reader *reader, uint64_t *done);

#endif
