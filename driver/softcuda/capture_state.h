/*
 * driver/softcuda/capture_state.h: what a capture is, for the two files that know. All functions need sc_lock held, but for
 * sc_capture_free and what looks at no capture.
 */
#ifndef SOFTCUDA_CAPTURE_STATE_H
#define SOFTCUDA_CAPTURE_STATE_H

#include "capture.h"

struct sc_capture {
	struct sc_capture *next;
	uint64_t id;
	CUstreamCaptureMode mode;
	pthread_t thread; /* that began it */
	struct sc_stream *origin;
	struct sc_graph *graph;
	bool owns_graph; /* it was made for it */
	bool is_invalid;
	struct sc_stream **streams; /* all that take part, referenced */
	size_t count;
};

bool sc_captures_are_active(void);
CUstreamCaptureMode sc_capture_mode_exchange(CUstreamCaptureMode mode); /* this thread's */
CUresult sc_capture_new(struct sc_stream *stream, CUstreamCaptureMode mode, struct sc_graph *graph, bool own);
void sc_capture_end(struct sc_capture *capture);
void sc_capture_free(struct sc_capture *capture);
/* Does a blocking stream of this context capture? */
bool sc_capture_of_blocking(const struct sc_context *context, bool invalidate);

#endif
