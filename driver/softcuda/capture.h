/*
 * driver/softcuda/capture.h: streams whose work becomes nodes of a graph. All functions need sc_lock not to be held.
 */
#ifndef SOFTCUDA_CAPTURE_H
#define SOFTCUDA_CAPTURE_H

#include "graph.h"

/*
 * May work be put into this stream? An error invalidates the captures that forbid it. *capturing: the work is to become a
 * node.
 */
CUresult sc_capture_check(struct sc_stream *stream, bool *capturing);
CUresult sc_capture_refuse(struct sc_stream *stream); /* the same, for work that graphs cannot hold */
CUresult sc_capture_sync(struct sc_stream *stream);   /* may its state be asked for, or awaited? */
CUresult sc_capture_sync_all(struct sc_context *context);
CUresult sc_capture_unsafe(void); /* may this thread make calls that a capture would miss? */

/* Queues the work, or makes it a node where the stream captures. Takes it, on failure too. *ticket may be NULL; 0: a node. */
CUresult sc_work_submit(struct sc_stream *stream, struct sc_work *work, uint64_t *ticket);

/* An event that is recorded where a stream captures stands for these nodes of that capture. */
CUresult sc_capture_record(struct sc_stream *stream, uint64_t *capture_id, struct sc_keys *nodes);
/* The stream waits for such an event; it becomes a part of the capture. */
CUresult sc_capture_wait(struct sc_stream *stream, uint64_t capture_id, const struct sc_keys *nodes);

void sc_capture_invalidate(uint64_t capture_id);
void sc_capture_break(struct sc_stream *stream); /* the capture that it takes part in */
void sc_capture_lose(struct sc_stream *stream);  /* it is destroyed */
void sc_captures_reset(void);

#endif
