/*
 * tools/preload/launch.c: hooks of launches. A kernel that stores K or V gets the sink's address where it was handed a
 * borrower's: in a copy of its parameters, as the program's own are never written. All other launches go through.
 */
#include "launch.h"

#include "maps.h"

#include <stdlib.h>
#include <string.h>

/* Where a store to `address` goes; 0: to itself. */
static CUdeviceptr sink_of(const struct shim_ranges *ranges, CUdeviceptr address, bool *shared)
{
	const struct shim_range *range = shim_range_find(ranges, address);

	*shared |= range != NULL;
	return range && range->sink ? range->sink + (address - range->base) : 0;
}

static CUdeviceptr word_at(const unsigned char *bytes)
{
	CUdeviceptr word;

	memcpy(&word, bytes, sizeof(word));
	return word;
}

/* Behind the word, or the map, that is there. */
static size_t next_word(const unsigned char *value, size_t at, size_t bytes, struct shim_map *map)
{
	map->bytes = 0;
	return at + (shim_map_at(value, at, bytes, map) ? sizeof(CUtensorMap) : sizeof(CUdeviceptr));
}

/* The kernel writes through the word, or the map, at `offset` of a parameter. */
static bool is_written(const struct shim_kernel *kernel, size_t param, size_t offset)
{
	const struct shim_written *written = &kernel->written;
	bool found = false;

	if (written->params == SHIM_ANY_PARAM || param >= 64 || !(written->parts >> param & 1))
		return written->params == SHIM_ANY_PARAM || (param < 64 && written->params >> param & 1);
	for (unsigned i = 0; i < written->count && !found; i++)
		found = written->word[i].param == param && written->word[i].offset == offset;
	return found;
}

/* Any aligned word of a parameter, which may be a struct, can be an address: what a launch was handed of borrowers. */
struct points {
	bool written, other; /* addresses through which the kernel writes, and others */
	bool shared;         /* any of memory that is shared */
};

static void param_points(const struct shim_ranges *ranges, const struct shim_kernel *kernel, size_t param,
	const unsigned char *value, struct points *points)
{
	size_t bytes = kernel->param[param].bytes;
	struct shim_map map;
	bool found;

	for (size_t at = 0, next; at + sizeof(CUdeviceptr) <= bytes; at = next) {
		next = next_word(value, at, bytes, &map);
		if (map.bytes)
			found = shim_map_place(ranges, &map, &points->shared) == SHIM_MAP_BORROWED;
		else
			found = sink_of(ranges, word_at(value + at), &points->shared) != 0;
		if (found && is_written(kernel, param, at))
			points->written = true;
		else
			points->other |= found;
	}
}

/* There is a map of several tensors, one of which borrows; a writer's is told. */
static bool param_spans(
	const struct shim_ranges *ranges, const struct shim_kernel *kernel, size_t param, const unsigned char *value)
{
	size_t bytes = kernel->param[param].bytes, at = 0;
	struct shim_map map;
	bool found = false, shared = false;

	for (; !found && at < bytes; at += SHIM_MAP_ALIGN)
		found = shim_map_at(value, at, bytes, &map) && shim_map_place(ranges, &map, &shared) == SHIM_MAP_SPANS;
	if (found && kernel->role == SHIM_WRITES && is_written(kernel, param, at - SHIM_MAP_ALIGN))
		shim_map_spans(kernel->name);
	return found;
}

static void param_redirect(
	const struct shim_ranges *ranges, const struct shim_kernel *kernel, size_t param, unsigned char *value)
{
	size_t bytes = kernel->param[param].bytes;
	struct shim_map map;
	bool shared = false;

	for (size_t at = 0, next; at + sizeof(CUdeviceptr) <= bytes; at = next) {
		CUdeviceptr sink;

		next = next_word(value, at, bytes, &map);
		if (!is_written(kernel, param, at))
			continue;
		sink = map.bytes ? 0 : sink_of(ranges, word_at(value + at), &shared);
		if (sink)
			memcpy(value + at, &sink, sizeof(sink));
		if (map.bytes && shim_map_place(ranges, &map, &shared) == SHIM_MAP_BORROWED)
			shim_map_redirect(ranges, value + at, &map);
	}
}

/* The packed form of the parameters; NULL: there is none. */
static const unsigned char *packed_find(void **extra, size_t *bytes)
{
	const unsigned char *buffer = NULL;

	*bytes = 0;
	for (; extra && *extra != CU_LAUNCH_PARAM_END; extra += 2) {
		if (*extra == CU_LAUNCH_PARAM_BUFFER_POINTER)
			buffer = extra[1];
		else if (*extra == CU_LAUNCH_PARAM_BUFFER_SIZE)
			*bytes = *(const size_t *)extra[1];
	}
	return buffer;
}

/* The value of a parameter as the program gave it; NULL: it gave none. */
static const unsigned char *value_of(
	const struct shim_launch *launch, size_t param, const unsigned char *packed, size_t bytes)
{
	const struct shim_param *place = &launch->kernel->param[param];

	if (launch->params)
		return launch->params[param];
	return packed && place->offset + place->bytes <= bytes ? packed + place->offset : NULL;
}

/*
 * Whether the launch was handed a borrower's address in a parameter; with `written`, in one that it writes through. One that
 * stays as it is makes the kernel one that may fault.
 */
static bool launch_points(const struct shim_ranges *ranges, struct shim_launch *launch, bool written)
{
	size_t bytes;
	const unsigned char *packed = packed_find(launch->extra, &bytes);
	struct points points = {0};
	bool stays = false;

	for (size_t i = 0; i < launch->kernel->param_count; i++) {
		const unsigned char *value = value_of(launch, i, packed, bytes);

		if (!value)
			continue;
		stays |= param_spans(ranges, launch->kernel, i, value);
		param_points(ranges, launch->kernel, i, value, &points);
	}
	launch->shared = points.shared;
	stays |= points.other;
	stays |= points.written && !written;
	if (stays)
		atomic_store_explicit(&launch->kernel->touched, true, memory_order_relaxed);
	return points.written || (points.other && !written);
}

/* Room for pointers and values of all parameters. */
static bool room_get(struct shim_launch *launch, void ***pointers, unsigned char **values, size_t bytes)
{
	size_t count = launch->kernel->param_count;

	*pointers = launch->near_params;
	*values = launch->near_bytes;
	if (count <= SHIM_NEAR_PARAMS && bytes <= SHIM_NEAR_BYTES)
		return true;
	launch->far = malloc(count * sizeof(**pointers) + bytes + 16);
	*pointers = launch->far;
	*values = (unsigned char *)((uintptr_t)(*pointers + count + 1) & ~(uintptr_t)15);
	return launch->far != NULL;
}

static bool params_redirect(const struct shim_ranges *ranges, struct shim_launch *launch)
{
	const struct shim_kernel *kernel = launch->kernel;
	unsigned char *values;
	void **pointers;

	if (!room_get(launch, &pointers, &values, kernel->param_bytes))
		return false;
	for (size_t i = 0; i < kernel->param_count; i++) {
		unsigned char *value = values + kernel->param[i].offset;
		struct points points = {0};

		pointers[i] = launch->params[i];
		param_points(ranges, kernel, i, launch->params[i], &points);
		if (!points.written)
			continue;
		memcpy(value, launch->params[i], kernel->param[i].bytes);
		param_redirect(ranges, kernel, i, value);
		pointers[i] = value;
	}
	launch->params = pointers;
	return true;
}

static bool packed_redirect(const struct shim_ranges *ranges, struct shim_launch *launch)
{
	const struct shim_kernel *kernel = launch->kernel;
	const unsigned char *packed = packed_find(launch->extra, &launch->extra_bytes);
	unsigned char *values;
	void **pointers;

	if (!room_get(launch, &pointers, &values, launch->extra_bytes))
		return false;
	memcpy(values, packed, launch->extra_bytes);
	for (size_t i = 0; i < kernel->param_count; i++)
		if (kernel->param[i].offset + kernel->param[i].bytes <= launch->extra_bytes)
			param_redirect(ranges, kernel, i, values + kernel->param[i].offset);
	launch->new_extra[0] = CU_LAUNCH_PARAM_BUFFER_POINTER;
	launch->new_extra[1] = values;
	launch->new_extra[2] = CU_LAUNCH_PARAM_BUFFER_SIZE;
	launch->new_extra[3] = &launch->extra_bytes;
	launch->new_extra[4] = CU_LAUNCH_PARAM_END;
	launch->extra = launch->new_extra;
	return true;
}

void shim_launch_words(const struct shim_launch *launch, shim_word_fn *tell, void *arg)
{
	size_t bytes;
	const unsigned char *packed = packed_find(launch->extra, &bytes), *value;

	for (size_t i = 0; i < launch->kernel->param_count; i++) {
		struct shim_map map;

		value = value_of(launch, i, packed, bytes);
		for (size_t at = 0, next; value && at + sizeof(CUdeviceptr) <= launch->kernel->param[i].bytes;
			at = next) {
			next = next_word(value, at, launch->kernel->param[i].bytes, &map);
			tell(arg, i, at, map.bytes ? map.address : word_at(value + at), map.bytes);
		}
	}
}

void shim_launch_values(const struct shim_launch *launch, shim_value_fn *tell)
{
	size_t bytes;
	const unsigned char *packed = packed_find(launch->extra, &bytes), *value;

	for (size_t i = 0; i < launch->kernel->param_count; i++) {
		value = value_of(launch, i, packed, bytes);
		if (value)
			tell(value, launch->kernel->param[i].bytes);
	}
}

/* For `kvshare-run inspect`: the addresses that a known writer was handed. */
static void word_inspect(void *arg, size_t param, size_t offset, CUdeviceptr word, size_t map_bytes)
{
	(void)map_bytes;
	if (is_written(arg, param, offset))
		shim_inspect_store(word);
}

/* A kernel that stores and reads in one launch would read its own stores in the sink, or nothing of them. */
static CUresult fused_refuse(const struct shim_kernel *kernel)
{
	static atomic_bool told;

	if (!atomic_exchange(&told, true))
		shim_say("kernel %s both stores K and V and attends, so its layers cannot be shared: the launch is "
			 "refused; "
			 "run the program without a plan for it, or with another attention",
			kernel->name);
	return CUDA_ERROR_NOT_SUPPORTED;
}

CUresult shim_launch_begin(struct shim_launch *launch, CUfunction function, void **params, void **extra)
{
	const struct shim_ranges *ranges = shim_ranges();

	launch->params = params;
	launch->extra = extra;
	launch->kernel = NULL;
	launch->shared = false;
	launch->far = NULL;
	launch->far_attributes = NULL;
	if (shim_settings()->inspect_path && function) {
		launch->kernel = shim_kernel_of(function);
		if (launch->kernel && launch->kernel->role == SHIM_WRITES && !launch->kernel->written.general) {
			shim_launch_words(launch, word_inspect, launch->kernel);
			shim_launch_values(launch, shim_inspect_value);
		}
		return CUDA_SUCCESS;
	}
	if (shim_settings()->probe_path && function) {
		launch->kernel = shim_kernel_of(function);
		return CUDA_SUCCESS;
	}
	if (!ranges || !function || !(launch->kernel = shim_kernel_of(function)))
		return CUDA_SUCCESS;
	if (!launch_points(ranges, launch, launch->kernel->role == SHIM_WRITES))
		return CUDA_SUCCESS;
	if (launch->kernel->role == SHIM_FUSED)
		return fused_refuse(launch->kernel);
	if (launch->kernel->role == SHIM_READS)
		return CUDA_SUCCESS;
	shim_count(&shim_launches_patched);
	return (params ? params_redirect(ranges, launch) : packed_redirect(ranges, launch)) ? CUDA_SUCCESS
											    : CUDA_ERROR_OUT_OF_MEMORY;
}

void shim_launch_end(struct shim_launch *launch)
{
	free(launch->far);
	free(launch->far_attributes);
}

static CUresult capture_status(CUstream stream, bool per_thread, CUstreamCaptureStatus *status)
{
	const struct shim_real *driver = shim_real();
	__typeof__(cuStreamIsCapturing) *ask =
		per_thread ? driver->cuStreamIsCapturing_ptsz : driver->cuStreamIsCapturing;

	*status = CU_STREAM_CAPTURE_STATUS_NONE;
	return ask ? ask(stream, status) : SHIM_ABSENT;
}

bool shim_is_capturing(CUstream stream, bool per_thread)
{
	CUstreamCaptureStatus status;

	return !capture_status(stream, per_thread, &status) && status != CU_STREAM_CAPTURE_STATUS_NONE;
}

bool shim_is_plain_stream(CUstream stream, bool per_thread)
{
	CUstreamCaptureStatus status;

	return !capture_status(stream, per_thread, &status) && status == CU_STREAM_CAPTURE_STATUS_NONE;
}

/* A stream that is being captured cannot be waited for. */
static bool can_wait(CUstream stream, __typeof__(cuStreamSynchronize) *wait)
{
	return wait && !shim_is_capturing(stream, wait == shim_real()->cuStreamSynchronize_ptsz);
}

static CUresult launch_end(
	struct shim_launch *launch, CUresult result, CUstream stream, __typeof__(cuStreamSynchronize) *wait)
{
	shim_launch_end(launch);
	/* One that was handed no address of ours may have found it in a table. */
	if (!result && shim_settings()->sync && shim_ranges() && can_wait(stream, wait))
		result = shim_fault_check(wait(stream), launch->kernel);
	return shim_fault_check(result, NULL);
}

/* Some word of a parameter lies in [low, low + span). */
static inline bool param_is_near(const unsigned char *value, size_t bytes, CUdeviceptr low, CUdeviceptr span)
{
	for (size_t at = 0; at + sizeof(CUdeviceptr) <= bytes; at += sizeof(CUdeviceptr))
		if (word_at(value + at) - low < span)
			return true;
	return false;
}

/*
 * Most launches are handed no memory that is shared, and go on at once. False: the launch has to be looked at. This is the path
 * that a program pays for everywhere, so it takes no lock, makes no copy, and compares with the ends of all ranges only.
 */
static bool is_untouched(CUfunction function, void **params, void **extra)
{
	const struct shim_ranges *ranges = shim_ranges();
	const struct shim_kernel *kernel;

	if (shim_settings()->each_launch)
		return false;
	if (!ranges || !function)
		return true;
	if (extra || !(kernel = shim_kernel_of(function)))
		return !extra;
	for (size_t i = 0; params && i < kernel->param_count; i++)
		if (shim_map_may_be_in(kernel->param[i].bytes) ||
			param_is_near(params[i], kernel->param[i].bytes, ranges->low, ranges->high - ranges->low))
			return false;
	return true;
}

/* ---- the hooks ---- */

/* A launch as it goes on to the driver: shape and one of the functions, which the hook has found. */
struct start {
	CUfunction function;
	const unsigned *shape;
	const CUlaunchConfig *config;
	CUstream stream;
	void **params, **extra;
	__typeof__(cuLaunchKernel) *plain;
	__typeof__(cuLaunchCooperativeKernel) *cooperative;
	__typeof__(cuLaunchKernelEx) *ex;
};

static inline CUresult start_now(const struct start *s)
{
	const unsigned *n = s->shape;

	if (s->plain)
		return s->plain(s->function, n[0], n[1], n[2], n[3], n[4], n[5], n[6], s->stream, s->params, s->extra);
	if (s->cooperative)
		return s->cooperative(s->function, n[0], n[1], n[2], n[3], n[4], n[5], n[6], s->stream, s->params);
	return s->ex(s->config, s->function, s->params, s->extra);
}

static CUresult start(void *arg)
{
	return start_now(arg);
}

/* One that nothing has to be done about. */
static inline CUresult launch_pass(const struct start *what)
{
	struct shim_timer timer SHIM_TIMED = shim_timer_start(SHIM_LAUNCHES);

	return shim_fault_check(start_now(what), NULL);
}

static CUresult launch_start(struct shim_launch *launch, struct start *what, __typeof__(cuStreamSynchronize) *wait)
{
	what->params = launch->params;
	what->extra = launch->extra;
	if (shim_settings()->probe_path && launch->kernel && can_wait(what->stream, wait))
		return shim_probe_launch(launch, start, what);
	return start(what);
}

static CUresult launch_kernel(CUfunction f, const unsigned *shape, CUstream stream, void **params, void **extra,
	__typeof__(cuLaunchKernel) *plain, __typeof__(cuStreamSynchronize) *wait)
{
	struct shim_launch launch;
	CUresult result;

	if (!plain)
		return SHIM_ABSENT;
	if (is_untouched(f, params, extra))
		return launch_pass(
			&(struct start){f, shape, .stream = stream, .params = params, .extra = extra, .plain = plain});
	struct shim_timer timer SHIM_TIMED = shim_timer_start(SHIM_LAUNCHES);
	result = shim_launch_begin(&launch, f, params, extra);
	if (!result)
		result = launch_start(&launch,
			&(struct start){.function = f, .shape = shape, .stream = stream, .plain = plain}, wait);
	return launch_end(&launch, result, stream, wait);
}

CUresult CUDAAPI cuLaunchKernel(CUfunction f, unsigned int gridDimX, unsigned int gridDimY, unsigned int gridDimZ,
	unsigned int blockDimX, unsigned int blockDimY, unsigned int blockDimZ, unsigned int sharedMemBytes,
	CUstream hStream, void **kernelParams, void **extra)
{
	const unsigned shape[] = {gridDimX, gridDimY, gridDimZ, blockDimX, blockDimY, blockDimZ, sharedMemBytes};
	const struct shim_real *driver = shim_real();

	return launch_kernel(
		f, shape, hStream, kernelParams, extra, driver->cuLaunchKernel, driver->cuStreamSynchronize);
}

CUresult CUDAAPI cuLaunchKernel_ptsz(CUfunction f, unsigned int gridDimX, unsigned int gridDimY, unsigned int gridDimZ,
	unsigned int blockDimX, unsigned int blockDimY, unsigned int blockDimZ, unsigned int sharedMemBytes,
	CUstream hStream, void **kernelParams, void **extra)
{
	const unsigned shape[] = {gridDimX, gridDimY, gridDimZ, blockDimX, blockDimY, blockDimZ, sharedMemBytes};
	const struct shim_real *driver = shim_real();

	return launch_kernel(
		f, shape, hStream, kernelParams, extra, driver->cuLaunchKernel_ptsz, driver->cuStreamSynchronize_ptsz);
}

static CUresult launch_cooperative(CUfunction f, const unsigned *shape, CUstream stream, void **params,
	__typeof__(cuLaunchCooperativeKernel) *plain, __typeof__(cuStreamSynchronize) *wait)
{
	struct shim_launch launch;
	CUresult result;

	if (!plain)
		return SHIM_ABSENT;
	if (is_untouched(f, params, NULL))
		return launch_pass(&(struct start){f, shape, .stream = stream, .params = params, .cooperative = plain});
	struct shim_timer timer SHIM_TIMED = shim_timer_start(SHIM_LAUNCHES);
	result = shim_launch_begin(&launch, f, params, NULL);
	if (!result)
		result = launch_start(&launch,
			&(struct start){.function = f, .shape = shape, .stream = stream, .cooperative = plain}, wait);
	return launch_end(&launch, result, stream, wait);
}

CUresult CUDAAPI cuLaunchCooperativeKernel(CUfunction f, unsigned int gridDimX, unsigned int gridDimY,
	unsigned int gridDimZ, unsigned int blockDimX, unsigned int blockDimY, unsigned int blockDimZ,
	unsigned int sharedMemBytes, CUstream hStream, void **kernelParams)
{
	const unsigned shape[] = {gridDimX, gridDimY, gridDimZ, blockDimX, blockDimY, blockDimZ, sharedMemBytes};
	const struct shim_real *driver = shim_real();

	return launch_cooperative(
		f, shape, hStream, kernelParams, driver->cuLaunchCooperativeKernel, driver->cuStreamSynchronize);
}

CUresult CUDAAPI cuLaunchCooperativeKernel_ptsz(CUfunction f, unsigned int gridDimX, unsigned int gridDimY,
	unsigned int gridDimZ, unsigned int blockDimX, unsigned int blockDimY, unsigned int blockDimZ,
	unsigned int sharedMemBytes, CUstream hStream, void **kernelParams)
{
	const unsigned shape[] = {gridDimX, gridDimY, gridDimZ, blockDimX, blockDimY, blockDimZ, sharedMemBytes};
	const struct shim_real *driver = shim_real();

	return launch_cooperative(f, shape, hStream, kernelParams, driver->cuLaunchCooperativeKernel_ptsz,
		driver->cuStreamSynchronize_ptsz);
}

/*
 * A dependent launch starts before the one ahead of it has ended, and aliases of one block are not coherent then (CUDA
 * Programming Guide, "Virtual Aliasing Support"): on a launch that is handed shared memory the attribute is dropped. NULL: no memory.
 */
static const CUlaunchConfig *config_of(struct shim_launch *launch, const CUlaunchConfig *config)
{
	CUlaunchAttribute *kept = launch->attributes;
	unsigned count = 0;

	if (!launch->shared || !config->numAttrs || !config->attrs)
		return config;
	if (config->numAttrs > SHIM_MAX_ATTRIBUTES)
		kept = launch->far_attributes = malloc(config->numAttrs * sizeof(*kept));
	if (!kept)
		return NULL;
	for (unsigned i = 0; i < config->numAttrs; i++)
		if (config->attrs[i].id != CU_LAUNCH_ATTRIBUTE_PROGRAMMATIC_STREAM_SERIALIZATION)
			kept[count++] = config->attrs[i];
	launch->config = *config;
	launch->config.attrs = kept;
	launch->config.numAttrs = count;
	return &launch->config;
}

static CUresult launch_ex(const CUlaunchConfig *config, CUfunction f, void **params, void **extra,
	__typeof__(cuLaunchKernelEx) *plain, __typeof__(cuStreamSynchronize) *wait)
{
	const CUlaunchConfig *given;
	struct shim_launch launch;
	CUresult result;

	if (!plain)
		return SHIM_ABSENT;
	if (!config)
		return plain(config, f, params, extra);
	if (is_untouched(f, params, extra))
		return launch_pass(&(struct start){f, .config = config, .params = params, .extra = extra, .ex = plain});
	struct shim_timer timer SHIM_TIMED = shim_timer_start(SHIM_LAUNCHES);
	result = shim_launch_begin(&launch, f, params, extra);
	given = result ? NULL : config_of(&launch, config);
	if (given)
		result = launch_start(&launch,
			&(struct start){.function = f, .config = given, .stream = config->hStream, .ex = plain}, wait);
	else if (!result)
		result = CUDA_ERROR_OUT_OF_MEMORY;
	return launch_end(&launch, result, config->hStream, wait);
}

CUresult CUDAAPI cuLaunchKernelEx(const CUlaunchConfig *config, CUfunction f, void **kernelParams, void **extra)
{
	const struct shim_real *driver = shim_real();

	return launch_ex(config, f, kernelParams, extra, driver->cuLaunchKernelEx, driver->cuStreamSynchronize);
}

CUresult CUDAAPI cuLaunchKernelEx_ptsz(const CUlaunchConfig *config, CUfunction f, void **kernelParams, void **extra)
{
	const struct shim_real *driver = shim_real();

	return launch_ex(
		config, f, kernelParams, extra, driver->cuLaunchKernelEx_ptsz, driver->cuStreamSynchronize_ptsz);
}

CUresult CUDAAPI cuModuleUnload(CUmodule hmod)
{
	struct shim_timer timer SHIM_TIMED = shim_timer_start(SHIM_CONTEXTS);
	const struct shim_real *driver = shim_real();
	CUresult result;

	shim_kernels_stale();
	result = driver->cuModuleUnload ? driver->cuModuleUnload(hmod) : SHIM_ABSENT;
	shim_kernels_stale(); /* one may have been looked up meanwhile */
	return result;
}

CUresult CUDAAPI cuLibraryUnload(CUlibrary library)
{
	struct shim_timer timer SHIM_TIMED = shim_timer_start(SHIM_CONTEXTS);
	const struct shim_real *driver = shim_real();
	CUresult result;

	shim_kernels_stale();
	result = driver->cuLibraryUnload ? driver->cuLibraryUnload(library) : SHIM_ABSENT;
	shim_kernels_stale(); /* one may have been looked up meanwhile */
	return result;
}
