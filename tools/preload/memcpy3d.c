/*
 * tools/preload/memcpy3d.c: hooks of copies in three dimensions and between contexts. As in memcpy.c, what is meant for a borrower
 * goes to its sink: a range of the same size, in which the arithmetic of rows and slices holds. A box over the edge of a
 * borrower is copied row by row.
 */
#include "preload.h"

#include "split.h"

#include <stddef.h>
#include <string.h>

/* Which of the driver's calls a box is for. */
struct call {
	__typeof__(cuMemcpy3D_v2) *plain;
	__typeof__(cuMemcpy3DAsync_v2) *plain_async;
	__typeof__(cuMemcpy3DPeer) *peer;
	__typeof__(cuMemcpy3DPeerAsync) *peer_async;
	CUstream stream;
};

/* The two structs are alike but for the contexts, which take the place of reserved words. */
_Static_assert(sizeof(CUDA_MEMCPY3D) == sizeof(CUDA_MEMCPY3D_PEER) &&
		       offsetof(CUDA_MEMCPY3D, dstDevice) == offsetof(CUDA_MEMCPY3D_PEER, dstDevice) &&
		       offsetof(CUDA_MEMCPY3D, Depth) == offsetof(CUDA_MEMCPY3D_PEER, Depth),
	"a box between contexts is laid out as one within a context");

static CUresult make(const CUDA_MEMCPY3D *box, const struct call *call)
{
	CUDA_MEMCPY3D_PEER peer;

	if (call->plain || call->plain_async)
		return call->plain ? call->plain(box) : call->plain_async(box, call->stream);
	if (!box)
		return call->peer ? call->peer(NULL) : call->peer_async(NULL, call->stream);
	memcpy(&peer, box, sizeof(peer));
	return call->peer ? call->peer(&peer) : call->peer_async(&peer, call->stream);
}

static CUdeviceptr start_of(const CUDA_MEMCPY3D *box, size_t slice, size_t row)
{
	size_t rows = (box->dstZ + slice) * box->dstHeight + box->dstY + row;

	return box->dstDevice + rows * box->dstPitch + box->dstXInBytes;
}

struct row {
	const CUDA_MEMCPY3D *box;
	const struct call *call;
	size_t slice, row;
};

static CUresult row_part_make(const void *arg, CUdeviceptr to, size_t offset, size_t bytes)
{
	const struct row *row = arg;
	CUDA_MEMCPY3D part = *row->box;

	part.srcZ += row->slice;
	part.srcY += row->row;
	part.srcXInBytes += offset;
	part.dstDevice = to;
	part.dstZ = part.dstY = part.dstXInBytes = 0;
	part.WidthInBytes = bytes;
	part.Height = part.Depth = 1;
	return make(&part, row->call);
}

/* A row may lie in several tensors. */
static CUresult rows_make(const CUDA_MEMCPY3D *box, const struct call *call)
{
	CUresult result = CUDA_SUCCESS;

	for (size_t i = 0; !result && i < box->Height * box->Depth; i++) {
		const struct row row = {box, call, i / box->Height, i % box->Height};

		result = shim_split(start_of(box, row.slice, row.row), box->WidthInBytes, row_part_make, &row);
	}
	return result;
}

static CUresult box(const CUDA_MEMCPY3D *copy, struct call call)
{
	struct shim_timer timer SHIM_TIMED = shim_timer_start(SHIM_COPIES);
	CUDA_MEMCPY3D tight, part;
	CUdeviceptr start, moved;

	if (!call.plain && !call.plain_async && !call.peer && !call.peer_async)
		return SHIM_ABSENT;
	if (!copy || !shim_ranges() || !copy->Height || !copy->Depth ||
		(copy->dstMemoryType != CU_MEMORYTYPE_DEVICE && copy->dstMemoryType != CU_MEMORYTYPE_UNIFIED))
		return shim_fault_check(make(copy, &call), NULL);
	part = tight = *copy;
	shim_tighten_3d(&tight);
	start = start_of(&tight, 0, 0);
	if (!shim_box_move(start, tight.dstPitch, tight.WidthInBytes,
		    (tight.Depth - 1) * tight.dstHeight + tight.Height, &moved))
		return shim_fault_check(rows_make(&tight, &call), NULL);
	part.dstDevice += moved - start;
	return shim_fault_check(make(&part, &call), NULL);
}

CUresult CUDAAPI cuMemcpy3D_v2(const CUDA_MEMCPY3D *pCopy)
{
	return box(pCopy, (struct call){.plain = shim_real()->cuMemcpy3D_v2});
}

CUresult CUDAAPI cuMemcpy3D_v2_ptds(const CUDA_MEMCPY3D *pCopy)
{
	return box(pCopy, (struct call){.plain = shim_real()->cuMemcpy3D_v2_ptds});
}

CUresult CUDAAPI cuMemcpy3DAsync_v2(const CUDA_MEMCPY3D *pCopy, CUstream hStream)
{
	return box(pCopy, (struct call){.plain_async = shim_real()->cuMemcpy3DAsync_v2, .stream = hStream});
}

CUresult CUDAAPI cuMemcpy3DAsync_v2_ptsz(const CUDA_MEMCPY3D *pCopy, CUstream hStream)
{
	return box(pCopy, (struct call){.plain_async = shim_real()->cuMemcpy3DAsync_v2_ptsz, .stream = hStream});
}

/* ---- between contexts: the sink is where its borrower is ---- */

static CUresult peer_box(const CUDA_MEMCPY3D_PEER *copy, struct call call)
{
	CUDA_MEMCPY3D plain;

	if (!copy)
		return box(NULL, call);
	memcpy(&plain, copy, sizeof(plain));
	return box(&plain, call);
}

CUresult CUDAAPI cuMemcpy3DPeer(const CUDA_MEMCPY3D_PEER *pCopy)
{
	return peer_box(pCopy, (struct call){.peer = shim_real()->cuMemcpy3DPeer});
}

CUresult CUDAAPI cuMemcpy3DPeer_ptds(const CUDA_MEMCPY3D_PEER *pCopy)
{
	return peer_box(pCopy, (struct call){.peer = shim_real()->cuMemcpy3DPeer_ptds});
}

CUresult CUDAAPI cuMemcpy3DPeerAsync(const CUDA_MEMCPY3D_PEER *pCopy, CUstream hStream)
{
	return peer_box(pCopy, (struct call){.peer_async = shim_real()->cuMemcpy3DPeerAsync, .stream = hStream});
}

CUresult CUDAAPI cuMemcpy3DPeerAsync_ptsz(const CUDA_MEMCPY3D_PEER *pCopy, CUstream hStream)
{
	return peer_box(pCopy, (struct call){.peer_async = shim_real()->cuMemcpy3DPeerAsync_ptsz, .stream = hStream});
}

struct line {
	CUdeviceptr from;
	CUcontext to_context, from_context;
	__typeof__(cuMemcpyPeer) *call;
	__typeof__(cuMemcpyPeerAsync) *call_async;
	CUstream stream;
};

static CUresult line_make(const void *arg, CUdeviceptr to, size_t offset, size_t bytes)
{
	const struct line *line = arg;
	CUdeviceptr from = line->from + offset;

	return line->call ? line->call(to, line->to_context, from, line->from_context, bytes)
			  : line->call_async(to, line->to_context, from, line->from_context, bytes, line->stream);
}

static CUresult line(CUdeviceptr to, size_t bytes, struct line line)
{
	struct shim_timer timer SHIM_TIMED = shim_timer_start(SHIM_COPIES);
	if (!line.call && !line.call_async)
		return SHIM_ABSENT;
	return shim_fault_check(shim_split(to, bytes, line_make, &line), NULL);
}

CUresult CUDAAPI cuMemcpyPeer(
	CUdeviceptr dstDevice, CUcontext dstContext, CUdeviceptr srcDevice, CUcontext srcContext, size_t ByteCount)
{
	return line(dstDevice, ByteCount,
		(struct line){srcDevice, dstContext, srcContext, shim_real()->cuMemcpyPeer, NULL, NULL});
}

CUresult CUDAAPI cuMemcpyPeer_ptds(
	CUdeviceptr dstDevice, CUcontext dstContext, CUdeviceptr srcDevice, CUcontext srcContext, size_t ByteCount)
{
	return line(dstDevice, ByteCount,
		(struct line){srcDevice, dstContext, srcContext, shim_real()->cuMemcpyPeer_ptds, NULL, NULL});
}

CUresult CUDAAPI cuMemcpyPeerAsync(CUdeviceptr dstDevice, CUcontext dstContext, CUdeviceptr srcDevice,
	CUcontext srcContext, size_t ByteCount, CUstream hStream)
{
	return line(dstDevice, ByteCount,
		(struct line){srcDevice, dstContext, srcContext, NULL, shim_real()->cuMemcpyPeerAsync, hStream});
}

CUresult CUDAAPI cuMemcpyPeerAsync_ptsz(CUdeviceptr dstDevice, CUcontext dstContext, CUdeviceptr srcDevice,
	CUcontext srcContext, size_t ByteCount, CUstream hStream)
{
	return line(dstDevice, ByteCount,
		(struct line){srcDevice, dstContext, srcContext, NULL, shim_real()->cuMemcpyPeerAsync_ptsz, hStream});
}
