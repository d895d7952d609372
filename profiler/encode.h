/*
 * profiler/encode.h: one chunk of a trace, being filled. Internal to profiler/.
 */
#ifndef KVS_PROFILER_ENCODE_H
#define KVS_PROFILER_ENCODE_H

#include "format.h"
#include "intern.h"

struct prof_chunk {
	struct prof_chunk_header header;
	uint8_t payload[PROF_MAX_PAYLOAD];
	size_t used; /* of the payload */
	uint64_t events;
	/* that the next record is told against */
	uint64_t last_ns;
	uint32_t pid, tid;
};

/* What a writer has told so far. */
struct prof_told {
	struct prof_intern strings, stacks;
};

void prof_chunk_begin(struct prof_chunk *chunk);
/* Adds an event with whatever it needs that has not been told yet; false, and nothing has changed: there is no room. */
bool prof_chunk_add(struct prof_chunk *chunk, struct prof_told *told, const struct kvs_event *event);
/* Sums up: the bytes from the header on are ready to be written. Gives their number. */
size_t prof_chunk_seal(struct prof_chunk *chunk);

#endif
