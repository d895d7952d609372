/*
 * Calls that kvshare does not make itself and that programs of others need: limits and preferences, occupancy, managed
 * memory, words that a stream writes and waits for, copies of slices, between contexts, in batches and of arrays, tensor maps, variables and kernels of modules
 * and libraries, the linker. Quotations are from the comments of cuda.h (CUDA 13.0) at the function named.
 */
#include "conformance.h"

#include <pthread.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

/* ---- contexts and devices ---- */

/* cuCtxSetLimit: "the program can use cuCtxGetLimit() to find out exactly what the limit has been set to" */
static void a_limit_that_was_set_can_be_read_back(void **state)
{
	size_t before = 0, now = 0;

	(void)state;
	must(driver_function(cuCtxGetLimit)(&before, CU_LIMIT_STACK_SIZE));
	must(driver_function(cuCtxSetLimit)(CU_LIMIT_STACK_SIZE, 4096));
	must(driver_function(cuCtxGetLimit)(&now, CU_LIMIT_STACK_SIZE));
	assert_true(now >= 4096);
	must(driver_function(cuCtxSetLimit)(CU_LIMIT_STACK_SIZE, before));
	must(driver_function(cuCtxGetLimit)(&now, CU_LIMIT_MALLOC_HEAP_SIZE));
	assert_true(now > 0);
	must_refuse(driver_function(cuCtxGetLimit)(&now, (CUlimit)1000));
	must_refuse(driver_function(cuCtxSetLimit)((CUlimit)1000, 1));
}

/* cuCtxSetCacheConfig: "This is only a preference." */
static void a_preference_for_the_cache_is_taken(void **state)
{
	CUfunc_cache config = CU_FUNC_CACHE_PREFER_EQUAL;

	(void)state;
	must(driver_function(cuCtxSetCacheConfig)(CU_FUNC_CACHE_PREFER_L1));
	must(driver_function(cuCtxGetCacheConfig)(&config));
	must(driver_function(cuCtxSetCacheConfig)(CU_FUNC_CACHE_PREFER_NONE));
	must(driver_function(cuFuncSetCacheConfig)(conformance_kernel("conformance_add"), CU_FUNC_CACHE_PREFER_SHARED));
}

/* cuDeviceGetByPCIBusId: "[domain]:[bus]:[device].[function]", which is what cuDeviceGetPCIBusId gives. */
static void a_device_is_found_by_its_place_on_the_bus(void **state)
{
	char id[32] = "";
	CUdevice found = -1;

	(void)state;
	must(driver_function(cuDeviceGetPCIBusId)(id, sizeof(id), cu->device));
	must(driver_function(cuDeviceGetByPCIBusId)(&found, id));
	assert_int_equal(found, cu->device);
	must_refuse(driver_function(cuDeviceGetByPCIBusId)(&found, "ffff:ff:1f.7"));
	must_refuse(driver_function(cuDeviceGetByPCIBusId)(&found, NULL));
}

/* ---- functions ---- */

/* cuOccupancyMaxPotentialBlockSize: "a reasonable block size", and a grid that fills the device with such blocks */
static void a_block_size_is_suggested_that_can_be_launched(void **state)
{
	CUfunction function = conformance_kernel("conformance_fill");
	int grid = 0, block = 0, most = 0, active = 0;

	(void)state;
	must(driver_function(cuOccupancyMaxPotentialBlockSize)(&grid, &block, function, NULL, 0, 0));
	must(cu->cuFuncGetAttribute(&most, CU_FUNC_ATTRIBUTE_MAX_THREADS_PER_BLOCK, function));
	assert_true(block > 0 && block <= most);
	must(driver_function(cuOccupancyMaxActiveBlocksPerMultiprocessor)(&active, function, block, 0));
	assert_int_equal(grid, active * cu->multiprocessors);
	must(driver_function(cuOccupancyMaxPotentialBlockSizeWithFlags)(
		&grid, &block, function, NULL, 0, 100, CU_OCCUPANCY_DEFAULT));
	assert_true(block > 0 && block <= 100); /* blockSizeLimit */
	must(driver_function(cuOccupancyMaxActiveBlocksPerMultiprocessorWithFlags)(
		&active, function, 64, 0, CU_OCCUPANCY_DISABLE_CACHING_OVERRIDE));
	assert_true(active > 0);
	must_refuse(driver_function(cuOccupancyMaxPotentialBlockSize)(NULL, &block, function, NULL, 0, 0));
}

static int largest_asked;

static size_t CUDA_CB much_for_many(int threads)
{
	if (threads > largest_asked)
		largest_asked = threads;
	return threads > 64 ? (size_t)1 << 30 : 1024;
}

/* "a unary function [...] that computes the dynamic shared memory needed by func for any given block size" */
static void shared_memory_by_block_size_is_asked_for(void **state)
{
	int grid = 0, block = 0;

	(void)state;
	must(driver_function(cuOccupancyMaxPotentialBlockSize)(
		&grid, &block, conformance_kernel("conformance_fill"), much_for_many, 0, 0));
	assert_true(largest_asked > 64);
	assert_true(block > 0 && block <= 64);
}

/* cuModuleGetGlobal: "Returns in *dptr and *bytes the base pointer and size of the global of name name" */
static void a_variable_of_a_module_is_device_memory(void **state)
{
	CUfunction read = conformance_kernel("conformance_read_variable");
	CUdeviceptr variable = 0, other = 0;
	size_t bytes = 0;
	unsigned value = 0;
	struct range out = range_new(1, CU_MEM_ACCESS_FLAGS_PROT_READWRITE);
	void *params[] = {&out.at};

	(void)state;
	must(driver_function(cuModuleGetGlobal)(&variable, &bytes, conformance_module(), "conformance_variable"));
	assert_int_equal(bytes, sizeof(unsigned));
	must(cu->cuMemcpyDtoH(&value, variable, sizeof(value)));
	assert_int_equal(value, 7);
	value = 42;
	must(cu->cuMemcpyHtoD(variable, &value, sizeof(value)));
	must(cu->cuCtxSynchronize());
	must(cu->cuLaunchKernel(read, 1, 1, 1, 1, 1, 1, 0, NULL, params, NULL));
	assert_int_equal(word_at(out.at), 42);
	/* "One of the parameters dptr or bytes (not both) can be NULL" */
	must(driver_function(cuModuleGetGlobal)(&other, NULL, conformance_module(), "conformance_variable"));
	assert_int_equal(other, variable);
	must_be(CUDA_ERROR_NOT_FOUND,
		driver_function(cuModuleGetGlobal)(&other, &bytes, conformance_module(), "no_such_variable"));
	value = 7;
	must(cu->cuMemcpyHtoD(variable, &value, sizeof(value)));
	range_free(&out);
}

/* cuModuleEnumerateFunctions: "Returns in *functions a maximum number of numFunctions function handles within mod" */
static void the_functions_of_a_module_can_be_listed(void **state)
{
	CUfunction functions[16] = {NULL};
	unsigned count = 0, found = 0;

	(void)state;
	must(driver_function(cuModuleGetFunctionCount)(&count, conformance_module()));
	assert_true(count >= 4 && count <= 16);
	must(driver_function(cuModuleEnumerateFunctions)(functions, count, conformance_module()));
	for (unsigned i = 0; i < count; i++) {
		const char *name = NULL;

		must(driver_function(cuFuncGetName)(&name, functions[i]));
		found += !strcmp(name, "conformance_fill") || !strcmp(name, "conformance_add");
	}
	assert_int_equal(found, 2);
}

/* A library has kernels, which can be asked and launched as functions are; it is of no context. */
static void a_library_gives_kernels_variables_and_a_module(void **state)
{
	char path[4096] = {0};
	CUlibrary library = NULL, of = NULL;
	CUkernel kernels[16] = {NULL}, kernel = NULL;
	CUmodule of_context = NULL;
	CUfunction function = NULL;
	CUdeviceptr variable = 0;
	size_t bytes = 0, offset = 1;
	unsigned count = 0;
	const char *name = NULL;
	int value = 0;

	(void)state;
	conformance_image_path(path, sizeof(path));
	must(driver_function(cuLibraryLoadFromFile)(&library, path, NULL, NULL, 0, NULL, NULL, 0));
	must(driver_function(cuLibraryGetKernelCount)(&count, library));
	assert_true(count >= 4 && count <= 16);
	must(driver_function(cuLibraryEnumerateKernels)(kernels, count, library));
	must(driver_function(cuLibraryGetKernel)(&kernel, library, "conformance_add"));
	must(driver_function(cuKernelGetName)(&name, kernel));
	assert_string_equal(name, "conformance_add");
	must(driver_function(cuKernelGetLibrary)(&of, kernel));
	assert_ptr_equal(of, library);
	must(driver_function(cuKernelGetParamInfo)(kernel, 1, &offset, &bytes));
	assert_int_equal(offset, 8);
	assert_int_equal(bytes, 8);
	must(driver_function(cuKernelSetAttribute)(
		CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES, 1024, kernel, cu->device));
	must(driver_function(cuKernelGetAttribute)(
		&value, CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES, kernel, cu->device));
	assert_int_equal(value, 1024);
	must(driver_function(cuLibraryGetModule)(&of_context, library));
	must(cu->cuModuleGetFunction(&function, of_context, "conformance_fill"));
	must(driver_function(cuLibraryGetGlobal)(&variable, &bytes, library, "conformance_variable"));
	assert_int_equal(bytes, sizeof(unsigned));
	must_be(CUDA_ERROR_NOT_FOUND, driver_function(cuLibraryGetKernel)(&kernel, library, "no_such_kernel"));
	must(driver_function(cuLibraryUnload)(library));
}

/* cuLinkComplete: the output is "the output image", which a module is made from. */
static void the_linker_gives_back_what_it_was_given(void **state)
{
	char path[4096] = {0};
	CUlinkState link = NULL;
	CUmodule linked = NULL;
	CUfunction function = NULL;
	void *image = NULL;
	size_t bytes = 0;
	char garbage[] = "no code of any kind, and long enough to be looked at as an image of one";

	(void)state;
	conformance_image_path(path, sizeof(path));
	must(driver_function(cuLinkCreate)(0, NULL, NULL, &link));
	must_refuse(driver_function(cuLinkAddData)(
		link, CU_JIT_INPUT_FATBINARY, garbage, sizeof(garbage), NULL, 0, NULL, NULL));
	must_be(CUDA_ERROR_FILE_NOT_FOUND,
		driver_function(cuLinkAddFile)(link, CU_JIT_INPUT_FATBINARY, "/no/such/file", 0, NULL, NULL));
	must(driver_function(cuLinkDestroy)(link));
	if (cu->kind == KVS_DEVICE_CUDA)
		return; /* it takes relocatable code, which this image is not: CUDA_ERROR_NO_BINARY_FOR_GPU on an H200 */
	must(driver_function(cuLinkCreate)(0, NULL, NULL, &link));
	must(driver_function(cuLinkAddFile)(link, CU_JIT_INPUT_FATBINARY, path, 0, NULL, NULL));
	must(driver_function(cuLinkComplete)(link, &image, &bytes));
	assert_non_null(image);
	assert_true(bytes > 0);
	must(cu->cuModuleLoadData(&linked, image));
	must(driver_function(cuLinkDestroy)(link));
	must(cu->cuModuleGetFunction(&function, linked, "conformance_fill"));
	must(cu->cuModuleUnload(linked));
}

/* ---- memory ---- */

/* cuMemAllocManaged: "The pointer is valid on the CPU and on all GPUs in the system that support managed memory." */
static void managed_memory_is_one_for_host_and_device(void **state)
{
	CUdeviceptr memory = 0;
	unsigned *words, managed = 0;

	(void)state;
	must(driver_function(cuMemAllocManaged)(&memory, 4096, CU_MEM_ATTACH_GLOBAL));
	words = (unsigned *)(uintptr_t)memory;
	words[3] = 5;
	launch_add(NULL, memory, memory, 2, 1024);
	must(cu->cuCtxSynchronize());
	assert_int_equal(words[3], 7);
	must(cu->cuPointerGetAttribute(&managed, CU_POINTER_ATTRIBUTE_IS_MANAGED, memory));
	assert_int_equal(managed & 1, 1);
	must_refuse(driver_function(cuMemAllocManaged)(&memory, 0, CU_MEM_ATTACH_GLOBAL));
	must_refuse(driver_function(cuMemAllocManaged)(&memory, 64, CU_MEM_ATTACH_SINGLE));
	must(cu->cuMemFree((CUdeviceptr)(uintptr_t)words));
}

/* cuStreamWriteValue32: "Write a value to memory", in the order of the stream. */
static void a_stream_writes_words_in_order(void **state)
{
	struct range memory = range_new(1, CU_MEM_ACCESS_FLAGS_PROT_READWRITE);
	CUstream stream = stream_new(CU_STREAM_NON_BLOCKING);
	unsigned *gate = gate_new(), words[4] = {0};

	(void)state;
	must(cu->cuMemsetD8(memory.at, 0, 16));
	must(cu->cuCtxSynchronize());
	gate_launch(stream, gate, 0);
	gate_await_start(gate);
	must(driver_function(cuStreamWriteValue32)(stream, memory.at, 11, CU_STREAM_WRITE_VALUE_DEFAULT));
	must(driver_function(cuStreamWriteValue64)(
		stream, memory.at + 8, 0x1234567890abcdefull, CU_STREAM_WRITE_VALUE_DEFAULT));
	must_be(CUDA_ERROR_NOT_READY, cu->cuStreamQuery(stream));
	gate_open(gate);
	must(cu->cuStreamSynchronize(stream));
	must(cu->cuMemcpyDtoH(words, memory.at, sizeof(words)));
	assert_int_equal(words[0], 11);
	assert_int_equal(words[1], 0);
	assert_int_equal(words[2], 0x90abcdef);
	assert_int_equal(words[3], 0x12345678);
	must_refuse(driver_function(cuStreamWriteValue32)(stream, 0, 1, CU_STREAM_WRITE_VALUE_DEFAULT));
	must(cu->cuStreamDestroy(stream));
	gate_free(gate);
	range_free(&memory);
}

/* cuStreamWaitValue32: "Work ordered after the operation will block until the given condition on the memory is satisfied." */
static void a_stream_waits_for_a_word(void **state)
{
	struct range memory = range_new(1, CU_MEM_ACCESS_FLAGS_PROT_READWRITE);
	CUstream waiter = stream_new(CU_STREAM_NON_BLOCKING), writer = stream_new(CU_STREAM_NON_BLOCKING);
	static const struct {
		unsigned flags, wanted, not_yet, met;
	} conditions[] = {
		{CU_STREAM_WAIT_VALUE_GEQ, 5, 4, 6},
		{CU_STREAM_WAIT_VALUE_GEQ, 5, 0x80000006, 5}, /* "a cyclic greater-or-equal" */
		{CU_STREAM_WAIT_VALUE_EQ, 5, 6, 5},
		{CU_STREAM_WAIT_VALUE_AND, 6, 1, 2},
	};

	(void)state;
	for (size_t i = 0; i < sizeof(conditions) / sizeof(*conditions); i++) {
		must(driver_function(cuStreamWriteValue32)(
			writer, memory.at, conditions[i].not_yet, CU_STREAM_WRITE_VALUE_DEFAULT));
		must(cu->cuStreamSynchronize(writer));
		must(driver_function(cuStreamWaitValue32)(
			waiter, memory.at, conditions[i].wanted, conditions[i].flags));
		usleep(10000);
		must_be(CUDA_ERROR_NOT_READY, cu->cuStreamQuery(waiter));
		must(driver_function(cuStreamWriteValue32)(
			writer, memory.at, conditions[i].met, CU_STREAM_WRITE_VALUE_DEFAULT));
		must(cu->cuStreamSynchronize(waiter));
	}
	must(cu->cuStreamDestroy(waiter));
	must(cu->cuStreamDestroy(writer));
	range_free(&memory);
}

/* cuMemcpy3D: the copy starts at (XInBytes, Y, Z) of each side; Pitch and Height are its rows and slices. */
static void a_copy_of_slices_takes_a_box_out_of_a_larger_one(void **state)
{
	enum { X = 8, Y = 4, Z = 3 };
	struct range memory = range_new(1, CU_MEM_ACCESS_FLAGS_PROT_READWRITE);
	unsigned char whole[Z][Y][X], box[2][2][4], expected;
	CUDA_MEMCPY3D copy = {.srcMemoryType = CU_MEMORYTYPE_HOST,
		.srcHost = whole,
		.srcPitch = X,
		.srcHeight = Y,
		.dstMemoryType = CU_MEMORYTYPE_DEVICE,
		.dstDevice = memory.at,
		.dstPitch = X,
		.dstHeight = Y,
		.WidthInBytes = X,
		.Height = Y,
		.Depth = Z};

	(void)state;
	for (size_t i = 0; i < sizeof(whole); i++)
		((unsigned char *)whole)[i] = (unsigned char)i;
	must(driver_function(cuMemcpy3D)(&copy));
	copy = (CUDA_MEMCPY3D){.srcMemoryType = CU_MEMORYTYPE_DEVICE,
		.srcDevice = memory.at,
		.srcPitch = X,
		.srcHeight = Y,
		.srcXInBytes = 2,
		.srcY = 1,
		.srcZ = 1,
		.dstMemoryType = CU_MEMORYTYPE_HOST,
		.dstHost = box,
		.dstPitch = 4,
		.dstHeight = 2,
		.WidthInBytes = 4,
		.Height = 2,
		.Depth = 2};
	must(driver_function(cuMemcpy3DAsync)(&copy, NULL));
	must(cu->cuCtxSynchronize());
	for (int z = 0; z < 2; z++)
		for (int y = 0; y < 2; y++)
			for (int x = 0; x < 4; x++) {
				expected = (unsigned char)(((z + 1) * Y + y + 1) * X + x + 2);
				assert_int_equal(box[z][y][x], expected);
			}
	copy.srcPitch = 3; /* a row does not fit */
	must_refuse(driver_function(cuMemcpy3D)(&copy));
	range_free(&memory);
}

/* cuMemcpyPeer: "Copies from device memory in one context to device memory in another context", or in the same. */
static void a_copy_between_contexts_copies(void **state)
{
	struct range memory = range_new(1, CU_MEM_ACCESS_FLAGS_PROT_READWRITE);
	CUcontext context = cu->context;

	(void)state;
	launch_fill(NULL, memory.at, 9, 64);
	must(driver_function(cuMemcpyPeer)(memory.at + 4096, context, memory.at, context, 256));
	assert_words(memory.at + 4096, 256, 9);
	must(driver_function(cuMemcpyPeerAsync)(memory.at + 8192, context, memory.at, context, 256, NULL));
	assert_words(memory.at + 8192, 256, 9);
	must_refuse(driver_function(cuMemcpyPeer)(memory.at, context, 0, context, 256));
	range_free(&memory);
}

/* A batch of two lines and one of two boxes: bytes of the source, where each went. */
static void batches_copy(CUstream stream, CUdeviceptr at, CUmemcpySrcAccessOrder order)
{
	CUdeviceptr to[] = {at + 4096, at + 8192}, from[] = {at, at + 64};
	size_t bytes[] = {64, 128}, first = 0;
	CUmemcpyAttributes attributes = {.srcAccessOrder = order};
	CUDA_MEMCPY3D_BATCH_OP box = {.src = {.type = CU_MEMCPY_OPERAND_TYPE_POINTER, .op.ptr = {.ptr = at}},
		.dst = {.type = CU_MEMCPY_OPERAND_TYPE_POINTER,
			.op.ptr = {.ptr = at + 12288, .rowLength = 128, .layerHeight = 4}},
		.extent = {64, 2, 2},
		.srcAccessOrder = order};

	must(driver_function(cuMemcpyBatchAsync)(to, from, bytes, 2, &attributes, &first, 1, stream));
	must(driver_function(cuMemcpy3DBatchAsync)(1, &box, 0, stream));
	must(cu->cuStreamSynchronize(stream));
}

/*
 * cuMemcpyBatchAsync: "copies from source buffers specified in srcs to destination buffers specified in dsts". cuMemcpy3DBatchAsync:
 * a row length or layer height of zero "is considered to be tightly packed according to the copy extent".
 */
static void a_batch_copies_lines_and_boxes(void **state)
{
	struct range memory = range_new(1, CU_MEM_ACCESS_FLAGS_PROT_READWRITE);
	CUstream stream = stream_new(CU_STREAM_NON_BLOCKING);
	unsigned char host[256], shown[1024];

	(void)state;
	for (size_t i = 0; i < sizeof(host); i++)
		host[i] = (unsigned char)(i + 1);
	for (int order = CU_MEMCPY_SRC_ACCESS_ORDER_STREAM; order <= CU_MEMCPY_SRC_ACCESS_ORDER_ANY; order++) {
		must(driver_function(cuMemsetD8)(memory.at, 0, 16384));
		must(cu->cuMemcpyHtoD(memory.at, host, sizeof(host)));
		must(cu->cuCtxSynchronize());
		batches_copy(stream, memory.at, (CUmemcpySrcAccessOrder)order);
		must(cu->cuMemcpyDtoH(shown, memory.at + 4096, 64));
		assert_memory_equal(shown, host, 64);
		must(cu->cuMemcpyDtoH(shown, memory.at + 8192, 128));
		assert_memory_equal(shown, host + 64, 128);
		must(cu->cuMemcpyDtoH(shown, memory.at + 12288, 1024));
		for (size_t i = 0; i < 1024; i++) {
			size_t x = i % 128, y = i / 128 % 4, z = i / 512;

			assert_int_equal(shown[i], x < 64 && y < 2 ? host[(z * 2 + y) * 64 + x] : 0);
		}
	}
	must(cu->cuStreamDestroy(stream));
	range_free(&memory);
}

/*
 * cuMemcpyBatchAsync: "the first entry in attrsIdxs must always be 0 ... each entry must be greater than the previous entry and the last
 * entry should be less than count"; a valid srcAccessOrder for each; "Must not be legacy NULL stream". cuMemcpy3DBatchAsync: flags "must
 * be zero now", no extent is zero, a row is as long as the copy is wide.
 */
static void a_batch_that_is_not_valid_is_refused(void **state)
{
	struct range memory = range_new(1, CU_MEM_ACCESS_FLAGS_PROT_READWRITE);
	CUstream stream = stream_new(CU_STREAM_NON_BLOCKING);
	CUdeviceptr to[] = {memory.at + 4096, memory.at + 8192}, from[] = {memory.at, memory.at};
	size_t bytes[] = {64, 64}, first[] = {0, 1}, late[] = {1, 1}, twice[] = {0, 0}, behind[] = {0, 2};
	CUmemcpyAttributes attributes[] = {{.srcAccessOrder = CU_MEMCPY_SRC_ACCESS_ORDER_STREAM},
		{.srcAccessOrder = CU_MEMCPY_SRC_ACCESS_ORDER_ANY}},
			   none = {0};
	CUDA_MEMCPY3D_BATCH_OP box = {.src = {.type = CU_MEMCPY_OPERAND_TYPE_POINTER, .op.ptr = {.ptr = memory.at}},
		.dst = {.type = CU_MEMCPY_OPERAND_TYPE_POINTER, .op.ptr = {.ptr = memory.at + 4096}},
		.extent = {64, 1, 1},
		.srcAccessOrder = CU_MEMCPY_SRC_ACCESS_ORDER_STREAM};
	__typeof__(cuMemcpyBatchAsync) *batch = driver_function(cuMemcpyBatchAsync);
	__typeof__(cuMemcpy3DBatchAsync) *boxes = driver_function(cuMemcpy3DBatchAsync);

	(void)state;
	must(batch(to, from, bytes, 2, attributes, first, 2, stream));
	must_refuse(batch(to, from, bytes, 2, attributes, late, 2, stream));
	must_refuse(batch(to, from, bytes, 2, attributes, twice, 2, stream));
	must_refuse(batch(to, from, bytes, 2, attributes, behind, 2, stream));
	must_refuse(batch(to, from, bytes, 1, attributes, first, 2, stream));
	must_refuse(batch(to, from, bytes, 2, &none, first, 1, stream));
	must_refuse(batch(to, from, bytes, 2, attributes, first, 2, CU_STREAM_LEGACY));
	must_refuse(batch(NULL, from, bytes, 2, attributes, first, 2, stream));
	must(boxes(1, &box, 0, stream));
	must_refuse(boxes(1, &box, 1, stream));
	must_refuse(boxes(1, &box, 0, CU_STREAM_LEGACY));
	box.src.op.ptr.rowLength = 63;
	must_refuse(boxes(1, &box, 0, stream));
	box.src.op.ptr.rowLength = 0;
	box.extent.depth = 0;
	must_refuse(boxes(1, &box, 0, stream));
	must(cu->cuStreamSynchronize(stream));
	must(cu->cuStreamDestroy(stream));
	range_free(&memory);
}

/*
 * cuArrayCreate: "A one-dimensional array will be allocated if the height is zero"; cuMemcpyAtoD: srcOffset is "the offset in bytes into
 * the array where the copy is to begin".
 */
static void an_array_of_one_dimension_holds_a_line(void **state)
{
	const CUDA_ARRAY_DESCRIPTOR wanted = {.Width = 64, .Format = CU_AD_FORMAT_FLOAT, .NumChannels = 1};
	struct range memory = range_new(1, CU_MEM_ACCESS_FLAGS_PROT_READWRITE);
	unsigned char host[256], shown[256];
	CUDA_ARRAY_DESCRIPTOR got;
	CUarray array, other;

	(void)state;
	for (size_t i = 0; i < sizeof(host); i++)
		host[i] = (unsigned char)(i + 1);
	must(driver_function(cuArrayCreate)(&array, &wanted));
	must(driver_function(cuArrayCreate)(&other, &wanted));
	must(driver_function(cuArrayGetDescriptor)(&got, array));
	assert_int_equal(got.Width, 64);
	assert_int_equal(got.Height, 0);
	assert_int_equal(got.Format, CU_AD_FORMAT_FLOAT);
	assert_int_equal(got.NumChannels, 1);
	must(driver_function(cuMemcpyHtoA)(array, 0, host, sizeof(host)));
	must(driver_function(cuMemcpyAtoD)(memory.at, array, 16, 64));
	must(cu->cuMemcpyDtoH(shown, memory.at, 64));
	assert_memory_equal(shown, host + 16, 64);
	must(driver_function(cuMemcpyAtoA)(other, 0, array, 128, 128));
	must(driver_function(cuMemcpyDtoA)(other, 128, memory.at, 64));
	must(driver_function(cuMemcpyAtoH)(shown, other, 0, 192));
	assert_memory_equal(shown, host + 128, 128);
	assert_memory_equal(shown + 128, host + 16, 64);
	must_refuse(driver_function(cuMemcpyAtoD)(memory.at, array, 200, 64)); /* more than it has */
	must(driver_function(cuArrayDestroy)(other));
	must(driver_function(cuArrayDestroy)(array));
	got = wanted;
	got.NumChannels = 3;
	must_refuse(driver_function(cuArrayCreate)(&array, &got));
	got = wanted;
	got.Width = 0;
	must_refuse(driver_function(cuArrayCreate)(&array, &got));
	range_free(&memory);
}

/* A map of rows of 32 floats, as `change` has it: it differs from a valid one in one place. */
static CUresult map_make(CUtensorMap *map, CUdeviceptr at, const char *change)
{
	cuuint64_t dimensions[] = {32, 16}, strides[] = {128};
	cuuint32_t box[] = {32, 4}, steps[] = {1, 1};
	cuuint32_t rank = !strcmp(change, "rank") ? 0 : 2;
	CUtensorMapInterleave interleave =
		!strcmp(change, "interleave") ? CU_TENSOR_MAP_INTERLEAVE_16B : CU_TENSOR_MAP_INTERLEAVE_NONE;
	CUtensorMapSwizzle swizzle =
		!strcmp(change, "swizzle") ? CU_TENSOR_MAP_SWIZZLE_64B : CU_TENSOR_MAP_SWIZZLE_128B;
	CUtensorMapDataType type =
		!strcmp(change, "fill") ? CU_TENSOR_MAP_DATA_TYPE_INT32 : CU_TENSOR_MAP_DATA_TYPE_FLOAT32;

	dimensions[1] = !strcmp(change, "dimension") ? 0 : 16;
	strides[0] = !strcmp(change, "stride") ? 136 : 128;
	box[1] = !strcmp(change, "box") ? 257 : 4;
	steps[1] = !strcmp(change, "step") ? 9 : 1;
	return driver_function(cuTensorMapEncodeTiled)(map, type, rank,
		(void *)(uintptr_t)(at + (!strcmp(change, "address") ? 8 : 0)), dimensions, strides, box, steps,
		interleave, swizzle, CU_TENSOR_MAP_L2_PROMOTION_NONE,
		CU_TENSOR_MAP_FLOAT_OOB_FILL_NAN_REQUEST_ZERO_FMA);
}

/*
 * cuTensorMapEncodeTiled: the address "must be 16 byte aligned", strides "a multiple of 16", no dimension zero, a box "less than or equal
 * to 256", element strides "less than or equal to 8", an interleaved map of rank three at least, an inner box "less than or equal to the
 * swizzle size", NaN for floating-point data only. "Tensor map objects are only supported on devices of compute capability 9.0 or higher."
 */
static void a_tensor_map_is_made_of_what_the_rules_allow(void **state)
{
	static const char *const changes[] = {
		"rank", "address", "dimension", "stride", "box", "step", "interleave", "swizzle", "fill"};
	struct range memory = range_new(1, CU_MEM_ACCESS_FLAGS_PROT_READWRITE);
	CUtensorMap map, other, again;

	(void)state;
	if (map_make(&map, memory.at, "nothing") == CUDA_ERROR_NOT_SUPPORTED) {
		printf("recorded: this device has no tensor maps\n");
		range_free(&memory);
		return;
	}
	must(map_make(&map, memory.at, "nothing"));
	must(map_make(&other, memory.at + 4096, "nothing"));
	must(map_make(&again, memory.at, "nothing"));
	assert_memory_equal(&map, &again, sizeof(map));
	assert_memory_not_equal(&map, &other, sizeof(map));
	for (size_t i = 0; i < sizeof(changes) / sizeof(*changes); i++)
		must_refuse(map_make(&again, memory.at, changes[i]));
	/* "Modify an existing tensor map descriptor with an updated global address" */
	must(driver_function(cuTensorMapReplaceAddress)(&map, (void *)(uintptr_t)(memory.at + 4096)));
	assert_memory_equal(&map, &other, sizeof(map));
	must_refuse(driver_function(cuTensorMapReplaceAddress)(&map, (void *)(uintptr_t)(memory.at + 8)));
	range_free(&memory);
}

/* cuTensorMapEncodeIm2col: "tensorRank ... must be 3, 4, or 5", channels "less than or equal to 256", pixels to 1024. */
static void a_tensor_map_of_pixels_has_three_dimensions_or_more(void **state)
{
	struct range memory = range_new(1, CU_MEM_ACCESS_FLAGS_PROT_READWRITE);
	const cuuint64_t dimensions[] = {64, 8, 8}, strides[] = {128, 1024};
	const cuuint32_t steps[] = {1, 1, 1};
	const int lower[] = {0}, upper[] = {0};
	static const struct {
		cuuint32_t rank, channels, pixels;
	} wrong[] = {{2, 64, 8}, {3, 257, 8}, {3, 64, 1025}};
	__typeof__(cuTensorMapEncodeIm2col) *make = driver_function(cuTensorMapEncodeIm2col);
	void *at = (void *)(uintptr_t)memory.at;
	CUtensorMap map;
	CUresult result = make(&map, CU_TENSOR_MAP_DATA_TYPE_FLOAT16, 3, at, dimensions, strides, lower, upper, 64, 8,
		steps, CU_TENSOR_MAP_INTERLEAVE_NONE, CU_TENSOR_MAP_SWIZZLE_NONE, CU_TENSOR_MAP_L2_PROMOTION_NONE,
		CU_TENSOR_MAP_FLOAT_OOB_FILL_NONE);

	(void)state;
	if (result != CUDA_ERROR_NOT_SUPPORTED)
		must(result);
	for (size_t i = 0; i < sizeof(wrong) / sizeof(*wrong); i++)
		must_refuse(make(&map, CU_TENSOR_MAP_DATA_TYPE_FLOAT16, wrong[i].rank, at, dimensions, strides, lower,
			upper, wrong[i].channels, wrong[i].pixels, steps, CU_TENSOR_MAP_INTERLEAVE_NONE,
			CU_TENSOR_MAP_SWIZZLE_NONE, CU_TENSOR_MAP_L2_PROMOTION_NONE,
			CU_TENSOR_MAP_FLOAT_OOB_FILL_NONE));
	range_free(&memory);
}

static cuuint64_t pool_size_of(CUmemoryPool pool, CUmemPool_attribute attribute)
{
	cuuint64_t bytes;

	must(driver_function(cuMemPoolGetAttribute)(pool, attribute, &bytes));
	return bytes;
}

/*
 * cuMemPoolGetAttribute: USED_MEM_CURRENT is the "amount of memory from the pool that is currently in use by the application",
 * RESERVED_MEM_CURRENT what backs it. cuMemPoolSetAttribute: "High watermark can only be reset to zero." cuMemAllocAsync: "The allocation
 * comes from the memory pool current to the stream's device." CU_POINTER_ATTRIBUTE_MEMPOOL_HANDLE is that pool.
 */
static void a_pool_tells_what_is_in_use(void **state)
{
	const size_t bytes = (size_t)4 << 20;
	CUmemPoolProps props = {
		.allocType = CU_MEM_ALLOCATION_TYPE_PINNED, .location = {.type = CU_MEM_LOCATION_TYPE_DEVICE}};
	CUstream stream = stream_new(CU_STREAM_NON_BLOCKING);
	CUmemoryPool pool, other, of = NULL;
	CUdeviceptr memory, more;
	cuuint64_t zero = 0, one = 1;

	(void)state;
	must(driver_function(cuMemPoolCreate)(&pool, &props));
	assert_int_equal(pool_size_of(pool, CU_MEMPOOL_ATTR_USED_MEM_CURRENT), 0);
	must(driver_function(cuMemAllocFromPoolAsync)(&memory, bytes, pool, stream));
	must(cu->cuStreamSynchronize(stream));
	assert_true(pool_size_of(pool, CU_MEMPOOL_ATTR_USED_MEM_CURRENT) >= bytes);
	assert_true(pool_size_of(pool, CU_MEMPOOL_ATTR_USED_MEM_CURRENT) < 2 * bytes);
	assert_true(pool_size_of(pool, CU_MEMPOOL_ATTR_RESERVED_MEM_CURRENT) >= bytes);
	must(driver_function(cuPointerGetAttribute)(&of, CU_POINTER_ATTRIBUTE_MEMPOOL_HANDLE, memory));
	assert_ptr_equal(of, pool);
	must(driver_function(cuMemFreeAsync)(memory, stream));
	must(cu->cuStreamSynchronize(stream));
	assert_int_equal(pool_size_of(pool, CU_MEMPOOL_ATTR_USED_MEM_CURRENT), 0);
	assert_true(pool_size_of(pool, CU_MEMPOOL_ATTR_USED_MEM_HIGH) >= bytes);
	must_refuse(driver_function(cuMemPoolSetAttribute)(pool, CU_MEMPOOL_ATTR_USED_MEM_HIGH, &one));
	must(driver_function(cuMemPoolSetAttribute)(pool, CU_MEMPOOL_ATTR_USED_MEM_HIGH, &zero));
	assert_int_equal(pool_size_of(pool, CU_MEMPOOL_ATTR_USED_MEM_HIGH), 0);
	must(driver_function(cuDeviceGetDefaultMemPool)(&other, 0));
	must(driver_function(cuMemAllocAsync)(&more, bytes, stream));
	must(cu->cuStreamSynchronize(stream));
	assert_true(pool_size_of(other, CU_MEMPOOL_ATTR_USED_MEM_CURRENT) >= bytes);
	must(driver_function(cuMemFreeAsync)(more, stream));
	must(cu->cuStreamSynchronize(stream));
	must(cu->cuStreamDestroy(stream));
	must(driver_function(cuMemPoolDestroy)(pool));
}

int main(int argc, char **argv)
{
	const struct CMUnitTest tests[] = {
		conformance_test(a_limit_that_was_set_can_be_read_back),
		conformance_test(a_preference_for_the_cache_is_taken),
		conformance_test(a_device_is_found_by_its_place_on_the_bus),
		conformance_test(a_block_size_is_suggested_that_can_be_launched),
		conformance_test(shared_memory_by_block_size_is_asked_for),
		conformance_test(a_variable_of_a_module_is_device_memory),
		conformance_test(the_functions_of_a_module_can_be_listed),
		conformance_test(a_library_gives_kernels_variables_and_a_module),
		conformance_test(the_linker_gives_back_what_it_was_given),
		conformance_test(managed_memory_is_one_for_host_and_device),
		conformance_test(a_stream_writes_words_in_order),
		conformance_test(a_stream_waits_for_a_word),
		conformance_test(a_copy_of_slices_takes_a_box_out_of_a_larger_one),
		conformance_test(a_copy_between_contexts_copies),
		conformance_test(a_batch_copies_lines_and_boxes),
		conformance_test(a_batch_that_is_not_valid_is_refused),
		conformance_test(an_array_of_one_dimension_holds_a_line),
		conformance_test(a_pool_tells_what_is_in_use),
		conformance_test(a_tensor_map_is_made_of_what_the_rules_allow),
		conformance_test(a_tensor_map_of_pixels_has_three_dimensions_or_more),
	};

	return conformance_main(argc, argv, tests);
}
