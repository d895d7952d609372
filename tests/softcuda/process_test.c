/*
 * softcuda in the processes that people start: with closed streams, forks, wrong settings and small stacks. Each case
 * runs in a child of its own, which has not used softcuda before.
 */
#include "../../driver/cu.h"
#include "../support/process.h"

#include <errno.h>
#include <fcntl.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cmocka.h>

static int messages; /* where a child writes messages, as its stderr may be closed */

/* Runs `body` in a child; its exit status, or 256 + the signal that ended it. */
static int in_child(int (*body)(void))
{
	pid_t child = fork();
	int status;

	if (!child) {
		alarm(60);
		_exit(body());
	}
	assert_int_equal(waitpid(child, &status, 0), child);
	return WIFEXITED(status) ? WEXITSTATUS(status) : 256 + WTERMSIG(status);
}

static int wrong(const char *what)
{
	dprintf(messages, "in the child: %s: %s\n", what, kvs_error());
	return 1;
}

/* ---- descriptors ---- */

/* Uses everything for which softcuda opens files: device memory, exported handles, modules. */
static CUresult use_everything(const kvs_cu *cu, int *exported)
{
	CUmemAllocationProp properties = {.type = CU_MEM_ALLOCATION_TYPE_PINNED,
		.location.type = CU_MEM_LOCATION_TYPE_DEVICE,
		.requestedHandleTypes = CU_MEM_HANDLE_TYPE_POSIX_FILE_DESCRIPTOR};
	CUmemGenericAllocationHandle handle, imported;
	CUmodule module;
	CUdeviceptr memory;
	CUresult result = cu->cuMemAlloc(&memory, 4096);
	__typeof__(cuMemExportToShareableHandle) *export =
		(__typeof__(export))kvs_cu_symbol_of_library(cu->library, "cuMemExportToShareableHandle");
	__typeof__(cuMemImportFromShareableHandle) *import =
		(__typeof__(import))kvs_cu_symbol_of_library(cu->library, "cuMemImportFromShareableHandle");
	__typeof__(cuModuleLoad) *load = (__typeof__(load))kvs_cu_symbol_of_library(cu->library, "cuModuleLoad");
	const char *build = getenv("BUILD");
	char path[512];

	snprintf(path, sizeof(path), "%s/tests/softcuda/softcuda_kernels.so", build ? build : "build");
	if (!result)
		result = cu->cuMemCreate(&handle, (size_t)2 << 20, &properties, 0);
	if (!result)
		result = export(exported, handle, CU_MEM_HANDLE_TYPE_POSIX_FILE_DESCRIPTOR, 0);
	if (!result)
		result = import(&imported, (void *)(intptr_t)*exported, CU_MEM_HANDLE_TYPE_POSIX_FILE_DESCRIPTOR);
	return result ? result : load(&module, path);
}

/* Every descriptor that is open and was not before: not 0 to 2, and closed by exec. */
static const char *descriptors_check(const bool *before, int most)
{
	for (int fd = 0; fd < most; fd++) {
		int flags = fcntl(fd, F_GETFD);

		if (flags < 0 || before[fd])
			continue;
		if (fd <= STDERR_FILENO)
			return "a standard descriptor was taken";
		if (!(flags & FD_CLOEXEC))
			return "a descriptor outlives exec";
	}
	return NULL;
}

static int with_closed_streams(void)
{
	bool before[256];
	const char *fault;
	kvs_cu *cu;
	int exported;

	for (int fd = 0; fd <= STDERR_FILENO; fd++)
		close(fd);
	for (int fd = 0; fd < 256; fd++)
		before[fd] = fcntl(fd, F_GETFD) >= 0;
	if (kvs_cu_open("host", &cu) || use_everything(cu, &exported))
		return wrong("softcuda with closed streams");
	fault = descriptors_check(before, 256);
	if (fault)
		return wrong(fault);
	return write(STDOUT_FILENO, "x", 1) == 1 ? wrong("stdout leads somewhere") : 0;
}

static void standard_descriptors_are_left_alone(void **state)
{
	(void)state;
	messages = fcntl(STDERR_FILENO, F_DUPFD, 10);
	assert_true(messages >= 0);
	assert_int_equal(in_child(with_closed_streams), 0);
	close(messages);
}

/* ---- fork ---- */

/*
 * The parent has a device, work in a stream and memory mapped; every call of its child is refused at once, and the
 * child has none of the memory.
 */
static int child_of_a_user(const kvs_cu *cu, CUdeviceptr memory)
{
	pid_t child = fork();
	int status, count;
	kvs_cu *again;

	if (!child) {
		alarm(20);
		if (cu->cuMemcpyDtoH(&count, memory, sizeof(count)) != CUDA_ERROR_NOT_INITIALIZED ||
			cu->cuStreamSynchronize(NULL) != CUDA_ERROR_NOT_INITIALIZED ||
			cu->cuInit(0) != CUDA_ERROR_NOT_INITIALIZED ||
			cu->cuDeviceGetCount(&count) != CUDA_ERROR_NOT_INITIALIZED)
			_exit(2);
		if (!kvs_cu_open("host", &again) || !strstr(kvs_error(), "NOT_INITIALIZED"))
			_exit(3);
		if (!msync((void *)(uintptr_t)(memory / 4096 * 4096), 4096, MS_ASYNC) || errno != ENOMEM)
			_exit(4); /* something is mapped there */
		_exit(0);
	}
	waitpid(child, &status, 0);
	if (status)
		dprintf(messages, "child of the child: %#x\n", status);
	return status ? wrong("a child of a process that uses softcuda") : 0;
}

static int with_a_child(void)
{
	CUdeviceptr memory;
	kvs_cu *cu;
	int word = 0;

	if (kvs_cu_open("host", &cu) || cu->cuMemAlloc(&memory, 1 << 20) ||
		cu->cuMemsetD32Async(memory, 0x5eed, 1 << 18, NULL) || child_of_a_user(cu, memory))
		return wrong("the parent");
	/* The parent goes on. */
	if (cu->cuMemcpyDtoH(&word, memory, sizeof(word)) || word != 0x5eed || cu->cuMemFree(memory))
		return wrong("the parent after the fork");
	kvs_cu_close(cu);
	return 0;
}

static void a_child_of_fork_is_refused_and_shares_nothing(void **state)
{
	(void)state;
	messages = STDERR_FILENO;
	assert_int_equal(in_child(with_a_child), 0);
}

/* ---- settings ---- */

static int with_a_wrong_setting(void)
{
	kvs_cu *cu;

	return kvs_cu_open("host", &cu) == -EINVAL && strstr(kvs_error(), "cuInit, ") &&
			       strstr(kvs_error(), getenv("KVS_TEST_WRONG"))
		       ? 0
		       : wrong("a wrong setting");
}

static void wrong_settings_are_named_at_the_start(void **state)
{
	static const char *const rows[][2] = {
		{"SOFTCUDA_FAIL", "cuMemAlloc"},
		{"SOFTCUDA_FAIL", "cuMemAlloc:0:2"},
		{"SOFTCUDA_FAIL", "cuMemAlloc:1:0"},
		{"SOFTCUDA_FAIL", "cuMemAlloc:1:1000"},
		{"SOFTCUDA_FAIL", "cuMemAllok:1:2"},
		{"SOFTCUDA_FAIL", "malloc:1:2"},
		{"SOFTCUDA_MEMORY", "-1"},
		{"SOFTCUDA_MEMORY", "1 G"},
		{"SOFTCUDA_GRANULARITY", "3M"},
		{"SOFTCUDA_LATE_COPIES", "yes"},
		{"KVS_SIMT_SCHEDULE", "backwards"},
		{"KVS_SIMT_SCHEDULE", "random"},
		{"KVS_SIMT_SCHEDULE", "random:1x"},
		{"KVS_SIMT_SCHEDULE", ""},
		{"KVS_HOST_KERNELS", "fast"},
		{"KVS_HOST_KERNELS", "avx"},
		{"KVS_HOST_KERNELS", ""},
	};

	(void)state;
	messages = STDERR_FILENO;
	for (size_t i = 0; i < sizeof(rows) / sizeof(*rows); i++) {
		const char *before = getenv(rows[i][0]);
		char *kept = before ? strdup(before) : NULL;

		setenv(rows[i][0], rows[i][1], 1);
		setenv("KVS_TEST_WRONG", rows[i][0], 1);
		assert_int_equal(in_child(with_a_wrong_setting), 0);
		unsetenv(rows[i][0]);
		if (kept)
			setenv(rows[i][0], kept, 1);
		free(kept);
	}
}

static int with_good_settings(void)
{
	kvs_cu *cu;

	return kvs_cu_open("host", &cu) ? wrong("good settings") : 0;
}

static void versioned_functions_and_all_schedules_are_known(void **state)
{
	static const char *const rows[][2] = {
		{"SOFTCUDA_FAIL", "cuMemAlloc:100000:2"},
		{"SOFTCUDA_FAIL", "cuMemMap:100000:2"},
		{"SOFTCUDA_FAIL", "cuCtxCreate:100000:999"},
		{"SOFTCUDA_FAIL", "*:100000:1"},
		{"KVS_SIMT_SCHEDULE", "random:17"},
		{"KVS_SIMT_SCHEDULE", "reverse"},
		{"KVS_HOST_KERNELS", "native"},
		{"KVS_HOST_KERNELS", "plain"},
		{"KVS_HOST_KERNELS", "avx2"},
		{"KVS_HOST_KERNELS", "avx512"},
		{"KVS_HOST_KERNELS", "simt"},
	};

	(void)state;
	messages = STDERR_FILENO;
	for (size_t i = 0; i < sizeof(rows) / sizeof(*rows); i++) {
		setenv(rows[i][0], rows[i][1], 1);
		assert_int_equal(in_child(with_good_settings), 0);
		unsetenv(rows[i][0]);
	}
}

/* ---- limits ---- */

static void a_small_stack_is_enough(void **state)
{
	struct process process;
	char command[512];

	(void)state;
	for (int kib = 128; kib <= 256; kib += 64) {
		snprintf(command, sizeof(command), "ulimit -s %d && %s", kib, built("tests/softcuda/softcuda_test"));
		process = run_shell(command, 300);
		if (process.status)
			fail_msg("with a stack of %d KiB: %d: %s", kib, process.status, process.err);
		process_free(&process);
	}
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(a_child_of_fork_is_refused_and_shares_nothing),
		cmocka_unit_test(wrong_settings_are_named_at_the_start),
		cmocka_unit_test(versioned_functions_and_all_schedules_are_known),
		cmocka_unit_test(a_small_stack_is_enough),
		cmocka_unit_test(standard_descriptors_are_left_alone),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
