/*
 * tools/preload/maps.c: hooks of tensor maps. What a map holds is the driver's secret, so each one that the program makes is kept, with
 * the memory that it is of; one that a launch is handed is found by its words. In a kernel that stores K or V, one of a borrower's
 * becomes one of the sink, by cuTensorMapReplaceAddress on a copy.
 */
#include "maps.h"

#include <pthread.h>
#include <stdlib.h>
#include <string.h>

#define SLOTS                                                                                                          \
	((size_t)1                                                                                                     \
		<< 13) /* a power of two; a program with more maps than this loses the oldest of those with its hash */
#define WAYS 4

struct made {
	CUtensorMap words;
	struct shim_map map;
	unsigned long age; /* 0: none */
};

atomic_bool shim_map_any;
static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static struct made *table; /* [SLOTS][WAYS], from the first map on */
static unsigned long age;

static bool is_wanted(void)
{
	return !shim_settings()->off || shim_settings()->probe_path;
}

static struct made *row_of(const void *words)
{
	uint64_t hash = 0, word;

	for (size_t i = 0; i < CU_TENSOR_MAP_NUM_QWORDS; i++) {
		memcpy(&word, (const char *)words + i * sizeof(word), sizeof(word));
		hash = (hash ^ word) * 0x9e3779b97f4a7c15u;
		hash ^= hash >> 29;
	}
	return &table[hash % SLOTS * WAYS];
}

bool shim_map_known(const unsigned char *value, struct shim_map *out)
{
	bool known = false;

	pthread_mutex_lock(&lock);
	for (size_t way = 0; table && !known && way < WAYS; way++) {
		const struct made *made = &row_of(value)[way];

		known = made->age && !memcmp(&made->words, value, sizeof(made->words));
		if (known)
			*out = made->map;
	}
	pthread_mutex_unlock(&lock);
	return known;
}

static void keep(const CUtensorMap *words, struct shim_map map)
{
	struct made *row, *oldest;

	pthread_mutex_lock(&lock);
	if (!table)
		table = aligned_alloc(_Alignof(struct made), SLOTS * WAYS * sizeof(*table));
	if (table && !atomic_load(&shim_map_any))
		memset(table, 0, SLOTS * WAYS * sizeof(*table));
	if (table) {
		row = oldest = row_of(words);
		for (size_t way = 0; way < WAYS; way++) {
			if (row[way].age < oldest->age)
				oldest = &row[way];
			if (row[way].age && !memcmp(&row[way].words, words, sizeof(*words))) {
				oldest = &row[way];
				break;
			}
		}
		*oldest = (struct made){*words, map, ++age};
		atomic_store(&shim_map_any, true);
	}
	pthread_mutex_unlock(&lock);
}

/* From the first byte of the first element to the last of the last; packed types are counted as a byte. */
static size_t bytes_of(
	CUtensorMapDataType type, cuuint32_t rank, const cuuint64_t *dimensions, const cuuint64_t *strides)
{
	static const unsigned char element[] = {1, 2, 4, 4, 8, 8, 2, 4, 8, 2, 4, 4, 4};
	size_t bytes = dimensions[0] * ((size_t)type < sizeof(element) ? element[type] : 1);

	for (cuuint32_t i = 1; i < rank; i++)
		bytes += (dimensions[i] - 1) * strides[i - 1];
	return bytes;
}

static CUresult made(CUresult result, const CUtensorMap *words, CUtensorMapDataType type, cuuint32_t rank,
	const void *address, const cuuint64_t *dimensions, const cuuint64_t *strides)
{
	if (!result && is_wanted())
		keep(words,
			(struct shim_map){(CUdeviceptr)(uintptr_t)address, bytes_of(type, rank, dimensions, strides)});
	return shim_fault_check(result, NULL);
}

CUresult CUDAAPI cuTensorMapEncodeTiled(CUtensorMap *tensorMap, CUtensorMapDataType tensorDataType,
	cuuint32_t tensorRank, void *globalAddress, const cuuint64_t *globalDim, const cuuint64_t *globalStrides,
	const cuuint32_t *boxDim, const cuuint32_t *elementStrides, CUtensorMapInterleave interleave,
	CUtensorMapSwizzle swizzle, CUtensorMapL2promotion l2Promotion, CUtensorMapFloatOOBfill oobFill)
{
	struct shim_timer timer SHIM_TIMED = shim_timer_start(SHIM_TENSOR_MAPS);
	const struct shim_real *driver = shim_real();

	if (!driver->cuTensorMapEncodeTiled)
		return SHIM_ABSENT;
	return made(driver->cuTensorMapEncodeTiled(tensorMap, tensorDataType, tensorRank, globalAddress, globalDim,
			    globalStrides, boxDim, elementStrides, interleave, swizzle, l2Promotion, oobFill),
		tensorMap, tensorDataType, tensorRank, globalAddress, globalDim, globalStrides);
}

CUresult CUDAAPI cuTensorMapEncodeIm2col(CUtensorMap *tensorMap, CUtensorMapDataType tensorDataType,
	cuuint32_t tensorRank, void *globalAddress, const cuuint64_t *globalDim, const cuuint64_t *globalStrides,
	const int *pixelBoxLowerCorner, const int *pixelBoxUpperCorner, cuuint32_t channelsPerPixel,
	cuuint32_t pixelsPerColumn, const cuuint32_t *elementStrides, CUtensorMapInterleave interleave,
	CUtensorMapSwizzle swizzle, CUtensorMapL2promotion l2Promotion, CUtensorMapFloatOOBfill oobFill)
{
	struct shim_timer timer SHIM_TIMED = shim_timer_start(SHIM_TENSOR_MAPS);
	const struct shim_real *driver = shim_real();

	if (!driver->cuTensorMapEncodeIm2col)
		return SHIM_ABSENT;
	return made(driver->cuTensorMapEncodeIm2col(tensorMap, tensorDataType, tensorRank, globalAddress, globalDim,
			    globalStrides, pixelBoxLowerCorner, pixelBoxUpperCorner, channelsPerPixel, pixelsPerColumn,
			    elementStrides, interleave, swizzle, l2Promotion, oobFill),
		tensorMap, tensorDataType, tensorRank, globalAddress, globalDim, globalStrides);
}

CUresult CUDAAPI cuTensorMapEncodeIm2colWide(CUtensorMap *tensorMap, CUtensorMapDataType tensorDataType,
	cuuint32_t tensorRank, void *globalAddress, const cuuint64_t *globalDim, const cuuint64_t *globalStrides,
	int pixelBoxLowerCornerWidth, int pixelBoxUpperCornerWidth, cuuint32_t channelsPerPixel,
	cuuint32_t pixelsPerColumn, const cuuint32_t *elementStrides, CUtensorMapInterleave interleave,
	CUtensorMapIm2ColWideMode mode, CUtensorMapSwizzle swizzle, CUtensorMapL2promotion l2Promotion,
	CUtensorMapFloatOOBfill oobFill)
{
	struct shim_timer timer SHIM_TIMED = shim_timer_start(SHIM_TENSOR_MAPS);
	const struct shim_real *driver = shim_real();

	if (!driver->cuTensorMapEncodeIm2colWide)
		return SHIM_ABSENT;
	return made(driver->cuTensorMapEncodeIm2colWide(tensorMap, tensorDataType, tensorRank, globalAddress, globalDim,
			    globalStrides, pixelBoxLowerCornerWidth, pixelBoxUpperCornerWidth, channelsPerPixel,
			    pixelsPerColumn, elementStrides, interleave, mode, swizzle, l2Promotion, oobFill),
		tensorMap, tensorDataType, tensorRank, globalAddress, globalDim, globalStrides);
}

CUresult CUDAAPI cuTensorMapReplaceAddress(CUtensorMap *tensorMap, void *globalAddress)
{
	struct shim_timer timer SHIM_TIMED = shim_timer_start(SHIM_TENSOR_MAPS);
	const struct shim_real *driver = shim_real();
	struct shim_map map = {0, 1}; /* one that was lost: of its first byte */
	CUtensorMap before = {0};
	CUresult result;

	if (!driver->cuTensorMapReplaceAddress)
		return SHIM_ABSENT;
	if (tensorMap)
		before = *tensorMap;
	result = driver->cuTensorMapReplaceAddress(tensorMap, globalAddress);
	if (result || !is_wanted())
		return shim_fault_check(result, NULL);
	shim_map_known((const unsigned char *)&before, &map);
	map.address = (CUdeviceptr)(uintptr_t)globalAddress;
	keep(tensorMap, map);
	return result;
}

/* ---- what a launch is handed ---- */

enum shim_map_place shim_map_place(const struct shim_ranges *ranges, const struct shim_map *map, bool *shared)
{
	CUdeviceptr end = map->address + map->bytes;
	const struct shim_range *range = shim_range_next(ranges, map->address);
	bool borrows = false;

	for (; range && range->base < end; range = range + 1 < ranges->range + ranges->count ? range + 1 : NULL) {
		*shared = true;
		borrows |= range->sink != 0;
		if (range->sink && range->base <= map->address && end <= range->base + range->bytes)
			return SHIM_MAP_BORROWED;
	}
	return borrows ? SHIM_MAP_SPANS : SHIM_MAP_ELSEWHERE;
}

void shim_map_redirect(const struct shim_ranges *ranges, unsigned char *value, const struct shim_map *map)
{
	const struct shim_range *range = shim_range_find(ranges, map->address);
	CUtensorMap words;

	memcpy(&words, value, sizeof(words));
	if (range && range->sink && shim_real()->cuTensorMapReplaceAddress &&
		!shim_real()->cuTensorMapReplaceAddress(
			&words, (void *)(uintptr_t)(range->sink + (map->address - range->base))))
		memcpy(value, &words, sizeof(words));
}

void shim_map_spans(const char *kernel)
{
	static atomic_bool told;

	if (!atomic_exchange(&told, true))
		shim_say("kernel %s is handed a tensor map of several layers, some of which borrow: a store through it "
			 "into "
			 "one of these will fail",
			kernel);
}

void shim_maps_forget(void)
{
	pthread_mutex_init(&lock, NULL);
}
