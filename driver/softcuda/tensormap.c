/*
 * driver/softcuda/tensormap.c: tensor maps, which tell the copy engine of newer GPUs where a tensor lies. Kernels here have no such
 * engine; a map can be made, looked into by a test's kernel, and told another address, whatever the device's compute capability.
 *
 * Programs may not look into one, so the address is not there as such: the first word has its bits inverted.
 */
#include "state.h"

#include <string.h>

/* The same for all kinds of map. */
struct shape {
	CUtensorMapDataType type;
	cuuint32_t rank;
	void *address;
	const cuuint64_t *dimensions, *strides;
	const cuuint32_t *steps;
	CUtensorMapInterleave interleave;
	CUtensorMapSwizzle swizzle;
	CUtensorMapL2promotion promotion;
	CUtensorMapFloatOOBfill fill;
};

#define MAX_RANK 5

/* Bits; of packed ones, what each takes in memory without the gaps. 0: no type. */
static size_t element_bits(CUtensorMapDataType type)
{
	static const unsigned char bits[] = {8, 16, 32, 32, 64, 64, 16, 32, 64, 16, 32, 32, 32, 4, 4, 6};

	return (size_t)type < sizeof(bits) ? bits[type] : 0;
}

static bool is_float(CUtensorMapDataType type)
{
	return type >= CU_TENSOR_MAP_DATA_TYPE_FLOAT16 && type <= CU_TENSOR_MAP_DATA_TYPE_TFLOAT32_FTZ;
}

static bool has_gaps(CUtensorMapDataType type)
{
	return type == CU_TENSOR_MAP_DATA_TYPE_16U4_ALIGN16B || type == CU_TENSOR_MAP_DATA_TYPE_16U6_ALIGN16B;
}

static bool dimensions_are_valid(const struct shape *s)
{
	const cuuint64_t most = (cuuint64_t)1 << 32;
	cuuint64_t unit = s->interleave == CU_TENSOR_MAP_INTERLEAVE_32B || has_gaps(s->type) ? 32 : 16;

	for (cuuint32_t i = 0; i < s->rank; i++)
		if (!s->dimensions[i] || s->dimensions[i] > most || !s->steps[i] || s->steps[i] > 8)
			return false;
	for (cuuint32_t i = 0; i + 1 < s->rank; i++)
		if (s->strides[i] % unit || s->strides[i] >= (cuuint64_t)1 << 40)
			return false;
	if (has_gaps(s->type) && s->dimensions[0] % 128)
		return false;
	return s->type != CU_TENSOR_MAP_DATA_TYPE_16U4_ALIGN8B || s->dimensions[0] % 2 == 0;
}

static bool shape_is_valid(const struct shape *s, cuuint32_t least_rank)
{
	size_t unit = s->interleave == CU_TENSOR_MAP_INTERLEAVE_32B || has_gaps(s->type) ? 32 : 16;

	if (!element_bits(s->type) || s->rank < least_rank || s->rank > MAX_RANK || !s->dimensions || !s->steps ||
		(s->rank > 1 && !s->strides))
		return false;
	if ((unsigned)s->interleave > CU_TENSOR_MAP_INTERLEAVE_32B ||
		(unsigned)s->swizzle > CU_TENSOR_MAP_SWIZZLE_128B_ATOM_64B ||
		(unsigned)s->promotion > CU_TENSOR_MAP_L2_PROMOTION_L2_256B ||
		(unsigned)s->fill > CU_TENSOR_MAP_FLOAT_OOB_FILL_NAN_REQUEST_ZERO_FMA)
		return false;
	if (s->interleave == CU_TENSOR_MAP_INTERLEAVE_32B && s->swizzle != CU_TENSOR_MAP_SWIZZLE_32B)
		return false;
	if ((s->interleave != CU_TENSOR_MAP_INTERLEAVE_NONE && s->rank < 3) || (uintptr_t)s->address % unit)
		return false;
	if (s->fill && !is_float(s->type))
		return false;
	return dimensions_are_valid(s);
}

/* "The bounding box inner dimension must be less than or equal to the swizzle size", and whole units of 16 bytes. */
static bool inner_is_valid(const struct shape *s, cuuint64_t elements)
{
	static const unsigned short most[] = {UINT16_MAX, 32, 64, 128, 128, 128, 128};
	cuuint64_t bytes = elements * element_bits(s->type) / 8;

	if (s->interleave != CU_TENSOR_MAP_INTERLEAVE_NONE)
		return true;
	return bytes <= most[s->swizzle] && (has_gaps(s->type) || bytes % 16 == 0);
}

static void encode(const struct shape *s, CUtensorMap *out)
{
	memset(out, 0, sizeof(*out));
	out->opaque[0] = ~(cuuint64_t)(uintptr_t)s->address;
	out->opaque[1] = (cuuint64_t)s->type | (cuuint64_t)s->rank << 8 | (cuuint64_t)s->interleave << 16 |
			 (cuuint64_t)s->swizzle << 24 | (cuuint64_t)s->promotion << 32 | (cuuint64_t)s->fill << 40;
	for (cuuint32_t i = 0; i < s->rank; i++)
		out->opaque[2 + i] = s->dimensions[i];
	for (cuuint32_t i = 0; i + 1 < s->rank; i++)
		out->opaque[2 + MAX_RANK + i] = s->strides[i];
}

CUresult CUDAAPI cuTensorMapEncodeTiled(CUtensorMap *tensorMap, CUtensorMapDataType tensorDataType,
	cuuint32_t tensorRank, void *globalAddress, const cuuint64_t *globalDim, const cuuint64_t *globalStrides,
	const cuuint32_t *boxDim, const cuuint32_t *elementStrides, CUtensorMapInterleave interleave,
	CUtensorMapSwizzle swizzle, CUtensorMapL2promotion l2Promotion, CUtensorMapFloatOOBfill oobFill)
{
	const struct shape shape = {tensorDataType, tensorRank, globalAddress, globalDim, globalStrides, elementStrides,
		interleave, swizzle, l2Promotion, oobFill};
	struct sc_context *context;
	CUresult error = sc_enter_context(__func__, &context);

	if (error)
		return error;
	if (!tensorMap || !boxDim || !shape_is_valid(&shape, 1) || !inner_is_valid(&shape, boxDim[0]) ||
		(has_gaps(tensorDataType) && boxDim[0] != 128))
		return CUDA_ERROR_INVALID_VALUE;
	for (cuuint32_t i = 0; i < tensorRank; i++)
		if (!boxDim[i] || boxDim[i] > 256)
			return CUDA_ERROR_INVALID_VALUE;
	encode(&shape, tensorMap);
	for (cuuint32_t i = 0; i < tensorRank; i++)
		tensorMap->opaque[12 + i / 2] |= (cuuint64_t)boxDim[i] << 32 * (i % 2);
	return CUDA_SUCCESS;
}

CUresult CUDAAPI cuTensorMapEncodeIm2col(CUtensorMap *tensorMap, CUtensorMapDataType tensorDataType,
	cuuint32_t tensorRank, void *globalAddress, const cuuint64_t *globalDim, const cuuint64_t *globalStrides,
	const int *pixelBoxLowerCorner, const int *pixelBoxUpperCorner, cuuint32_t channelsPerPixel,
	cuuint32_t pixelsPerColumn, const cuuint32_t *elementStrides, CUtensorMapInterleave interleave,
	CUtensorMapSwizzle swizzle, CUtensorMapL2promotion l2Promotion, CUtensorMapFloatOOBfill oobFill)
{
	const struct shape shape = {tensorDataType, tensorRank, globalAddress, globalDim, globalStrides, elementStrides,
		interleave, swizzle, l2Promotion, oobFill};
	struct sc_context *context;
	CUresult error = sc_enter_context(__func__, &context);

	if (error)
		return error;
	if (!tensorMap || !pixelBoxLowerCorner || !pixelBoxUpperCorner || !shape_is_valid(&shape, 3) ||
		!channelsPerPixel || channelsPerPixel > 256 || !pixelsPerColumn || pixelsPerColumn > 1024 ||
		!inner_is_valid(&shape, channelsPerPixel))
		return CUDA_ERROR_INVALID_VALUE;
	encode(&shape, tensorMap);
	tensorMap->opaque[12] = channelsPerPixel | (cuuint64_t)pixelsPerColumn << 32;
	for (cuuint32_t i = 0; i + 2 < tensorRank; i++)
		tensorMap->opaque[13 + i] =
			(cuuint32_t)pixelBoxLowerCorner[i] | (cuuint64_t)(cuuint32_t)pixelBoxUpperCorner[i] << 32;
	return CUDA_SUCCESS;
}

/* "tensorMap: Tensor map object to modify"; the address "must follow previous alignment requirements". */
CUresult CUDAAPI cuTensorMapReplaceAddress(CUtensorMap *tensorMap, void *globalAddress)
{
	struct sc_context *context;
	CUresult error = sc_enter_context(__func__, &context);

	if (error)
		return error;
	if (!tensorMap || (uintptr_t)globalAddress % 16)
		return CUDA_ERROR_INVALID_VALUE;
	tensorMap->opaque[0] = ~(cuuint64_t)(uintptr_t)globalAddress;
	return CUDA_SUCCESS;
}
