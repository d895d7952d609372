/*
 * driver/softcuda/work.c: from the driver's parameters of a node to its work, and copies of that.
 */
#define __CUDA_API_VERSION_INTERNAL /* cuda.h then declares all forms by their symbols */
#include "graph.h"

#include "copy.h"
#include "launch.h"

#include <string.h>

void sc_work_free(struct sc_work *work)
{
	if (work->op)
		sc_op_put(work->op);
	sc_graph_free(work->child);
	work->op = NULL;
	work->child = NULL;
}

CUresult sc_work_copy(const struct sc_work *from, bool visible, struct sc_work *to)
{
	*to = *from;
	to->child = NULL;
	to->op = from->op ? from->op->clone(from->op) : NULL;
	if (from->op && !to->op)
		return CUDA_ERROR_OUT_OF_MEMORY;
	if (from->child) {
		CUresult error = sc_graph_copy(from->child, visible, &to->child);

		if (error)
			sc_work_free(to);
		return error;
	}
	return CUDA_SUCCESS;
}

CUresult sc_work_of_kernel(const CUDA_KERNEL_NODE_PARAMS_v2 *p, bool cooperative, struct sc_work *out)
{
	CUlaunchConfig shape;

	if (!p)
		return CUDA_ERROR_INVALID_VALUE;
	shape = (CUlaunchConfig){.gridDimX = p->gridDimX,
		.gridDimY = p->gridDimY,
		.gridDimZ = p->gridDimZ,
		.blockDimX = p->blockDimX,
		.blockDimY = p->blockDimY,
		.blockDimZ = p->blockDimZ,
		.sharedMemBytes = p->sharedMemBytes};
	*out = (struct sc_work){.type = CU_GRAPH_NODE_TYPE_KERNEL};
	return sc_launch_op(
		&shape, p->func ? p->func : (CUfunction)p->kern, cooperative, p->kernelParams, p->extra, &out->op);
}

CUresult sc_work_of_memcpy(const CUDA_MEMCPY3D *p, struct sc_work *out)
{
	struct sc_copy copy;
	CUresult error = p ? sc_copy_of_3d(p, &copy) : CUDA_ERROR_INVALID_VALUE;

	if (!error && (!p->WidthInBytes || !p->Height || !p->Depth || !sc_copy_is_valid(&copy)))
		error = CUDA_ERROR_INVALID_VALUE;
	if (error)
		return error;
	*out = (struct sc_work){.type = CU_GRAPH_NODE_TYPE_MEMCPY, .params.memcpy = *p};
	return sc_copy_op("a memcpy node", &copy, &out->op);
}

CUresult sc_work_of_memset(const CUDA_MEMSET_NODE_PARAMS *p, struct sc_work *out)
{
	struct sc_copy copy;
	CUresult error = p ? sc_copy_of_memset(p, &copy) : CUDA_ERROR_INVALID_VALUE;

	if (!error && !sc_copy_is_valid(&copy))
		error = CUDA_ERROR_INVALID_VALUE;
	if (error)
		return error;
	*out = (struct sc_work){.type = CU_GRAPH_NODE_TYPE_MEMSET, .params.memset = *p};
	return sc_copy_op("a memset node", &copy, &out->op);
}

CUresult sc_work_of_host(const CUDA_HOST_NODE_PARAMS *p, struct sc_work *out)
{
	if (!p || !p->fn)
		return CUDA_ERROR_INVALID_VALUE;
	*out = (struct sc_work){.type = CU_GRAPH_NODE_TYPE_HOST, .params.host = *p};
	return sc_host_op(p->fn, p->userData, &out->op);
}

CUresult sc_work_of_words(const CUDA_BATCH_MEM_OP_NODE_PARAMS *p, struct sc_work *out)
{
	*out = (struct sc_work){.type = CU_GRAPH_NODE_TYPE_BATCH_MEM_OP};
	return sc_words_op(p, &out->op);
}

CUresult sc_work_of_event(CUgraphNodeType type, CUevent event, struct sc_work *out)
{
	if (!sc_event_exists(event))
		return CUDA_ERROR_INVALID_HANDLE;
	*out = (struct sc_work){.type = type, .event = sc_key(event)};
	return CUDA_SUCCESS;
}

CUresult sc_work_of_child(CUgraph graph, struct sc_work *out)
{
	const struct sc_graph *found = sc_graph_find(graph);

	if (!found)
		return CUDA_ERROR_INVALID_HANDLE;
	*out = (struct sc_work){.type = CU_GRAPH_NODE_TYPE_GRAPH};
	return sc_graph_copy(found, true, &out->child);
}

#if CUDA_VERSION >= 12020
static CUresult kernel_of(const CUDA_KERNEL_NODE_PARAMS_v3 *p, struct sc_work *out)
{
	const CUDA_KERNEL_NODE_PARAMS_v2 same = {p->func, p->gridDimX, p->gridDimY, p->gridDimZ, p->blockDimX,
		p->blockDimY, p->blockDimZ, p->sharedMemBytes, p->kernelParams, p->extra, p->kern, p->ctx};

	return sc_work_of_kernel(&same, false, out);
}

static CUresult memset_of(const CUDA_MEMSET_NODE_PARAMS_v2 *p, struct sc_work *out)
{
	const CUDA_MEMSET_NODE_PARAMS same = {p->dst, p->pitch, p->value, p->elementSize, p->width, p->height};

	return sc_work_of_memset(&same, out);
}

static CUresult child_of(CUgraph graph, struct sc_work *out)
{
	CUresult error;

	pthread_mutex_lock(&sc_lock);
	error = sc_work_of_child(graph, out);
	pthread_mutex_unlock(&sc_lock);
	return error;
}

CUresult sc_work_of_any(const CUgraphNodeParams *p, struct sc_work *out)
{
	switch (p->type) {
	case CU_GRAPH_NODE_TYPE_KERNEL:
		return kernel_of(&p->kernel, out);
	case CU_GRAPH_NODE_TYPE_MEMCPY:
		return sc_work_of_memcpy(&p->memcpy.copyParams, out);
	case CU_GRAPH_NODE_TYPE_MEMSET:
		return memset_of(&p->memset, out);
	case CU_GRAPH_NODE_TYPE_HOST:
		return sc_work_of_host(&(CUDA_HOST_NODE_PARAMS){p->host.fn, p->host.userData}, out);
	case CU_GRAPH_NODE_TYPE_BATCH_MEM_OP:
		return sc_work_of_words(&(CUDA_BATCH_MEM_OP_NODE_PARAMS){p->memOp.ctx, p->memOp.count,
						p->memOp.paramArray, p->memOp.flags},
			out);
	case CU_GRAPH_NODE_TYPE_GRAPH:
		return child_of(p->graph.graph, out);
	case CU_GRAPH_NODE_TYPE_EMPTY:
		*out = (struct sc_work){.type = CU_GRAPH_NODE_TYPE_EMPTY};
		return CUDA_SUCCESS;
	case CU_GRAPH_NODE_TYPE_WAIT_EVENT:
		return sc_work_of_event(p->type, p->eventWait.event, out);
	case CU_GRAPH_NODE_TYPE_EVENT_RECORD:
		return sc_work_of_event(p->type, p->eventRecord.event, out);
	default: /* semaphores, memory, conditions */
		return CUDA_ERROR_NOT_SUPPORTED;
	}
}
#endif
