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
