/*
 * driver/softcuda/copy3d.c: copies of slices of rows, and copies between contexts, which share one memory here.
 */
#include "copy.h"

#include <string.h>

/* One side, at its first byte. */
static CUresult side_3d(CUmemorytype type, CUdeviceptr device, const void *host, size_t pitch, size_t height,
	const size_t at[3], const CUDA_MEMCPY3D *p, struct sc_side *side)
{
	size_t start;

	if (!pitch)
		pitch = at[0] + p->WidthInBytes;
	if (!height)
		height = at[1] + p->Height;
	if (pitch < at[0] + p->WidthInBytes || height < at[1] + p->Height)
		return CUDA_ERROR_INVALID_VALUE;
	start = (at[2] * height + at[1]) * pitch + at[0];
	switch (type) {
	case CU_MEMORYTYPE_HOST:
		*side = sc_side_host((const char *)host + start, pitch);
		break;
	case CU_MEMORYTYPE_DEVICE:
		*side = sc_side_device((uintptr_t)device + start, pitch);
		break;
	case CU_MEMORYTYPE_UNIFIED:
		*side = sc_side_of((uintptr_t)device + start, pitch);
		break;
	default: /* CUDA arrays: there are none here */
		return CUDA_ERROR_NOT_SUPPORTED;
	}
	side->slice = pitch * height;
	return CUDA_SUCCESS;
}

CUresult sc_copy_of_3d(const CUDA_MEMCPY3D *p, struct sc_copy *copy)
{
	const size_t to[] = {p->dstXInBytes, p->dstY, p->dstZ}, from[] = {p->srcXInBytes, p->srcY, p->srcZ};
	CUresult error;

	if (p->srcLOD || p->dstLOD || p->reserved0 || p->reserved1)
		return CUDA_ERROR_INVALID_VALUE;
	*copy = (struct sc_copy){.width = p->WidthInBytes, .height = p->Height, .depth = p->Depth};
	error = side_3d(p->dstMemoryType, p->dstDevice, p->dstHost, p->dstPitch, p->dstHeight, to, p, &copy->to);
	return error ? error
		     : side_3d(p->srcMemoryType, p->srcDevice, p->srcHost, p->srcPitch, p->srcHeight, from, p,
			       &copy->from);
}

void sc_copy_describe(const struct sc_copy *copy, CUDA_MEMCPY3D *out)
{
	const struct sc_side *to = &copy->to, *from = &copy->from;

	*out = (CUDA_MEMCPY3D){.dstMemoryType = to->device ? CU_MEMORYTYPE_DEVICE : CU_MEMORYTYPE_HOST,
		.dstHost = to->device ? NULL : (void *)to->address,
		.dstDevice = to->device ? to->address : 0,
		.dstPitch = to->pitch,
		.dstHeight = copy->depth > 1 ? to->slice / to->pitch : copy->height,
		.srcMemoryType = from->device ? CU_MEMORYTYPE_DEVICE : CU_MEMORYTYPE_HOST,
		.srcHost = from->device ? NULL : (const void *)from->address,
		.srcDevice = from->device ? from->address : 0,
		.srcPitch = from->pitch,
		.srcHeight = copy->depth > 1 ? from->slice / from->pitch : copy->height,
		.WidthInBytes = copy->width,
		.Height = copy->height,
		.Depth = copy->depth};
}

void sc_memset_describe(const struct sc_copy *copy, CUDA_MEMSET_NODE_PARAMS *out)
{
	*out = (CUDA_MEMSET_NODE_PARAMS){.dst = copy->to.address,
		.pitch = copy->to.pitch,
		.value = copy->pattern,
		.elementSize = copy->pattern_bytes,
		.width = copy->width / copy->pattern_bytes,
		.height = copy->height};
}

CUresult sc_copy_of_memset(const CUDA_MEMSET_NODE_PARAMS *p, struct sc_copy *copy)
{
	if ((p->elementSize != 1 && p->elementSize != 2 && p->elementSize != 4) || p->dst % p->elementSize ||
		!p->width || !p->height || p->width > SIZE_MAX / p->elementSize ||
		(p->height > 1 && (p->pitch % p->elementSize || p->pitch < p->width * p->elementSize)))
		return CUDA_ERROR_INVALID_VALUE;
	*copy = (struct sc_copy){.pattern_bytes = p->elementSize,
		.pattern = p->value,
		.width = p->width * p->elementSize,
		.height = p->height,
		.depth = 1};
	copy->to = sc_side_device(p->dst, p->height > 1 ? p->pitch : copy->width);
	return CUDA_SUCCESS;
}

static CUresult copy_3d(const char *function, const CUDA_MEMCPY3D *p, CUstream stream, bool asynchronous)
{
	struct sc_context *context;
	struct sc_copy copy;
	CUresult error = sc_enter_context(function, &context);

	if (error)
		return error;
	if (!p)
		return CUDA_ERROR_INVALID_VALUE;
	error = sc_copy_of_3d(p, &copy);
	return error ? error : sc_copy_call(context, function, &copy, stream, asynchronous);
}

CUresult CUDAAPI cuMemcpy3D(const CUDA_MEMCPY3D *pCopy)
{
	return copy_3d(__func__, pCopy, NULL, false);
}

CUresult CUDAAPI cuMemcpy3DAsync(const CUDA_MEMCPY3D *pCopy, CUstream hStream)
{
	return copy_3d(__func__, pCopy, hStream, true);
}

/* ---- between contexts ---- */

static CUresult contexts_check(CUcontext to, CUcontext from)
{
	bool known;

	pthread_mutex_lock(&sc_lock);
	known = sc_object_find(SC_CONTEXT, sc_key(to)) && sc_object_find(SC_CONTEXT, sc_key(from));
	pthread_mutex_unlock(&sc_lock);
	return known ? CUDA_SUCCESS : CUDA_ERROR_INVALID_CONTEXT;
}

static CUresult copy_peer(const char *function, CUdeviceptr to, CUcontext to_context, CUdeviceptr from,
	CUcontext from_context, size_t bytes, CUstream stream, bool asynchronous)
{
	const struct sc_copy copy = {.to = sc_side_device(to, bytes),
		.from = sc_side_device(from, bytes),
		.width = bytes,
		.height = 1,
		.depth = 1};
	struct sc_context *context;
	CUresult error = sc_enter_context(function, &context);

	if (!error)
		error = contexts_check(to_context, from_context);
	return error ? error : sc_copy_call(context, function, &copy, stream, asynchronous);
}

CUresult CUDAAPI cuMemcpyPeer(
	CUdeviceptr dstDevice, CUcontext dstContext, CUdeviceptr srcDevice, CUcontext srcContext, size_t ByteCount)
{
	return copy_peer(__func__, dstDevice, dstContext, srcDevice, srcContext, ByteCount, NULL, false);
}

CUresult CUDAAPI cuMemcpyPeerAsync(CUdeviceptr dstDevice, CUcontext dstContext, CUdeviceptr srcDevice,
	CUcontext srcContext, size_t ByteCount, CUstream hStream)
{
	return copy_peer(__func__, dstDevice, dstContext, srcDevice, srcContext, ByteCount, hStream, true);
}

/* The same struct but for the contexts, which take the place of reserved words. */
static CUresult copy_peer_3d(const char *function, const CUDA_MEMCPY3D_PEER *p, CUstream stream, bool asynchronous)
{
	struct sc_context *context;
	struct sc_copy copy;
	CUDA_MEMCPY3D plain;
	CUresult error = sc_enter_context(function, &context);

	if (error)
		return error;
	if (!p)
		return CUDA_ERROR_INVALID_VALUE;
	_Static_assert(sizeof(plain) == sizeof(*p), "the two are laid out alike");
	memcpy(&plain, p, sizeof(plain));
	plain.reserved0 = plain.reserved1 = NULL;
	error = contexts_check(p->dstContext, p->srcContext);
	if (!error)
		error = sc_copy_of_3d(&plain, &copy);
	return error ? error : sc_copy_call(context, function, &copy, stream, asynchronous);
}

CUresult CUDAAPI cuMemcpy3DPeer(const CUDA_MEMCPY3D_PEER *pCopy)
{
	return copy_peer_3d(__func__, pCopy, NULL, false);
}

CUresult CUDAAPI cuMemcpy3DPeerAsync(const CUDA_MEMCPY3D_PEER *pCopy, CUstream hStream)
{
	return copy_peer_3d(__func__, pCopy, hStream, true);
}
