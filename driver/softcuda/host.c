/*
 * driver/softcuda/host.c: functions of the host in streams and graphs.
 */
#include "capture.h"

#include <stdlib.h>
#include <string.h>

struct host_op {
	struct sc_op op;
	CUhostFn function;
	CUstreamCallback callback; /* the older form, which is also called when the context is lost */
	CUstream handle;
	void *data;
};

static void host_run(struct sc_op *op, struct sc_stream *stream)
{
	struct host_op *host = (struct host_op *)op;
	CUresult error = sc_context_error(stream->context);

	sc_host_function_begin();
	if (host->callback)
		host->callback(host->handle, error, host->data);
	else if (!error)
		host->function(host->data);
	sc_host_function_end();
}

static struct sc_op *host_clone(const struct sc_op *op)
{
	struct host_op *host = malloc(sizeof(*host));

	if (!host)
		return NULL;
	memcpy(host, op, sizeof(*host));
	atomic_init(&host->op.shares, 0);
	return &host->op;
}

static struct host_op *host_create(CUhostFn function, void *data)
{
	struct host_op *host = calloc(1, sizeof(*host));

	if (!host)
		return NULL;
	host->op.what = "a host function";
	host->op.run = host_run;
	host->op.told = true;
	host->op.clone = host_clone;
	host->function = function;
	host->data = data;
	return host;
}

CUresult sc_host_op(CUhostFn function, void *data, struct sc_op **out)
{
	struct host_op *host = host_create(function, data);

	if (!host)
		return CUDA_ERROR_OUT_OF_MEMORY;
	*out = &host->op;
	return CUDA_SUCCESS;
}

static CUresult function_submit(struct sc_stream *stream, CUhostFn function, void *data)
{
	struct sc_work work = {.type = CU_GRAPH_NODE_TYPE_HOST, .params.host = {function, data}};
	CUresult error = sc_host_op(function, data, &work.op);

	return error ? error : sc_work_submit(stream, &work, NULL);
}

/* A callback is the older form, of which graphs know nothing. */
static CUresult callback_submit(CUstream handle, struct sc_stream *stream, CUstreamCallback callback, void *data)
{
	CUresult error = sc_capture_refuse(stream);
	struct host_op *host = error ? NULL : host_create(NULL, data);

	if (!host)
		return error ? error : CUDA_ERROR_OUT_OF_MEMORY;
	host->callback = callback;
	host->handle = handle;
	return sc_stream_submit(stream, &host->op, NULL);
}

CUresult CUDAAPI cuLaunchHostFunc(CUstream hStream, CUhostFn fn, void *userData)
{
	struct sc_stream *stream;
	CUresult error = sc_stream_enter(__func__, hStream, &stream);

	if (error)
		return error;
	error = fn ? function_submit(stream, fn, userData) : CUDA_ERROR_INVALID_VALUE;
	sc_stream_put(stream);
	return error;
}

CUresult CUDAAPI cuStreamAddCallback(CUstream hStream, CUstreamCallback callback, void *userData, unsigned int flags)
{
	struct sc_stream *stream;
	CUresult error = sc_stream_enter(__func__, hStream, &stream);

	if (error)
		return error;
	error = callback && !flags ? callback_submit(hStream, stream, callback, userData) : CUDA_ERROR_INVALID_VALUE;
	sc_stream_put(stream);
	return error;
}
