/*
 * How a program finds the driver's functions: cuGetProcAddress by base name, version and flags. Quotations are from the
 * comment at cuGetProcAddress in cuda.h (CUDA 13.0).
 */
#include "conformance.h"

#include <pthread.h>

typedef CUresult get_v1_fn(const char *, void **, int, cuuint64_t);
typedef CUresult get_v2_fn(const char *, void **, int, cuuint64_t, CUdriverProcAddressQueryResult *);

/* What there is for `symbol`; NULL where the driver has nothing. */
static void *find(const char *symbol, int version, cuuint64_t flags, CUdriverProcAddressQueryResult *status)
{
	get_v2_fn *get = (get_v2_fn *)driver_symbol("cuGetProcAddress_v2");
	void *found = (void *)get;

	must(get(symbol, &found, version, flags, status));
	return found;
}

static void *must_find(const char *symbol, int version, cuuint64_t flags)
{
	CUdriverProcAddressQueryResult status = CU_GET_PROC_ADDRESS_SYMBOL_NOT_FOUND;
	void *found = find(symbol, version, flags, &status);

	if (!found)
		fail_msg("cuGetProcAddress finds no %s of version %d", symbol, version);
	assert_int_equal(status, CU_GET_PROC_ADDRESS_SUCCESS);
	return found;
}

/* "set the returned pfn to NULL if [...] no ABI compatible driver function exists for the specified cudaVersion" */
static void a_function_is_found_from_the_version_that_brought_it(void **state)
{
	CUdriverProcAddressQueryResult status = CU_GET_PROC_ADDRESS_SUCCESS;

	(void)state;
	assert_null(find("cuMemMap", 10010, 0, &status));
	assert_int_equal(status, CU_GET_PROC_ADDRESS_VERSION_NOT_SUFFICIENT);
	must_find("cuMemMap", 10020, 0);
	must_find("cuMemMap", cu->driver_version, 0);
}

/* Programs that were built long ago ask for the forms of their time, which still work. */
static void old_forms_are_found_and_work(void **state)
{
	static const struct {
		const char *symbol;
		int version;
	} old[] = {
		{"cuDevicePrimaryCtxRelease", 7000},
		{"cuDevicePrimaryCtxReset", 7000},
		{"cuDevicePrimaryCtxSetFlags", 7000},
		{"cuDeviceGetUuid", 9020},
		{"cuCtxCreate", 3020},
		{"cuCtxDestroy", 4000},
	};
	CUresult (*retain)(CUcontext *, CUdevice) = must_find("cuDevicePrimaryCtxRetain", 7000, 0);
	CUresult (*release)(CUdevice) = must_find("cuDevicePrimaryCtxRelease", 7000, 0);
	CUresult (*uuid_get)(CUuuid *, CUdevice) = must_find("cuDeviceGetUuid", 9020, 0);
	CUcontext context = NULL;
	CUuuid uuid = {{0}}, none = {{0}};

	(void)state;
	for (size_t i = 0; i < sizeof(old) / sizeof(*old); i++)
		must_find(old[i].symbol, old[i].version, 0);
	must(retain(&context, cu->device));
	assert_ptr_equal(context, cu->context);
	must(release(cu->device));
	must(uuid_get(&uuid, cu->device));
	assert_memory_not_equal(uuid.bytes, none.bytes, sizeof(uuid.bytes));
}

/* "set the returned pfn to NULL if the requested driver function is not supported [...] or if the driver symbol is invalid" */
static void a_name_that_is_no_function_is_not_found(void **state)
{
	CUdriverProcAddressQueryResult status = CU_GET_PROC_ADDRESS_SUCCESS;

	(void)state;
	assert_null(find("cuNoSuchFunction", cu->driver_version, 0, &status));
	assert_int_equal(status, CU_GET_PROC_ADDRESS_SYMBOL_NOT_FOUND);
	assert_null(find("cuMemAlloc_v2", cu->driver_version, 0, NULL)); /* symbol: "The base name" */
}

/* "If the specified CUDA version is greater than the driver version, the API will return CUDA_ERROR_INVALID_VALUE." */
static void a_version_that_the_driver_does_not_know_is_refused(void **state)
{
	get_v2_fn *get = (get_v2_fn *)driver_symbol("cuGetProcAddress_v2");
	void *found = NULL;

	(void)state;
	must_be(CUDA_ERROR_INVALID_VALUE, get("cuInit", &found, cu->driver_version + 10, 0, NULL));
}

/* The function itself has two forms: before CUDA 12 it had no symbolStatus. */
static void the_form_without_a_status_finds_the_same(void **state)
{
	get_v1_fn *old = (get_v1_fn *)must_find("cuGetProcAddress", 11030, 0);
	void *found = NULL;

	(void)state;
	assert_ptr_equal(must_find("cuGetProcAddress", 12000, 0), driver_symbol("cuGetProcAddress_v2"));
	must(old("cuMemMap", &found, 11030, 0));
	assert_ptr_equal(found, must_find("cuMemMap", 11030, 0));
	must_be(CUDA_ERROR_NOT_FOUND, old("cuNoSuchFunction", &found, 11030, 0)); /* and `found` means nothing */
}

typedef CUresult stream_id_fn(CUstream, unsigned long long *);

static unsigned long long id_of(stream_id_fn *get, CUstream stream)
{
	unsigned long long id = 0;

	must(get(stream, &id));
	return id;
}

static void *ids_in_a_thread(void *ids)
{
	unsigned long long *id = ids;

	must(cu->cuCtxSetCurrent(cu->context));
	id[0] = id_of(must_find("cuStreamGetId", 12000, CU_GET_PROC_ADDRESS_PER_THREAD_DEFAULT_STREAM), NULL);
	id[1] = id_of(must_find("cuStreamGetId", 12000, CU_GET_PROC_ADDRESS_LEGACY_STREAM), NULL);
	return NULL;
}

/*
 * "CU_GET_PROC_ADDRESS_PER_THREAD_DEFAULT_STREAM: This will enable the search for all driver symbols that match the requested
 * driver symbol name including the per-thread versions"; those take the NULL stream for the thread's own.
 */
static void the_per_thread_flag_makes_the_default_stream_the_threads_own(void **state)
{
	stream_id_fn *own = must_find("cuStreamGetId", 12000, CU_GET_PROC_ADDRESS_PER_THREAD_DEFAULT_STREAM);
	stream_id_fn *legacy = must_find("cuStreamGetId", 12000, CU_GET_PROC_ADDRESS_LEGACY_STREAM);
	struct softcuda_counters before = softcuda_counters_now(), after;
	unsigned long long other[2];
	pthread_t thread;

	(void)state;
	assert_int_equal(id_of(legacy, NULL), id_of(legacy, CU_STREAM_LEGACY));
	assert_int_equal(id_of(own, CU_STREAM_LEGACY), id_of(legacy, CU_STREAM_LEGACY));
	assert_int_equal(id_of(own, NULL), id_of(legacy, CU_STREAM_PER_THREAD));
	assert_int_not_equal(id_of(own, NULL), id_of(legacy, NULL));
	assert_int_equal(pthread_create(&thread, NULL, ids_in_a_thread, other), 0);
	pthread_join(thread, NULL);
	assert_int_not_equal(other[0], id_of(own, NULL));
	assert_int_equal(other[1], id_of(legacy, NULL));
	after = softcuda_counters_now();
	assert_true(after.streams <= before.streams + 1); /* the other thread's stream has gone with it */
}

/* Work in it is work of that stream: a kernel waits there while the legacy default stream of another context is free. */
static void per_thread_forms_run_in_the_threads_own_stream(void **state)
{
	CUresult (*set)(CUdeviceptr, unsigned, size_t, CUstream) =
		must_find("cuMemsetD32Async", 7000, CU_GET_PROC_ADDRESS_PER_THREAD_DEFAULT_STREAM);
	CUresult (*copy)(void *, CUdeviceptr, size_t) =
		must_find("cuMemcpyDtoH", 7000, CU_GET_PROC_ADDRESS_PER_THREAD_DEFAULT_STREAM);
	CUresult (*query)(CUstream) = must_find("cuStreamQuery", 7000, CU_GET_PROC_ADDRESS_PER_THREAD_DEFAULT_STREAM);
	CUdeviceptr memory = 0;
	unsigned *gate = gate_new(), word = 0;

	(void)state;
	must(cu->cuMemAlloc(&memory, 64));
	gate_launch(CU_STREAM_PER_THREAD, gate, 0);
	gate_await_start(gate);
	must(set(memory, 0xfeed, 16, NULL));
	must_be(CUDA_ERROR_NOT_READY, query(NULL));
	gate_open(gate);
	must(copy(&word, memory, sizeof(word))); /* behind the memset, as it is in the same stream */
	assert_int_equal(word, 0xfeed);
	must(query(NULL));
	must(cu->cuMemFree(memory));
	gate_free(gate);
}

/* "If a per-thread version is not found, the API will return the legacy version of the driver function." */
static void the_per_thread_flag_changes_nothing_for_other_functions(void **state)
{
	(void)state;
	assert_ptr_equal(must_find("cuMemMap", 12000, CU_GET_PROC_ADDRESS_PER_THREAD_DEFAULT_STREAM),
		must_find("cuMemMap", 12000, CU_GET_PROC_ADDRESS_LEGACY_STREAM));
}

/* A thread's own stream stays for the thread's life; it is made before the first test counts what there is. */
static int own_stream_setup(void **state)
{
	must(cu->cuStreamSynchronize(CU_STREAM_PER_THREAD));
	return test_setup(state);
}
#define own_stream_test(f) cmocka_unit_test_setup_teardown(f, own_stream_setup, test_teardown)

int main(int argc, char **argv)
{
	const struct CMUnitTest tests[] = {
		conformance_test(a_function_is_found_from_the_version_that_brought_it),
		conformance_test(old_forms_are_found_and_work),
		conformance_test(a_name_that_is_no_function_is_not_found),
		conformance_test(a_version_that_the_driver_does_not_know_is_refused),
		conformance_test(the_form_without_a_status_finds_the_same),
		own_stream_test(the_per_thread_flag_makes_the_default_stream_the_threads_own),
		own_stream_test(per_thread_forms_run_in_the_threads_own_stream),
		conformance_test(the_per_thread_flag_changes_nothing_for_other_functions),
	};

	return conformance_main(argc, argv, tests);
}
