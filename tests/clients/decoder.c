/*
 * tests/clients/decoder.c: a small decoder on CUDA's driver API, as an engine that nobody of kvshare has written would be:
 * it appends a row of K and V for each layer and token with one kernel, and attends with another. Its output is the last
 * hidden state of each token, as hexadecimal numbers.
 *
 * usage: decoder [OPTION=VALUE...] MODULE
 *   layout=slab|tensors|halves  one allocation for all layers, one for each K and V, one for each layer (default slab)
 *   layout=blocks|pages         one allocation in which each block of 16 rows has K and V of all layers in turn; one for each
 *                               layer, in which it has K and V; both with store=paged
 *   layout=odd                  two unequal allocations: one with a head of 2 MiB and V before K, one from the last layer down
 *   order=kv|kkvv               K and V of each layer in turn, or all K before all V
 *   layers=N bytes=N tokens=N   (4, 4194304 for each K and V of a layer, 8)
 *   owners=LIST                 the program itself lets layers read the K and V of others: what sharing has to equal
 *   policy=owner|last           with owners: layers that read others' do not store, or they store there too
 *   store=set_rows|hidden|struct|table|fused
 *   store=paged                 K and V by one kernel, block by block
 *   store=map|maps              through a tensor map: of one K or V, or one of the whole slab
 *   launch=plain|ex|extra|cooperative
 *   alloc=plain|pitch|async|pool  rows of 500 bytes, 512 apart; in the order of a stream; from a pool of the program's own
 *   alloc=segments|mapped|expandable   as caching allocators do: carved out of allocations of 20 MiB; one
 *                               reservation for each, with memory of its own; carved out of one reservation that grows by 20 MiB
 *   alloc=early|bare             as mapped, with memory that is made before any reservation; reserved while no context is current
 *   weights=N                   so many plain allocations of `bytes` bytes come before the cache
 *   sleep=1|2                   the memory (2: of the first layer) that it maps is given back after the last token, made anew, and all tokens run again
 *   streams=default|own
 *   graph=none|capture|nodes    each token's launches are captured, and replayed twice; or stores are nodes, set once more
 * On stderr: the device memory in use once the cache is there, and the process's PSS, of which shmem_kb is where softcuda has its own.
 */
#include <cuda.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define WIDTH 32
#define MAX_LAYERS 64
#define BLOCK_ROWS 16
#define BLOCK_BYTES (BLOCK_ROWS * WIDTH * sizeof(float)) /* K, or V, of one layer */

static struct {
	const char *layout, *order, *owners, *policy, *store, *launch, *alloc, *streams, *graph, *module;
	long layers, bytes, tokens, sleep, weights;
} options = {"slab", "kv", NULL, "owner", "set_rows", "plain", "plain", "own", "none", NULL, 4, 4 << 20, 8, 0, 0};

static CUdeviceptr allocations[4 * MAX_LAYERS], cache[2][MAX_LAYERS]; /* cache[0]: K, cache[1]: V */
static int allocation_count, owner[MAX_LAYERS];
static CUdeviceptr x, q, k, v, row, table; /* table: the addresses of K and V of layer 0, of layer 1, ... */
static CUstream stream;
static CUmodule module;

static void check(CUresult result, const char *what)
{
	const char *name = "?";

	if (result == CUDA_SUCCESS)
		return;
	cuGetErrorName(result, &name);
	fprintf(stderr, "decoder: %s: %s (%d)\n", what, name, result);
	exit(1);
}

static void option_read(const char *text)
{
	const struct {
		const char *name, **word;
		long *number;
	} known[] = {{"layout=", &options.layout, NULL}, {"order=", &options.order, NULL},
		{"owners=", &options.owners, NULL}, {"policy=", &options.policy, NULL},
		{"store=", &options.store, NULL}, {"launch=", &options.launch, NULL}, {"alloc=", &options.alloc, NULL},
		{"streams=", &options.streams, NULL}, {"graph=", &options.graph, NULL},
		{"layers=", NULL, &options.layers}, {"bytes=", NULL, &options.bytes},
		{"tokens=", NULL, &options.tokens}, {"sleep=", NULL, &options.sleep},
		{"weights=", NULL, &options.weights}};

	for (size_t i = 0; i < sizeof(known) / sizeof(*known); i++) {
		size_t length = strlen(known[i].name);

		if (strncmp(text, known[i].name, length))
			continue;
		if (known[i].word)
			*known[i].word = text + length;
		else
			*known[i].number = atol(text + length);
		return;
	}
	options.module = text;
}

static void owners_read(void)
{
	const char *at = options.owners;

	for (int layer = 0; layer < options.layers; layer++) {
		owner[layer] = layer;
		if (!at)
			continue;
		owner[layer] = atoi(at);
		at = strchr(at, ',');
		at += at != NULL;
	}
}

#define SEGMENT_BYTES (20ul << 20)
#define RESERVED_BYTES (512ul << 20)
#define GRANULE (2ul << 20)
#define HEAD_BYTES (6ul << 20) /* something else of the program's comes first */

/* ---- as caching allocators do ---- */

static CUdeviceptr segment;
static size_t segment_used = SEGMENT_BYTES;

static CUdeviceptr segment_carve(size_t bytes)
{
	if (segment_used + bytes > SEGMENT_BYTES) {
		check(cuMemAlloc(&segment, SEGMENT_BYTES), "cuMemAlloc");
		check(cuMemsetD8(segment, 0, SEGMENT_BYTES), "cuMemsetD8");
		allocations[allocation_count++] = segment;
		segment_used = 0;
	}
	segment_used += bytes;
	return segment + segment_used - bytes;
}

static struct range {
	CUdeviceptr base;
	size_t bytes, step, mapped, used;
} ranges[2 * MAX_LAYERS];
static int range_count;

/* alloc=early: the memory is there before the first range is reserved. */
static CUmemGenericAllocationHandle early[2 * MAX_LAYERS];
static int early_count, early_used;

static void early_make(void)
{
	const CUmemAllocationProp prop = {
		.type = CU_MEM_ALLOCATION_TYPE_PINNED, .location = {.type = CU_MEM_LOCATION_TYPE_DEVICE}};

	for (; early_count < 2 * options.layers; early_count++)
		check(cuMemCreate(&early[early_count], (size_t)options.bytes, &prop, 0), "cuMemCreate");
}

/* Handles of `step` bytes up to `bytes` behind the base. The program's own reference goes at once: the mapping holds the memory. */
static void range_grow(struct range *range, size_t bytes)
{
	const CUmemAllocationProp prop = {
		.type = CU_MEM_ALLOCATION_TYPE_PINNED, .location = {.type = CU_MEM_LOCATION_TYPE_DEVICE}};
	const CUmemAccessDesc access = {{.type = CU_MEM_LOCATION_TYPE_DEVICE}, CU_MEM_ACCESS_FLAGS_PROT_READWRITE};
	CUmemGenericAllocationHandle handle, again;
	CUmemAllocationProp found;
	unsigned long long flags;

	for (; range->mapped < bytes; range->mapped += range->step) {
		CUdeviceptr at = range->base + range->mapped;

		if (early_used < early_count)
			handle = early[early_used++];
		else
			check(cuMemCreate(&handle, range->step, &prop, 0), "cuMemCreate");
		check(cuMemMap(at, range->step, 0, handle, 0), "cuMemMap");
		check(cuMemSetAccess(at, range->step, &access, 1), "cuMemSetAccess");
		check(cuMemGetAllocationPropertiesFromHandle(&found, handle), "cuMemGetAllocationPropertiesFromHandle");
		check(cuMemRetainAllocationHandle(&again, (void *)at), "cuMemRetainAllocationHandle");
		check(cuMemRelease(again), "cuMemRelease");
		check(cuMemRelease(handle), "cuMemRelease");
		check(cuMemGetAccess(&flags, &access.location, at + range->step - 1), "cuMemGetAccess");
		if (found.type != prop.type || flags != access.flags)
			check(CUDA_ERROR_UNKNOWN, "properties of mapped memory");
		check(cuMemsetD8(at, 0, range->step), "cuMemsetD8");
	}
}

/* alloc=bare: while no context is current. */
static void range_reserve(struct range *range)
{
	CUcontext context;

	check(cuCtxGetCurrent(&context), "cuCtxGetCurrent");
	if (!strcmp(options.alloc, "bare"))
		check(cuCtxSetCurrent(NULL), "cuCtxSetCurrent");
	check(cuMemAddressReserve(&range->base, range->bytes, 0, 0, 0), "cuMemAddressReserve");
	check(cuCtxSetCurrent(context), "cuCtxSetCurrent");
}

static CUdeviceptr mapped_carve(size_t bytes, size_t reserve)
{
	struct range *range = &ranges[range_count ? range_count - 1 : 0];

	if (!range_count || reserve != RESERVED_BYTES) {
		range = &ranges[range_count++];
		range->bytes = (reserve + GRANULE - 1) / GRANULE * GRANULE;
		range->step = reserve == RESERVED_BYTES ? SEGMENT_BYTES : range->bytes;
		range->used = reserve == RESERVED_BYTES ? HEAD_BYTES : 0;
		range_reserve(range);
	}
	range->used += bytes;
	range_grow(range, range->used);
	return range->base + range->used - bytes;
}

static void ranges_unmap(void)
{
	/* sleep=2: of the first layer alone, in the order kv */
	for (int i = 0; i < (options.sleep == 2 ? 2 : range_count); i++) {
		check(cuMemUnmap(ranges[i].base, ranges[i].mapped), "cuMemUnmap");
		ranges[i].mapped = 0;
	}
}

static void ranges_wake(void)
{
	for (int i = 0; i < range_count; i++)
		range_grow(&ranges[i], ranges[i].used);
}

static void ranges_free(void)
{
	options.sleep = 0;
	ranges_unmap();
	for (int i = 0; i < range_count; i++)
		check(cuMemAddressFree(ranges[i].base, ranges[i].bytes), "cuMemAddressFree");
}

static CUdeviceptr pitch_allocate(size_t bytes)
{
	CUdeviceptr memory;
	size_t pitch;

	check(cuMemAllocPitch(&memory, &pitch, 500, bytes / 512, 4), "cuMemAllocPitch");
	check(pitch == 512 ? CUDA_SUCCESS : CUDA_ERROR_UNKNOWN, "the pitch");
	return memory;
}

static CUdeviceptr pool_allocate(size_t bytes)
{
	const CUmemPoolProps props = {
		.allocType = CU_MEM_ALLOCATION_TYPE_PINNED, .location = {.type = CU_MEM_LOCATION_TYPE_DEVICE}};
	static CUmemoryPool pool;
	CUdeviceptr memory;

	if (!pool)
		check(cuMemPoolCreate(&pool, &props), "cuMemPoolCreate");
	check(cuMemAllocFromPoolAsync(&memory, bytes, pool, stream), "cuMemAllocFromPoolAsync");
	return memory;
}

static CUdeviceptr allocate(size_t bytes)
{
	CUdeviceptr memory;

	if (!strcmp(options.alloc, "async"))
		check(cuMemAllocAsync(&memory, bytes, stream), "cuMemAllocAsync");
	else if (!strcmp(options.alloc, "pitch"))
		memory = pitch_allocate(bytes);
	else if (!strcmp(options.alloc, "pool"))
		memory = pool_allocate(bytes);
	else if (!strcmp(options.alloc, "segments"))
		return segment_carve(bytes);
	else if (!strcmp(options.alloc, "mapped") || !strcmp(options.alloc, "early") || !strcmp(options.alloc, "bare"))
		return mapped_carve(bytes, bytes);
	else if (!strcmp(options.alloc, "expandable"))
		return mapped_carve(bytes, RESERVED_BYTES);
	else
		check(cuMemAlloc(&memory, bytes), "cuMemAlloc");
	allocations[allocation_count++] = memory;
	check(cuMemsetD8(memory, 0, bytes), "cuMemsetD8");
	return memory;
}

static void cache_make_odd(size_t bytes, int layers)
{
	size_t head = 2 << 20, half = layers / 2;
	CUdeviceptr first = allocate(head + 2 * half * bytes), second = allocate(2 * (layers - half) * bytes);

	for (int layer = 0; layer < layers; layer++) {
		CUdeviceptr at = layer < (int)half ? first + head + 2 * layer * bytes
						   : second + 2 * (layers - 1 - layer) * bytes;

		cache[1][layer] = at;
		cache[0][layer] = at + bytes;
	}
}

/* From a block to the next one of the same tensor, in blocks. */
static int block_stride(void)
{
	if (!strcmp(options.layout, "blocks"))
		return 2 * (int)options.layers;
	return !strcmp(options.layout, "pages") ? 2 : 1;
}

static void cache_make_blocks(size_t bytes, int layers)
{
	CUdeviceptr all = block_stride() > 2 ? allocate(2 * layers * bytes) : 0;

	for (int layer = 0; layer < layers; layer++) {
		cache[0][layer] = all ? all + 2 * layer * BLOCK_BYTES : allocate(2 * bytes);
		cache[1][layer] = cache[0][layer] + BLOCK_BYTES;
	}
}

static void cache_make(void)
{
	size_t bytes = (size_t)options.bytes;
	int layers = (int)options.layers;
	CUdeviceptr slab = !strcmp(options.layout, "slab") ? allocate(2 * layers * bytes) : 0;

	if (!strcmp(options.layout, "odd")) {
		cache_make_odd(bytes, layers);
		return;
	}
	if (block_stride() > 1) {
		cache_make_blocks(bytes, layers);
		return;
	}
	for (int i = 0; i < 2 * layers; i++) {
		int interleaved = !strcmp(options.order, "kv") || !strcmp(options.layout, "halves");
		int which = interleaved ? i % 2 : i / layers, layer = interleaved ? i / 2 : i % layers;

		if (slab)
			cache[which][layer] = slab + i * bytes;
		else if (!strcmp(options.layout, "tensors"))
			cache[which][layer] = allocate(bytes);
		else
			cache[which][layer] = which ? cache[0][layer] + bytes : allocate(2 * bytes);
	}
}

static void cache_free(void)
{
	for (int i = 0; i < allocation_count; i++) {
		if (!strcmp(options.alloc, "async") || !strcmp(options.alloc, "pool"))
			check(cuMemFreeAsync(allocations[i], stream), "cuMemFreeAsync");
		else
			check(cuMemFree(allocations[i]), "cuMemFree");
	}
	ranges_free();
}

static void launch(const char *name, void **params, size_t bytes, void *packed)
{
	void *extra[] = {
		CU_LAUNCH_PARAM_BUFFER_POINTER, packed, CU_LAUNCH_PARAM_BUFFER_SIZE, &bytes, CU_LAUNCH_PARAM_END};
	const CUlaunchConfig config = {1, 1, 1, WIDTH, 1, 1, 0, stream, NULL, 0};
	CUfunction function;
	CUresult result;

	check(cuModuleGetFunction(&function, module, name), name);
	if (!strcmp(options.launch, "ex"))
		result = cuLaunchKernelEx(&config, function, params, NULL);
	else if (!strcmp(options.launch, "cooperative"))
		result = cuLaunchCooperativeKernel(function, 1, 1, 1, WIDTH, 1, 1, 0, stream, params);
	else if (!strcmp(options.launch, "extra") && packed)
		result = cuLaunchKernel(function, 1, 1, 1, WIDTH, 1, 1, 0, stream, NULL, extra);
	else
		result = cuLaunchKernel(function, 1, 1, 1, WIDTH, 1, 1, 0, stream, params, NULL);
	check(result, name);
}

static void table_make(void)
{
	for (int i = 0; i < 2 * options.layers; i++)
		check(cuMemcpyHtoD(table + i * sizeof(table), &cache[i % 2][i / 2], sizeof(table)), "cuMemcpyHtoD");
}

static void table_store(CUdeviceptr from, CUdeviceptr to)
{
	int width = WIDTH, entry = 0;

	while (cache[entry % 2][entry / 2] != to)
		entry++;
	launch("client_table_store", (void *[]){&from, &row, &table, &entry, &width}, 0, NULL);
}

/* A map of one tensor, or of all; the kernel counts rows from its start. */
static void map_store(CUdeviceptr from, CUdeviceptr to, int all)
{
	const CUdeviceptr base = all ? cache[0][0] : to;
	cuuint64_t rows = (cuuint64_t)options.bytes / (WIDTH * sizeof(float)) * (all ? 2 * options.layers : 1);
	const cuuint64_t dimensions[] = {WIDTH, rows}, strides[] = {WIDTH * sizeof(float)};
	const cuuint32_t box[] = {WIDTH, 1}, steps[] = {1, 1};
	long long first = (long long)((to - base) / (WIDTH * sizeof(float)));
	int width = WIDTH;
	CUtensorMap map;

	check(cuTensorMapEncodeTiled(&map, CU_TENSOR_MAP_DATA_TYPE_FLOAT32, 2, (void *)(uintptr_t)x, dimensions,
		      strides, box, steps, CU_TENSOR_MAP_INTERLEAVE_NONE, CU_TENSOR_MAP_SWIZZLE_NONE,
		      CU_TENSOR_MAP_L2_PROMOTION_NONE, CU_TENSOR_MAP_FLOAT_OOB_FILL_NONE),
		"cuTensorMapEncodeTiled");
	check(cuTensorMapReplaceAddress(&map, (void *)(uintptr_t)base), "cuTensorMapReplaceAddress");
	launch("client_map_store", (void *[]){&from, &row, &map, &first, &width}, 0, NULL);
}

static void project(CUdeviceptr out, unsigned seed)
{
	int width = WIDTH;

	launch("client_project", (void *[]){&x, &out, &seed, &width}, 0, NULL);
}

/* The same store as a graph of one node, whose parameters are set again before it runs. */
static void store_node(void **params)
{
	CUDA_KERNEL_NODE_PARAMS node = {.gridDimX = 1,
		.gridDimY = 1,
		.gridDimZ = 1,
		.blockDimX = WIDTH,
		.blockDimY = 1,
		.blockDimZ = 1,
		.kernelParams = params};
	CUgraphNode handle;
	CUgraphExec exec;
	CUgraph graph;

	check(cuModuleGetFunction(&node.func, module, "client_set_rows"), "client_set_rows");
	check(cuGraphCreate(&graph, 0), "cuGraphCreate");
	check(cuGraphAddKernelNode(&handle, graph, NULL, 0, &node), "cuGraphAddKernelNode");
	check(cuGraphKernelNodeSetParams(handle, &node), "cuGraphKernelNodeSetParams");
	check(cuGraphInstantiate(&exec, graph, 0), "cuGraphInstantiate");
	check(cuGraphLaunch(exec, stream), "cuGraphLaunch");
	check(cuGraphExecKernelNodeSetParams(exec, handle, &node), "cuGraphExecKernelNodeSetParams");
	check(cuGraphLaunch(exec, stream), "cuGraphLaunch");
	check(cuStreamSynchronize(stream), "cuStreamSynchronize");
	check(cuGraphExecDestroy(exec), "cuGraphExecDestroy");
	check(cuGraphDestroy(graph), "cuGraphDestroy");
}

static void store(CUdeviceptr from, CUdeviceptr to)
{
	struct {
		CUdeviceptr src, row, dst;
		int width, pad;
	} packed = {from, row, to, WIDTH, 0};
	struct {
		CUdeviceptr src, row;
		int width, pad;
		CUdeviceptr dst;
	} copy = {from, row, WIDTH, 0, to};
	void *params[] = {&packed.src, &packed.row, &packed.dst, &packed.width};

	if (!strcmp(options.graph, "nodes"))
		store_node(params);
	else if (!strcmp(options.store, "struct"))
		launch("client_index_copy", (void *[]){&copy}, sizeof(copy), &copy);
	else if (!strcmp(options.store, "table"))
		table_store(from, to);
	else if (!strncmp(options.store, "map", 3))
		map_store(from, to, !strcmp(options.store, "maps"));
	else if (!strcmp(options.store, "hidden"))
		launch("client_hidden_store", params, sizeof(packed), &packed);
	else
		launch("client_set_rows", params, sizeof(packed), &packed);
	if (packed.dst != to || copy.dst != to) {
		fprintf(stderr, "decoder: its own parameters were changed\n");
		exit(1);
	}
}

static void store_paged(int layer)
{
	struct {
		CUdeviceptr k, v, k_cache, v_cache, row;
		long long stride;
		int rows, width;
	} packed = {k, v, cache[0][layer], cache[1][layer], row, block_stride() * (long long)BLOCK_ROWS * WIDTH,
		BLOCK_ROWS, WIDTH};

	launch("client_reshape_and_cache",
		(void *[]){&packed.k, &packed.v, &packed.k_cache, &packed.v_cache, &packed.row, &packed.stride,
			&packed.rows, &packed.width},
		sizeof(packed), &packed);
}

static void layer_run(int layer, int tokens, int step)
{
	int width = WIDTH, from = owner[layer];

	project(q, 3 * layer);
	project(k, 3 * layer + 1);
	project(v, 3 * layer + 2);
	if (!strcmp(options.store, "fused")) {
		launch("client_masked_multihead_attention",
			(void *[]){&q, &k, &v, &cache[0][from], &cache[1][from], &x, &tokens, &step, &width}, 0, NULL);
		return;
	}
	if (!strcmp(options.store, "paged")) {
		step *= block_stride(); /* tokens are whole blocks apart */
		if (from == layer || !strcmp(options.policy, "last"))
			store_paged(from);
	} else if (from == layer || !strcmp(options.policy, "last")) {
		store(k, cache[0][from]);
		store(v, cache[1][from]);
	}
	launch("client_attend", (void *[]){&q, &cache[0][from], &cache[1][from], &x, &tokens, &step, &width}, 0, NULL);
}

static void layers_run(int token, int step)
{
	for (int layer = 0; layer < options.layers; layer++)
		layer_run(layer, token + 1, step);
}

/* The second replay starts from the same state, and must come to the same. */
static void token_capture(int token, int step, const float *state, size_t bytes)
{
	CUgraphExec exec;
	CUgraph graph;

	check(cuStreamSynchronize(stream), "cuStreamSynchronize");
	check(cuStreamBeginCapture(stream, CU_STREAM_CAPTURE_MODE_GLOBAL), "cuStreamBeginCapture");
	layers_run(token, step);
	check(cuStreamEndCapture(stream, &graph), "cuStreamEndCapture");
	check(cuGraphInstantiate(&exec, graph, 0), "cuGraphInstantiate");
	check(cuGraphDestroy(graph), "cuGraphDestroy"); /* what was made of it goes on */
	check(cuGraphLaunch(exec, stream), "cuGraphLaunch");
	check(cuMemcpyHtoDAsync(x, state, bytes, stream), "cuMemcpyHtoDAsync");
	check(cuGraphLaunch(exec, stream), "cuGraphLaunch");
	check(cuStreamSynchronize(stream), "cuStreamSynchronize");
	check(cuGraphExecDestroy(exec), "cuGraphExecDestroy");
}

/* The rows of the tokens are spread over the whole cache, so that all of its pages are used. */
static void token_run(int token)
{
	int step = (int)(options.bytes / (WIDTH * sizeof(float)) / options.tokens);
	long long at = (long long)token * step;
	float state[WIDTH];

	for (int i = 0; i < WIDTH; i++)
		state[i] = (float)((token * 7 + i * 3) % 11 - 5) / 5;
	check(cuMemcpyHtoDAsync(x, state, sizeof(state), stream), "cuMemcpyHtoDAsync");
	check(cuMemcpyHtoDAsync(row, &at, sizeof(at), stream), "cuMemcpyHtoDAsync");
	if (!strcmp(options.graph, "capture"))
		token_capture(token, step, state, sizeof(state));
	else
		layers_run(token, step);
	check(cuMemcpyDtoHAsync(state, x, sizeof(state), stream), "cuMemcpyDtoHAsync");
	check(cuStreamSynchronize(stream), "cuStreamSynchronize");
	for (int i = 0; i < WIDTH; i++) {
		uint32_t bits;

		memcpy(&bits, &state[i], sizeof(bits));
		printf("%08x%c", bits, i + 1 < WIDTH ? ' ' : '\n');
	}
}

static void memory_tell(void)
{
	FILE *rollup;
	size_t left, total;
	long pss = 0, shared = 0;
	char line[256];

	check(cuMemGetInfo(&left, &total), "cuMemGetInfo");
	check(cuCtxSynchronize(),
		"cuCtxSynchronize"); /* a memset returns before it is done, and pages count once written */
	rollup = fopen("/proc/self/smaps_rollup", "r");
	while (rollup && fgets(line, sizeof(line), rollup))
		if (sscanf(line, "Pss: %ld", &pss) != 1)
			sscanf(line, "Pss_Shmem: %ld", &shared);
	if (rollup)
		fclose(rollup);
	fprintf(stderr, "device_bytes %zu shmem_kb %ld pss_kb %ld\n", total - left, shared, pss);
}

int main(int argc, char **argv)
{
	CUcontext context;
	CUdevice device;

	for (int i = 1; i < argc; i++)
		option_read(argv[i]);
	if (!options.module || options.layers < 1 || options.layers > MAX_LAYERS)
		return 2;
	owners_read();
	check(cuInit(0), "cuInit");
	check(cuDeviceGet(&device, 0), "cuDeviceGet");
	check(cuDevicePrimaryCtxRetain(&context, device), "cuDevicePrimaryCtxRetain");
	check(cuCtxSetCurrent(context), "cuCtxSetCurrent");
	check(cuModuleLoad(&module, options.module), "cuModuleLoad");
	if (!strcmp(options.streams, "own"))
		check(cuStreamCreate(&stream, CU_STREAM_DEFAULT), "cuStreamCreate");
	for (int i = 0; i < options.weights; i++)
		check(cuMemAlloc(&allocations[allocation_count++], (size_t)options.bytes), "cuMemAlloc");
	if (!strcmp(options.alloc, "early"))
		early_make();
	cache_make();
	memory_tell();
	check(cuMemAlloc(&x, 5 * WIDTH * sizeof(float)), "cuMemAlloc");
	q = x + WIDTH * sizeof(float);
	k = q + WIDTH * sizeof(float);
	v = k + WIDTH * sizeof(float);
	row = v + WIDTH * sizeof(float);
	if (!strcmp(options.store, "table")) {
		check(cuMemAlloc(&table, 2 * options.layers * sizeof(table)), "cuMemAlloc");
		table_make();
	}
	for (int token = 0; token < options.tokens; token++)
		token_run(token);
	if (options.sleep) {
		ranges_unmap();
		memory_tell();
		ranges_wake();
		memory_tell();
		for (int token = 0; token < options.tokens; token++)
			token_run(token);
	}
	cache_free();
	if (table)
		check(cuMemFree(table), "cuMemFree");
	check(cuMemFree(x), "cuMemFree");
	if (stream)
		check(cuStreamDestroy(stream), "cuStreamDestroy");
	check(cuModuleUnload(module), "cuModuleUnload");
	check(cuDevicePrimaryCtxRelease(device), "cuDevicePrimaryCtxRelease");
	return 0;
}
