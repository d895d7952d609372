/* softcuda is found beside the code that looks for it, and never in the directory where somebody works. */
#include "../../driver/cu.h"
#include "../support/process.h"

#include <dlfcn.h>
#include <errno.h>
#include <limits.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <cmocka.h>

static char start[PATH_MAX], folder[64], build[PATH_MAX], mark[128];

static void must_run(const char *format, ...) __attribute__((format(printf, 1, 2)));
static void must_run(const char *format, ...)
{
	char command[4 * PATH_MAX];
	va_list args;

	va_start(args, format);
	vsnprintf(command, sizeof(command), format, args);
	va_end(args);
	assert_int_equal(system(command), 0);
}

/* A folder with a planted softcuda, and files named like every program that might look for it. */
static int folder_make(void **state)
{
	(void)state;
	strcpy(folder, "/tmp/kvshare-locate-XXXXXX");
	if (!getcwd(start, sizeof(start)) || !mkdtemp(folder) || !realpath(built(""), build))
		return -1;
	snprintf(mark, sizeof(mark), "%s/mark", folder);
	setenv("KVS_TEST_MARK", mark, 1);
	must_run("mkdir -p %s/softcuda %s/lib/kvshare/softcuda %s/kvshare/softcuda", folder, folder, folder);
	must_run("for place in softcuda lib/kvshare/softcuda kvshare/softcuda; do "
		 "cp %s/tests/driver/planted.so %s/$place/libcuda.so.1; done",
		build, folder);
	must_run("touch %s/kvshare-run %s/libkvshare.so && chmod +x %s/kvshare-run", folder, folder, folder);
	return 0;
}

static int folder_remove(void **state)
{
	(void)state;
	must_run("rm -rf %s", folder);
	return chdir(start);
}

static bool is_marked(void)
{
	return !access(mark, F_OK);
}

static void a_program_from_path_loads_nothing_from_here(void **state)
{
	char command[3 * PATH_MAX];
	struct process process;

	(void)state;
	snprintf(command, sizeof(command), "cd %s && PATH=%s:/usr/bin:/bin env -u KVSHARE_SOFTCUDA kvshare-run doctor",
		folder, build);
	process = run_shell(command, 60);
	assert_false(is_marked());
	assert_int_equal(process.status, 0);
	process_free(&process);
}

/* Loaded by a relative name from one directory, it looks beside its own file when it is called in another. */
static void a_library_with_a_relative_name_loads_nothing_from_here(void **state)
{
	__typeof__(kvs_cu_open) *open_device;
	__typeof__(kvs_error) *error;
	char other[96], *softcuda = strdup(getenv("KVSHARE_SOFTCUDA"));
	void *library;
	kvs_cu *cu;

	(void)state;
	snprintf(other, sizeof(other), "%s-other", folder);
	must_run("mkdir %s && cp %s/libkvshare.so %s", other, build, other);
	assert_int_equal(chdir(other), 0);
	library = dlopen("./libkvshare.so", RTLD_NOW | RTLD_LOCAL);
	assert_non_null(library);
	open_device = (__typeof__(open_device))dlsym(library, "kvs_cu_open");
	error = (__typeof__(error))dlsym(library, "kvs_error");
	assert_int_equal(chdir(folder), 0);
	unsetenv("KVSHARE_SOFTCUDA");
	assert_int_equal(open_device("host", &cu), -ENODEV);
	setenv("KVSHARE_SOFTCUDA", softcuda, 1);
	assert_false(is_marked());
	assert_non_null(strstr(error(), other));
	must_run("rm -rf %s", other);
	free(softcuda);
}

static void a_bare_name_is_refused(void **state)
{
	char *softcuda = strdup(getenv("KVSHARE_SOFTCUDA"));
	kvs_cu *cu;

	(void)state;
	assert_int_equal(chdir(folder), 0);
	must_run("cp softcuda/libcuda.so.1 .");
	setenv("KVSHARE_SOFTCUDA", "libcuda.so.1", 1);
	assert_int_equal(kvs_cu_open("host", &cu), -EINVAL);
	setenv("KVSHARE_SOFTCUDA", softcuda, 1);
	assert_false(is_marked());
	assert_non_null(strstr(kvs_error(), "bare name"));
	free(softcuda);
}

/* The planted library does leave its mark where it is asked for: the other tests can fail. */
static void the_mark_shows(void **state)
{
	char planted[PATH_MAX], *softcuda = strdup(getenv("KVSHARE_SOFTCUDA"));
	kvs_cu *cu;

	(void)state;
	snprintf(planted, sizeof(planted), "%s/softcuda/libcuda.so.1", folder);
	setenv("KVSHARE_SOFTCUDA", planted, 1);
	assert_int_equal(kvs_cu_open("host", &cu), -ENODEV);
	setenv("KVSHARE_SOFTCUDA", softcuda, 1);
	assert_true(is_marked());
	/* A driver that was loaded stays: its threads and exit handlers may run after everybody has closed it. */
	assert_non_null(dlopen(planted, RTLD_NOW | RTLD_NOLOAD));
	free(softcuda);
}

int main(void)
{
#define IN_FOLDER(test) cmocka_unit_test_setup_teardown(test, folder_make, folder_remove)
	const struct CMUnitTest tests[] = {
		IN_FOLDER(a_program_from_path_loads_nothing_from_here),
		IN_FOLDER(a_library_with_a_relative_name_loads_nothing_from_here),
		IN_FOLDER(a_bare_name_is_refused),
		IN_FOLDER(the_mark_shows),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
