/*
 * softcuda in the processes that people start: with standard streams closed. Each case runs in a child of its own, which has
 * not touched softcuda before.
 */
#include "../../driver/cu.h"

#include <errno.h>
#include <fcntl.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cmocka.h>

static int report; /* the child's way to speak where stderr is closed */

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
	dprintf(report, "in the child: %s: %s\n", what, kvs_error());
	return 1;
}

/* ---- descriptors ---- */

/* Uses all that softcuda opens files for: device memory, exported handles, modules. */
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

	snprintf(path, sizeof path, "%s/tests/softcuda/softcuda_kernels.so", build ? build : "build");
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
	report = fcntl(STDERR_FILENO, F_DUPFD, 10);
	assert_true(report >= 0);
	assert_int_equal(in_child(with_closed_streams), 0);
	close(report);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(standard_descriptors_are_left_alone),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
