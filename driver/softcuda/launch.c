/*
 * driver/softcuda/launch.c: the driver's calls that launch a kernel, and what they check before.
 *
 * A launch copies its arguments at the call. Its parameter table tells which of them may be addresses, so
 * that memory taken away under a launch is noticed.
 */
#include "capture.h"
#include "device.h"
#include "grid.h"
#include "launch.h"
#include "memory.h"
#include "stream.h"

#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>

struct launch_op {
	struct sc_op op;
	struct sc_grid grid;
	CUfunction function;
	void *extra[5]; /* how the arguments came, if packed */
	size_t packed_bytes;
	bool packed;
	size_t bytes; /* of all this with what lies behind it */
	size_t argument_bytes;
	void **params;   /* into the arguments */
	char *arguments; /* behind the params, in the same piece of memory */
};

static void launch_run(struct sc_op *op, struct sc_stream *stream)
{
	if (!sc_context_error(stream->context))
		sc_grid_run(&((struct launch_op *)op)->grid);
}

static void launch_release(struct sc_op *op)
{
	sc_image_put(((struct launch_op *)op)->grid.image);
	free(op);
}

/* Any 8 aligned bytes of an argument, which may be a struct, can be an address. */
static bool launch_touches(const struct sc_op *op, uintptr_t base, size_t size)
{
	const struct launch_op *launch = (const struct launch_op *)op;

	for (size_t at = 0; at + sizeof(uint64_t) <= launch->argument_bytes; at += sizeof(uint64_t)) {
		uint64_t value;

		memcpy(&value, launch->arguments + at, sizeof(value));
		if (value - base < size)
			return true;
	}
	return false;
}

static size_t argument_bytes_of(const struct simt_kernel *kernel)
{
	size_t bytes = 0;

	for (size_t i = 0; i < kernel->param_count; i++) {
		size_t end = kernel->params[i].offset + kernel->params[i].size;

		bytes = end > bytes ? end : bytes;
	}
	return (bytes + 7) / 8 * 8;
}

/* Arguments are aligned as a kernel may want them: to 16 bytes, for vector types. */
static size_t head_bytes_of(const struct simt_kernel *kernel)
{
	return (sizeof(struct launch_op) + kernel->param_count * sizeof(void *) + 15) / 16 * 16;
}

/* The pointers into itself. */
static void launch_wire(struct launch_op *launch)
{
	const struct simt_kernel *kernel = launch->grid.launch.kernel;

	launch->params = (void **)(launch + 1);
	launch->arguments = (char *)launch + head_bytes_of(kernel);
	for (size_t i = 0; i < kernel->param_count; i++)
		launch->params[i] = launch->arguments + kernel->params[i].offset;
	launch->grid.launch.params = launch->params;
	launch->extra[1] = launch->arguments;
	launch->extra[3] = &launch->packed_bytes;
}

static struct launch_op *launch_create(const struct simt_kernel *kernel)
{
	size_t bytes = argument_bytes_of(kernel), head = head_bytes_of(kernel);
	struct launch_op *launch = calloc(1, head + bytes);

	if (!launch)
		return NULL;
	launch->bytes = head + bytes;
	launch->argument_bytes = bytes;
	launch->grid.launch.kernel = kernel;
	launch_wire(launch);
	return launch;
}

static struct sc_op *launch_clone(const struct sc_op *op)
{
	const struct launch_op *from = (const struct launch_op *)op;
	struct launch_op *launch = malloc(from->bytes);

	if (!launch)
		return NULL;
	memcpy(launch, from, from->bytes);
	atomic_init(&launch->op.shares, 0);
	launch_wire(launch);
	atomic_fetch_add(&launch->grid.image->references, 1);
	return &launch->op;
}

static void launch_bind(struct sc_op *op, const struct sc_stream *stream, uint64_t unmap_serial)
{
	struct sc_grid *grid = &((struct launch_op *)op)->grid;

	grid->context = stream->context;
	grid->stream_id = stream->id;
	grid->unmap_serial = unmap_serial;
}

/* The arguments come as one pointer each, or packed in one buffer through `extra`. */
static CUresult arguments_copy(struct launch_op *launch, void **params, void **extra)
{
	const struct simt_kernel *kernel = launch->grid.launch.kernel;
	const void *buffer = NULL;
	size_t bytes = 0;

	if (!kernel->param_count)
		return CUDA_SUCCESS;
	if (params) {
		for (size_t i = 0; i < kernel->param_count; i++)
			memcpy(launch->params[i], params[i], kernel->params[i].size);
		return CUDA_SUCCESS;
	}
	for (; extra && *extra != CU_LAUNCH_PARAM_END; extra += 2) {
		if (*extra == CU_LAUNCH_PARAM_BUFFER_POINTER)
			buffer = extra[1];
		else if (*extra == CU_LAUNCH_PARAM_BUFFER_SIZE)
			bytes = *(const size_t *)extra[1];
		else
			return CUDA_ERROR_INVALID_VALUE;
	}
	if (!buffer || bytes > launch->argument_bytes)
		return CUDA_ERROR_INVALID_VALUE;
	memcpy(launch->arguments, buffer, bytes);
	launch->packed = true;
	launch->packed_bytes = bytes;
	launch->extra[0] = CU_LAUNCH_PARAM_BUFFER_POINTER;
	launch->extra[2] = CU_LAUNCH_PARAM_BUFFER_SIZE;
	launch->extra[4] = CU_LAUNCH_PARAM_END;
	return CUDA_SUCCESS;
}

static CUresult shape_check(const CUlaunchConfig *shape, const struct sc_function *function, bool cooperative)
{
	uint64_t threads = (uint64_t)shape->blockDimX * shape->blockDimY * shape->blockDimZ;
	uint64_t blocks = (uint64_t)shape->gridDimX * shape->gridDimY * shape->gridDimZ;

	if (!shape->gridDimX || !shape->gridDimY || !shape->gridDimZ || !threads)
		return CUDA_ERROR_INVALID_VALUE;
	if (shape->gridDimX > SC_MAX_GRID_X || shape->gridDimY > SC_MAX_GRID_YZ || shape->gridDimZ > SC_MAX_GRID_YZ)
		return CUDA_ERROR_INVALID_VALUE;
	if (shape->blockDimX > SC_MAX_BLOCK_X || shape->blockDimY > SC_MAX_BLOCK_Y ||
		shape->blockDimZ > SC_MAX_BLOCK_Z || threads > SC_MAX_THREADS)
		return CUDA_ERROR_INVALID_VALUE;
	if (shape->sharedMemBytes > (unsigned)function->max_dynamic_shared_bytes)
		return CUDA_ERROR_INVALID_VALUE;
	if (cooperative && blocks > (uint64_t)SC_MULTIPROCESSORS *
					    sc_blocks_per_multiprocessor(function, threads, shape->sharedMemBytes))
		return CUDA_ERROR_COOPERATIVE_LAUNCH_TOO_LARGE;
	return CUDA_SUCCESS;
}

static void launch_fill(struct launch_op *launch, const CUlaunchConfig *shape, const struct sc_function *function)
{
	struct sc_grid *grid = &launch->grid;

	grid->image = function->module->image;
	grid->native = function->native;
	grid->launch.grid = (struct simt_dim3){shape->gridDimX, shape->gridDimY, shape->gridDimZ};
	grid->launch.block = (struct simt_dim3){shape->blockDimX, shape->blockDimY, shape->blockDimZ};
	grid->launch.dynamic_shared_bytes = shape->sharedMemBytes;
	grid->blocks = (uint64_t)shape->gridDimX * shape->gridDimY * shape->gridDimZ;
	launch->op.what = function->kernel->name;
	launch->op.run = launch_run;
	launch->op.told = true;
	launch->op.release = launch_release;
	launch->op.touches = launch_touches;
	launch->op.clone = launch_clone;
	launch->op.bind = launch_bind;
}

CUresult sc_launch_op(const CUlaunchConfig *shape, CUfunction handle, bool cooperative, void **params, void **extra,
	struct sc_op **out)
{
	struct sc_function function;
	struct launch_op *launch;
	CUresult error;

	if (params && extra)
		return CUDA_ERROR_INVALID_VALUE;
	if (!sc_function_get(handle, &function))
		return CUDA_ERROR_INVALID_HANDLE;
	error = !params && !extra && function.kernel->param_count ? CUDA_ERROR_INVALID_VALUE
								  : shape_check(shape, &function, cooperative);
	launch = error ? NULL : launch_create(function.kernel);
	if (!launch) {
		sc_image_put(function.module->image);
		return error ? error : CUDA_ERROR_OUT_OF_MEMORY;
	}
	launch_fill(launch, shape, &function);
	launch->function = handle;
	launch->grid.cooperative = cooperative;
	error = arguments_copy(launch, params, extra);
	if (error)
		launch_release(&launch->op);
	else
		*out = &launch->op;
	return error;
}

void sc_launch_describe(const struct sc_op *op, CUDA_KERNEL_NODE_PARAMS_v2 *out)
{
	const struct launch_op *launch = (const struct launch_op *)op;
	const struct simt_launch *simt = &launch->grid.launch;

	*out = (CUDA_KERNEL_NODE_PARAMS_v2){.func = launch->function,
		.gridDimX = simt->grid.x,
		.gridDimY = simt->grid.y,
		.gridDimZ = simt->grid.z,
		.blockDimX = simt->block.x,
		.blockDimY = simt->block.y,
		.blockDimZ = simt->block.z,
		.sharedMemBytes = (unsigned)simt->dynamic_shared_bytes,
		.kernelParams = launch->packed ? NULL : launch->params,
		.extra = launch->packed ? (void **)launch->extra : NULL};
}

bool sc_launch_is_cooperative(const struct sc_op *op)
{
	return ((const struct launch_op *)op)->grid.cooperative;
}

static CUresult launch(struct sc_context *context, const CUlaunchConfig *shape, CUfunction handle, bool cooperative,
	void **params, void **extra)
{
	struct sc_stream *stream;
	struct sc_op *op;
	CUresult error = sc_launch_op(shape, handle, cooperative, params, extra, &op);

	if (error)
		return error;
	stream = sc_stream_get(context, shape->hStream);
	if (!stream) {
		sc_op_put(op);
		return CUDA_ERROR_INVALID_HANDLE;
	}
	launch_bind(op, stream, sc_unmap_serial());
	error = sc_work_submit(stream, &(struct sc_work){.type = CU_GRAPH_NODE_TYPE_KERNEL, .op = op}, NULL);
	sc_stream_put(stream);
	return error;
}

CUresult CUDAAPI cuLaunchKernel(CUfunction f, unsigned int gridDimX, unsigned int gridDimY, unsigned int gridDimZ,
	unsigned int blockDimX, unsigned int blockDimY, unsigned int blockDimZ, unsigned int sharedMemBytes,
	CUstream hStream, void **kernelParams, void **extra)
{
	const CUlaunchConfig shape = {
		gridDimX, gridDimY, gridDimZ, blockDimX, blockDimY, blockDimZ, sharedMemBytes, hStream, NULL, 0};
	struct sc_context *context;
	CUresult error = sc_enter_context(__func__, &context);

	return error ? error : launch(context, &shape, f, false, kernelParams, extra);
}

CUresult CUDAAPI cuLaunchCooperativeKernel(CUfunction f, unsigned int gridDimX, unsigned int gridDimY,
	unsigned int gridDimZ, unsigned int blockDimX, unsigned int blockDimY, unsigned int blockDimZ,
	unsigned int sharedMemBytes, CUstream hStream, void **kernelParams)
{
	const CUlaunchConfig shape = {
		gridDimX, gridDimY, gridDimZ, blockDimX, blockDimY, blockDimZ, sharedMemBytes, hStream, NULL, 0};
	struct sc_context *context;
	CUresult error = sc_enter_context(__func__, &context);

	return error ? error : launch(context, &shape, f, true, kernelParams, NULL);
}

static atomic_size_t early_launches;

size_t softcuda_early_launches(void)
{
	return atomic_load(&early_launches);
}

/*
 * Attributes that change the meaning of a launch are honoured or refused; hints (priority, cache policy and the like)
 * are ignored.
 */
static CUresult attributes_read(const CUlaunchConfig *config, bool *cooperative)
{
	for (unsigned i = 0; i < config->numAttrs; i++) {
		const CUlaunchAttribute *attribute = &config->attrs[i];

		if (attribute->id == CU_LAUNCH_ATTRIBUTE_COOPERATIVE)
			*cooperative = attribute->value.cooperative != 0;
		if (attribute->id == CU_LAUNCH_ATTRIBUTE_PROGRAMMATIC_STREAM_SERIALIZATION &&
			attribute->value.programmaticStreamSerializationAllowed)
			atomic_fetch_add(&early_launches, 1); /* here it waits all the same */
		if (attribute->id == CU_LAUNCH_ATTRIBUTE_CLUSTER_DIMENSION &&
			attribute->value.clusterDim.x * attribute->value.clusterDim.y * attribute->value.clusterDim.z >
				1)
			return CUDA_ERROR_NOT_SUPPORTED;
		if (attribute->id == CU_LAUNCH_ATTRIBUTE_PROGRAMMATIC_EVENT ||
			attribute->id == CU_LAUNCH_ATTRIBUTE_LAUNCH_COMPLETION_EVENT)
			return CUDA_ERROR_NOT_SUPPORTED;
	}
	return CUDA_SUCCESS;
}

CUresult CUDAAPI cuLaunchKernelEx(const CUlaunchConfig *config, CUfunction f, void **kernelParams, void **extra)
{
	struct sc_context *context;
	CUresult error = sc_enter_context(__func__, &context);
	bool cooperative = false;

	if (error)
		return error;
	if (!config || (config->numAttrs && !config->attrs))
		return CUDA_ERROR_INVALID_VALUE;
	error = attributes_read(config, &cooperative);
	return error ? error : launch(context, config, f, cooperative, kernelParams, extra);
}
