/*
 * Opening and closing a device, and the messages that failures leave: the meaning of device names, the thread that a
 * message belongs to, and the errno for each of CUDA's errors.
 */
#include "../../driver/cu.h"
#include "../support/process.h"

#include <dlfcn.h>
#include <errno.h>
#include <pthread.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

static void what_names_no_device_is_refused(void **state)
{
	static const char *const names[] = {
		"", "gpu", "cuda:", "cuda:1x", "cuda:-1", "cuda: 1", "cuda:99999999999", "hosts"};

	(void)state;
	for (size_t i = 0; i < sizeof(names) / sizeof(*names); i++) {
		kvs_cu *cu = (kvs_cu *)-1;

		assert_int_equal(kvs_cu_open(names[i], &cu), -EINVAL);
		assert_null(cu);
		assert_non_null(strstr(kvs_error(), "no such device"));
	}
}

/* With softcuda, which has one device, in the place of NVIDIA's driver. */
static void a_device_that_the_driver_has_not_is_named(void **state)
{
	struct process process;
	char command[600];

	(void)state;
	snprintf(command, sizeof(command),
		"LD_LIBRARY_PATH=%s kvshare-run generate -m tests/models/storyworld-3m -p x -n 1 --device cuda:1",
		built("softcuda"));
	process = run_shell(command, 30);
	assert_int_equal(process.status, 1);
	if (!strstr(process.err, "device 1 was asked for, the driver has 1"))
		fail_msg("%s", process.err);
	process_free(&process);
}

/* softcuda stays loaded, under the name of NVIDIA's driver: the next to look for a GPU finds it. */
static void softcuda_is_no_gpu(void **state)
{
	kvs_cu *cu;

	(void)state;
	assert_int_equal(kvs_cu_open("host", &cu), 0);
	kvs_cu_close(cu);
	for (int times = 0; times < 2; times++) {
		assert_int_equal(kvs_cu_open("auto", &cu), 0);
		assert_int_equal(cu->kind, KVS_DEVICE_HOST);
		kvs_cu_close(cu);
	}
}

static void closing_leaves_no_context_behind(void **state)
{
	void *library = dlopen(getenv("KVSHARE_SOFTCUDA"), RTLD_NOW | RTLD_LOCAL); /* stays loaded meanwhile */
	CUresult (*get_current)(CUcontext *);
	CUcontext current = NULL;
	kvs_cu *cu;

	(void)state;
	assert_non_null(library);
	get_current = (CUresult(*)(CUcontext *))dlsym(library, "cuCtxGetCurrent");
	assert_non_null(get_current);
	assert_int_equal(kvs_cu_open("host", &cu), 0);
	assert_int_equal(get_current(&current), CUDA_SUCCESS);
	assert_ptr_equal(current, cu->context);
	kvs_cu_close(cu);
	assert_int_equal(get_current(&current), CUDA_SUCCESS);
	assert_null(current);
	dlclose(library);
}

static void *fail_elsewhere(void *arg)
{
	(void)arg;
	assert_string_equal(kvs_error(), "");
	kvs_fail(-EIO, "another thread's");
	return NULL;
}

static void a_message_is_its_threads_own(void **state)
{
	pthread_t thread;

	(void)state;
	kvs_fail(-EIO, "this thread's");
	assert_int_equal(pthread_create(&thread, NULL, fail_elsewhere, NULL), 0);
	pthread_join(thread, NULL);
	assert_string_equal(kvs_error(), "this thread's");
}

static void a_message_may_be_put_into_the_next(void **state)
{
	(void)state;
	kvs_fail(-EIO, "the disk is full");
	assert_int_equal(kvs_fail(-EIO, "plan.json: %s", kvs_error()), -EIO);
	assert_string_equal(kvs_error(), "plan.json: the disk is full");
}

static void an_error_of_cuda_becomes_an_errno_with_its_name(void **state)
{
	static const struct {
		CUresult result;
		int err;
		const char *name;
	} rows[] = {
		{CUDA_ERROR_OUT_OF_MEMORY, -ENOMEM, "CUDA_ERROR_OUT_OF_MEMORY (2)"},
		{CUDA_ERROR_INVALID_VALUE, -EINVAL, "CUDA_ERROR_INVALID_VALUE (1)"},
		{CUDA_ERROR_NO_DEVICE, -ENODEV, "CUDA_ERROR_NO_DEVICE (100)"},
		{CUDA_ERROR_INVALID_DEVICE, -ENODEV, "CUDA_ERROR_INVALID_DEVICE (101)"},
		{CUDA_ERROR_NOT_SUPPORTED, -ENOTSUP, "CUDA_ERROR_NOT_SUPPORTED (801)"},
		{CUDA_ERROR_ILLEGAL_ADDRESS, -EIO, "CUDA_ERROR_ILLEGAL_ADDRESS (700)"},
		{(CUresult)12345, -EIO, "unknown CUDA error (12345)"},
	};
	kvs_cu *cu;

	(void)state;
	assert_int_equal(kvs_cu_open("host", &cu), 0);
	for (size_t i = 0; i < sizeof(rows) / sizeof(*rows); i++) {
		assert_int_equal(kvs_cu_fail(cu, rows[i].result, "slot %d", 7), rows[i].err);
		assert_memory_equal(kvs_error(), "slot 7: ", strlen("slot 7: "));
		assert_non_null(strstr(kvs_error(), rows[i].name));
	}
	kvs_cu_close(cu);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(what_names_no_device_is_refused),
		cmocka_unit_test(a_device_that_the_driver_has_not_is_named),
		cmocka_unit_test(softcuda_is_no_gpu),
		cmocka_unit_test(closing_leaves_no_context_behind),
		cmocka_unit_test(a_message_is_its_threads_own),
		cmocka_unit_test(a_message_may_be_put_into_the_next),
		cmocka_unit_test(an_error_of_cuda_becomes_an_errno_with_its_name),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
