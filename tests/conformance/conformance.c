/*
 * What the conformance programs share; conformance.h tells what each function is for. The device is opened once for a
 * program.
 */
#include "conformance.h"

#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <spawn.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

enum { CHILD_SECONDS = 60, SKIPPED = 77 };

/*
 * How often a gate is looked at before it gives up: some seconds either way. A look costs a nanosecond on the host, and
 * a round trip over PCIe, near a microsecond, on a GPU.
 */
static const unsigned long long GATE_LIMIT_HOST = 8ull << 30, GATE_LIMIT_CUDA = 8ull << 20;

kvs_cu *cu;
CUmemAllocationProp prop;
size_t granule, page;

static CUmodule module;
static CUfunction fill_kernel, add_kernel, gate_kernel;
static bool child;                      /* this process was started for one test by in_child() */
static bool context_lost;               /* a test made the context fault, as it meant to */
static struct softcuda_counters before; /* the counters when the running test began */

/* ---- results ---- */

const char *error_name(CUresult result)
{
	const char *name = NULL;

	if (cu->cuGetErrorName(result, &name) || !name)
		name = "an error without a name";
	return name;
}

void check_result(CUresult result, CUresult expected, const char *call, const char *file, int line)
{
	if (result == expected)
		return;
	print_error("%s\n    is %s (%d), must be %s (%d)\n", call, error_name(result), result, error_name(expected),
		expected);
	_fail(file, line);
}

static bool is_sticky(CUresult result)
{
	return result == CUDA_ERROR_ILLEGAL_ADDRESS ||
	       (result >= CUDA_ERROR_HARDWARE_STACK_ERROR && result <= CUDA_ERROR_LAUNCH_FAILED);
}

void check_refused(CUresult result, const char *call, const char *file, int line)
{
	if (result != CUDA_SUCCESS && !is_sticky(result))
		return;
	print_error("%s\n    is %s (%d), must be refused\n", call, error_name(result), result);
	_fail(file, line);
}

CUresult assert_fault(CUresult result, const char *file, int line)
{
	context_lost = true;
	if (cu->kind == KVS_DEVICE_CUDA && result == CUDA_ERROR_LAUNCH_FAILED)
		return result;
	check_result(result, CUDA_ERROR_ILLEGAL_ADDRESS, "a faulting access", file, line);
	return result;
}

void record(const char *what, CUresult result)
{
	print_message("recorded: %s: %s (%d)\n", what, error_name(result), result);
}

bool check_stricter(const char *what, CUresult result, const char *call, const char *file, int line)
{
	if (cu->kind == KVS_DEVICE_HOST)
		check_refused(result, call, file, line);
	else
		record(what, result);
	return !result;
}

void *driver_symbol(const char *name)
{
	void *symbol = dlsym(cu->library, name);

	if (!symbol)
		fail_msg("the driver has no %s", name);
	return symbol;
}

struct softcuda_counters softcuda_counters_now(void)
{
	struct softcuda_counters now = {0};
	softcuda_get_counters_fn *get = (softcuda_get_counters_fn *)dlsym(cu->library, SOFTCUDA_GET_COUNTERS);

	if (get)
		get(&now);
	return now;
}

/* ---- memory ---- */

CUmemGenericAllocationHandle handle_new(size_t bytes)
{
	CUmemGenericAllocationHandle handle = 0;

	must(cu->cuMemCreate(&handle, bytes, &prop, 0));
	return handle;
}

CUdeviceptr reservation_new(size_t bytes)
{
	CUdeviceptr at = 0;

	must(cu->cuMemAddressReserve(&at, bytes, granule, 0, 0));
	return at;
}

void map(CUdeviceptr at, size_t bytes, CUmemGenericAllocationHandle handle)
{
	must(cu->cuMemMap(at, bytes, 0, handle, 0));
}

CUresult set_access(CUdeviceptr at, size_t bytes, CUmemAccess_flags flags)
{
	CUmemAccessDesc access = {.location = prop.location, .flags = flags};

	return cu->cuMemSetAccess(at, bytes, &access, 1);
}

CUmemAccess_flags access_of(CUdeviceptr at)
{
	unsigned long long flags = ~0ull;

	must(cu->cuMemGetAccess(&flags, &prop.location, at));
	return (CUmemAccess_flags)flags;
}

size_t free_memory(void)
{
	size_t available = 0, total = 0;

	must(cu->cuMemGetInfo(&available, &total));
	return available;
}

static struct range range_map(CUmemGenericAllocationHandle handle, size_t bytes, CUmemAccess_flags access)
{
	struct range r = {.at = reservation_new(bytes), .bytes = bytes, .handle = handle};

	map(r.at, r.bytes, handle);
	if (access != CU_MEM_ACCESS_FLAGS_PROT_NONE)
		must(set_access(r.at, r.bytes, access));
	return r;
}

struct range range_new(size_t granules, CUmemAccess_flags access)
{
	return range_map(handle_new(granules * granule), granules * granule, access);
}

struct range range_alias(const struct range *of, CUmemAccess_flags access)
{
	return range_map(of->handle, of->bytes, access);
}

void range_unmap(const struct range *r)
{
	must(cu->cuCtxSynchronize()); /* unmapping does not wait for work in flight; a memset may be that too */
	must(cu->cuMemUnmap(r->at, r->bytes));
	must(cu->cuMemAddressFree(r->at, r->bytes));
}

void range_free(const struct range *r)
{
	range_unmap(r);
	must(cu->cuMemRelease(r->handle));
}

/* ---- kernels ---- */

/* The whole file, or NULL with errno set. The caller frees it. */
static void *file_read(const char *path)
{
	struct stat info;
	char *bytes = NULL;
	int fd = open(path, O_RDONLY | O_CLOEXEC);

	if (fd < 0)
		return NULL;
	if (fstat(fd, &info))
		goto out_close;
	bytes = malloc(info.st_size + 1); /* a NUL behind it, as PTX would want */
	if (!bytes)
		goto out_close;
	if (read(fd, bytes, info.st_size) == info.st_size) {
		bytes[info.st_size] = 0;
	} else {
		free(bytes);
		bytes = NULL;
	}
out_close:
	close(fd);
	return bytes;
}

void conformance_image_path(char *path, size_t bytes)
{
	const char *given = getenv("KVS_TEST_KERNELS");
	char program[PATH_MAX] = {0};

	assert_true(readlink("/proc/self/exe", program, sizeof(program) - 1) > 0);
	*strrchr(program, '/') = '\0';
	if (given)
		snprintf(path, bytes, "%s", given);
	else
		snprintf(path, bytes, "%s/conformance_kernels.%s", program,
			cu->kind == KVS_DEVICE_HOST ? "so" : "fatbin");
}

static int module_load(void)
{
	char path[PATH_MAX + 64] = {0};
	void *image;
	CUresult result;

	conformance_image_path(path, sizeof(path));
	image = file_read(path);
	if (!image)
		return kvs_fail(-errno, "%s: %s", path, strerror(errno));
	result = cu->cuModuleLoadData(&module, image);
	free(image);
	if (!result)
		result = cu->cuModuleGetFunction(&fill_kernel, module, "conformance_fill");
	if (!result)
		result = cu->cuModuleGetFunction(&add_kernel, module, "conformance_add");
	if (!result)
		result = cu->cuModuleGetFunction(&gate_kernel, module, "conformance_gate");
	return result ? kvs_cu_fail(cu, result, "%s", path) : 0;
}

CUmodule conformance_module(void)
{
	if (!module && module_load())
		fail_msg("%s", kvs_error());
	return module;
}

CUfunction conformance_kernel(const char *name)
{
	CUfunction function = NULL;

	must(cu->cuModuleGetFunction(&function, conformance_module(), name));
	return function;
}

/* The module is loaded by the first launch, so that programs without one run where there is no image of it. */
static CUresult try_launch(CUstream stream, CUfunction *function, unsigned blocks, unsigned threads, void **params)
{
	conformance_module();
	return cu->cuLaunchKernel(*function, blocks, 1, 1, threads, 1, 1, 0, stream, params, NULL);
}

void launch_fill(CUstream stream, CUdeviceptr out, unsigned value, size_t count)
{
	unsigned long long words = count;
	void *params[] = {&out, &value, &words};

	must(try_launch(stream, &fill_kernel, 4, 64, params));
}

void launch_add(CUstream stream, CUdeviceptr out, CUdeviceptr in, unsigned addend, size_t count)
{
	unsigned long long words = count;
	void *params[] = {&out, &in, &addend, &words};

	must(try_launch(stream, &add_kernel, 4, 64, params));
}

void assert_words(CUdeviceptr at, size_t bytes, unsigned value)
{
	unsigned *words = test_malloc(bytes);

	must(cu->cuCtxSynchronize());
	must(cu->cuMemcpyDtoH(words, at, bytes));
	for (size_t i = 0; i < bytes / sizeof(*words); i++)
		if (words[i] != value)
			fail_msg("word %zu of %zu is %#x, must be %#x", i, bytes / sizeof(*words), words[i], value);
	test_free(words);
}

unsigned word_at(CUdeviceptr at)
{
	unsigned word = 0;

	must(cu->cuCtxSynchronize());
	must(cu->cuMemcpyDtoH(&word, at, sizeof(word)));
	return word;
}

unsigned *gate_new(void)
{
	void *gate = NULL;

	must(cu->cuMemAllocHost(&gate, GATE_WORDS * sizeof(unsigned)));
	memset(gate, 0, GATE_WORDS * sizeof(unsigned));
	return gate;
}

CUresult gate_try_launch(CUstream stream, unsigned *gate, CUdeviceptr touch)
{
	unsigned long long limit = cu->kind == KVS_DEVICE_HOST ? GATE_LIMIT_HOST : GATE_LIMIT_CUDA;
	void *params[] = {&gate, &limit, &touch};

	return try_launch(stream, &gate_kernel, 1, 1, params);
}

void gate_launch(CUstream stream, unsigned *gate, CUdeviceptr touch)
{
	must(gate_try_launch(stream, gate, touch));
}

void gate_await_start(unsigned *gate)
{
	for (int ms = 0; !__atomic_load_n(&gate[GATE_STARTED], __ATOMIC_ACQUIRE); ms++) {
		if (ms == 20000)
			fail_msg("the gate's kernel has not started within 20 s");
		usleep(1000);
	}
}

void gate_open(unsigned *gate)
{
	__atomic_store_n(&gate[GATE_OPEN], 1, __ATOMIC_RELEASE);
}

unsigned gate_outcome(unsigned *gate)
{
	return __atomic_load_n(&gate[GATE_OUTCOME], __ATOMIC_ACQUIRE);
}

void gate_free(unsigned *gate)
{
	must(cu->cuMemFreeHost(gate));
}

CUstream stream_new(unsigned flags)
{
	CUstream stream = NULL;

	must(cu->cuStreamCreate(&stream, flags));
	return stream;
}

CUevent event_new(unsigned flags)
{
	CUevent event = NULL;

	must(cu->cuEventCreate(&event, flags));
	return event;
}

/* ---- processes ---- */

static void assert_child_passed(const char *test, int status)
{
	if (WIFSIGNALED(status) && WTERMSIG(status) == SIGALRM)
		fail_msg("%s has not ended within %d s", test, CHILD_SECONDS);
	if (WIFSIGNALED(status))
		fail_msg("%s was killed by signal %d (%s)", test, WTERMSIG(status), strsignal(WTERMSIG(status)));
	if (WEXITSTATUS(status))
		fail_msg("%s failed in its own process; its messages are above", test);
}

bool in_child(const char *test, int fd)
{
	char program[PATH_MAX] = {0};
	char *argv[] = {program, "--child", (char *)test, NULL};
	posix_spawn_file_actions_t actions;
	pid_t pid;
	int status, err;

	if (child)
		return true;
	assert_true(readlink("/proc/self/exe", program, sizeof(program) - 1) > 0);
	posix_spawn_file_actions_init(&actions);
	if (fd >= 0)
		posix_spawn_file_actions_adddup2(&actions, fd, CHILD_FD);
	fflush(stdout);
	err = posix_spawn(&pid, program, &actions, NULL, argv, environ);
	posix_spawn_file_actions_destroy(&actions);
	if (err)
		fail_msg("%s: %s", program, strerror(err));
	while (waitpid(pid, &status, 0) < 0)
		assert_int_equal(errno, EINTR);
	assert_child_passed(test, status);
	return false;
}

/* ---- a program's life ---- */

int test_setup(void **state)
{
	(void)state;
	before = softcuda_counters_now();
	return 0;
}

int test_teardown(void **state)
{
	struct softcuda_counters now = softcuda_counters_now();

	(void)state;
	if (context_lost)
		return 0;
	must(cu->cuCtxSynchronize());
	assert_int_equal(now.reservations, before.reservations);
	assert_int_equal(now.handles, before.handles);
	assert_int_equal(now.mappings, before.mappings);
	assert_int_equal(now.allocations, before.allocations);
	assert_int_equal(now.host_allocations, before.host_allocations);
	assert_int_equal(now.streams, before.streams);
	assert_int_equal(now.events, before.events);
	assert_int_equal(now.graphs, before.graphs);
	assert_int_equal(now.physical_bytes, before.physical_bytes);
	assert_int_equal(now.faults, before.faults);
	return 0;
}

static int device_open(const char *device)
{
	int err = kvs_cu_open(device, &cu);
	CUresult result;

	if (err)
		return err;
	page = sysconf(_SC_PAGESIZE);
	prop.type = CU_MEM_ALLOCATION_TYPE_PINNED;
	prop.location.type = CU_MEM_LOCATION_TYPE_DEVICE;
	prop.location.id = cu->device;
	result = cu->cuMemGetAllocationGranularity(&granule, &prop, CU_MEM_ALLOC_GRANULARITY_MINIMUM);
	return result ? kvs_cu_fail(cu, result, "minimum granularity") : 0;
}

int conformance_run(int argc, char **argv, const struct CMUnitTest *tests, size_t count)
{
	const char *device = getenv("KVS_TEST_DEVICE") ?: "host";
	int failed, err;

	child = argc == 3 && strcmp(argv[1], "--child") == 0;
	if (child)
		alarm(CHILD_SECONDS);
	if (argc > 1)
		cmocka_set_test_filter(argv[argc - 1]);
	/* Only softcuda reads these: memory that soon runs out, and enough workers for kernels that wait on each other. */
	setenv("SOFTCUDA_MEMORY", "512M", 0);
	setenv("SOFTCUDA_WORKERS", "4", 0);
	setenv("SOFTCUDA_STRICT", "0", 0);
	/* A kernel that is loaded at its first launch may wait for one that runs, and that one for the test. */
	setenv("CUDA_MODULE_LOADING", "EAGER", 0);
	err = device_open(device);
	if (err) {
		fprintf(stderr, "%s\n", kvs_error());
		kvs_cu_close(cu);
		return err == -ENODEV && strcmp(device, "host") != 0 ? SKIPPED : 1;
	}
	print_message("device: %s, granularity %zu\n", cu->name, granule);
	failed = _cmocka_run_group_tests("conformance", tests, count, NULL, NULL);
	if (module && !context_lost)
		cu->cuModuleUnload(module);
	kvs_cu_close(cu);
	return failed ? 1 : 0;
}
