/* An observer hears each call that it asked for, costs nothing elsewhere, and comes and goes while others call. */
#include "../../driver/cu.h"
#include "../support/process.h"

#include <errno.h>
#include <pthread.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include <unistd.h>

#include <cmocka.h>

#define THREADS 4
#define ROUNDS 1500

static kvs_cu *cu;

struct heard {
	struct kvs_cu_call before, after;
	size_t bytes; /* the second argument of cuMemAlloc, as it was before the call */
	CUdeviceptr address;
	int befores, afters;
};

static void hear_alloc(void *arg, const struct kvs_cu_call *call)
{
	struct heard *heard = arg;

	heard->bytes = *(const size_t *)call->args[1];
	if (call->after) {
		heard->after = *call;
		heard->address = **(CUdeviceptr *const *)call->args[0];
		heard->afters++;
	} else {
		heard->before = *call;
		heard->befores++;
	}
}

static void count_calls(void *arg, const struct kvs_cu_call *call)
{
	int *count = arg;

	count[call->after]++;
}

static const enum kvs_cu_function alloc_only[] = {KVS_FN_cuMemAlloc}, info_only[] = {KVS_FN_cuMemGetInfo};

static void a_call_is_told_before_and_after(void **state)
{
	struct heard heard = {0};
	kvs_cu_observer *observer;
	CUdeviceptr address;

	(void)state;
	assert_int_equal(kvs_cu_observe(cu, alloc_only, 1, hear_alloc, &heard, &observer), 0);
	assert_int_equal(cu->cuMemAlloc(&address, 4096), 0);
	assert_int_equal(heard.befores, 1);
	assert_int_equal(heard.afters, 1);
	assert_int_equal(heard.bytes, 4096);
	assert_true(heard.address == address);
	assert_int_equal(heard.before.function, KVS_FN_cuMemAlloc);
	assert_int_equal(heard.before.arg_count, 2);
	assert_int_equal(heard.before.nanoseconds, 0);
	assert_true(heard.after.start_ns == heard.before.start_ns && heard.after.start_ns > 0);
	assert_true(heard.after.nanoseconds > 0);
	assert_int_equal(heard.after.result, CUDA_SUCCESS);
	assert_int_equal(cu->cuMemFree(address), 0);

	assert_int_equal(cu->cuMemAlloc(&address, SIZE_MAX / 2), CUDA_ERROR_OUT_OF_MEMORY);
	assert_int_equal(heard.after.result, CUDA_ERROR_OUT_OF_MEMORY);
	assert_int_equal(kvs_cu_unobserve(observer), 0);
	assert_string_equal(kvs_cu_function_name(KVS_FN_cuMemAlloc), "cuMemAlloc");
}

static void only_what_is_observed_is_replaced(void **state)
{
	kvs_cu plain = *cu;
	struct heard heard = {0};
	kvs_cu_observer *observer;

	(void)state;
	assert_int_equal(kvs_cu_observe(cu, alloc_only, 1, hear_alloc, &heard, &observer), 0);
	assert_true(cu->cuMemAlloc != plain.cuMemAlloc);
	plain.cuMemAlloc = cu->cuMemAlloc;
	assert_memory_equal(&plain, cu, sizeof(plain));
	assert_int_equal(kvs_cu_unobserve(observer), 0);
	assert_true(cu->cuMemAlloc != plain.cuMemAlloc);
	plain.cuMemAlloc = cu->cuMemAlloc;
	assert_int_equal(kvs_cu_observe(cu, NULL, 0, count_calls, (int[2]){0}, &observer), 0);
	assert_true(cu->cuMemAlloc != plain.cuMemAlloc && cu->cuInit != plain.cuInit);
	assert_int_equal(kvs_cu_unobserve(observer), 0);
	assert_memory_equal(&plain, cu, sizeof(plain));
}

/* Each function goes through a thunk of its own type: here those with 64-bit, pointer and many arguments. */
static void every_kind_of_argument_arrives(void **state)
{
	int calls[2] = {0};
	size_t granule, bytes;
	CUmemAllocationProp properties = {
		.type = CU_MEM_ALLOCATION_TYPE_PINNED, .location.type = CU_MEM_LOCATION_TYPE_DEVICE};
	CUmemAccessDesc access = {
		.location.type = CU_MEM_LOCATION_TYPE_DEVICE, .flags = CU_MEM_ACCESS_FLAGS_PROT_READWRITE};
	CUmemGenericAllocationHandle handle;
	kvs_cu_observer *observer;
	CUdeviceptr base;
	uint32_t word = 0;

	(void)state;
	assert_int_equal(kvs_cu_observe(cu, NULL, 0, count_calls, calls, &observer), 0);
	assert_int_equal(cu->cuMemGetAllocationGranularity(&granule, &properties, CU_MEM_ALLOC_GRANULARITY_MINIMUM), 0);
	assert_int_equal(cu->cuMemAddressReserve(&base, granule, 0, 0, 0), 0);
	assert_int_equal(cu->cuMemCreate(&handle, granule, &properties, 0), 0);
	assert_int_equal(cu->cuMemMap(base, granule, 0, handle, 0), 0);
	assert_int_equal(cu->cuMemSetAccess(base, granule, &access, 1), 0);
	assert_int_equal(cu->cuMemsetD32Async(base, 0x5eed, granule / 4, NULL), 0);
	assert_int_equal(cu->cuStreamSynchronize(NULL), 0);
	assert_int_equal(cu->cuMemcpyDtoH(&word, base + granule - 4, 4), 0);
	assert_int_equal(word, 0x5eed);
	assert_int_equal(cu->cuMemUnmap(base, granule), 0);
	assert_int_equal(cu->cuMemRelease(handle), 0);
	assert_int_equal(cu->cuMemAddressFree(base, granule), 0);
	assert_int_equal(cu->cuMemGetInfo(&bytes, &bytes), 0);
	assert_int_equal(calls[false], 12);
	assert_int_equal(calls[true], 12);
	assert_int_equal(kvs_cu_unobserve(observer), 0);
}

static void observers_do_not_disturb_each_other(void **state)
{
	kvs_cu_observer *observers[KVS_CU_MAX_OBSERVERS], *more;
	int calls[KVS_CU_MAX_OBSERVERS][2] = {{0}}, version;

	(void)state;
	for (int i = 0; i < KVS_CU_MAX_OBSERVERS; i++)
		assert_int_equal(kvs_cu_observe(cu, NULL, 0, count_calls, calls[i], &observers[i]), 0);
	assert_int_equal(kvs_cu_observe(cu, NULL, 0, count_calls, calls[0], &more), -ENOSPC);
	assert_non_null(strstr(kvs_error(), "8 observers"));
	assert_null(more);
	assert_int_equal(cu->cuDriverGetVersion(&version), 0);
	assert_int_equal(kvs_cu_unobserve(observers[3]), 0);
	assert_int_equal(cu->cuDriverGetVersion(&version), 0);
	for (int i = 0; i < KVS_CU_MAX_OBSERVERS; i++)
		assert_int_equal(calls[i][true], i == 3 ? 1 : 2);
	assert_int_equal(kvs_cu_observe(cu, NULL, 0, count_calls, calls[0], &observers[3]), 0);
	for (int i = 0; i < KVS_CU_MAX_OBSERVERS; i++)
		assert_int_equal(kvs_cu_unobserve(observers[i]), 0);
	assert_int_equal(kvs_cu_unobserve(NULL), 0);
}

static void so_many_tables_and_no_more(void **state)
{
	kvs_cu *tables[KVS_CU_MAX_OBSERVED + 1];
	kvs_cu_observer *observers[KVS_CU_MAX_OBSERVED + 1];
	int calls[2] = {0}, version;

	(void)state;
	for (int i = 0; i <= KVS_CU_MAX_OBSERVED; i++)
		assert_int_equal(kvs_cu_open("host", &tables[i]), 0);
	/* `cu` itself has a place already. */
	for (int i = 1; i < KVS_CU_MAX_OBSERVED; i++)
		assert_int_equal(kvs_cu_observe(tables[i], NULL, 0, count_calls, calls, &observers[i]), 0);
	assert_int_equal(kvs_cu_observe(tables[0], NULL, 0, count_calls, calls, &observers[0]), -ENOSPC);
	assert_non_null(strstr(kvs_error(), "8 tables"));
	for (int i = 1; i < KVS_CU_MAX_OBSERVED; i++)
		assert_int_equal(tables[i]->cuDriverGetVersion(&version), 0);
	assert_int_equal(calls[true], KVS_CU_MAX_OBSERVED - 1);
	assert_int_equal(kvs_cu_unobserve(observers[1]), 0);
	kvs_cu_close(tables[1]);
	assert_int_equal(kvs_cu_observe(tables[0], NULL, 0, count_calls, calls, &observers[1]), 0);
	for (int i = 1; i < KVS_CU_MAX_OBSERVED; i++)
		assert_int_equal(kvs_cu_unobserve(observers[i]), 0);
	for (int i = 0; i <= KVS_CU_MAX_OBSERVED; i++) {
		if (i != 1)
			kvs_cu_close(tables[i]);
	}
	assert_int_equal(kvs_cu_bind(cu), 0);
}

static kvs_cu_observer *of_callback;

static void call_back_into_the_table(void *arg, const struct kvs_cu_call *call)
{
	size_t bytes;
	int *count = arg;

	count[call->after]++;
	assert_int_equal(cu->cuMemGetInfo(&bytes, &bytes), 0);
	assert_int_equal(kvs_cu_unobserve(of_callback), -EDEADLK);
}

static void a_callback_may_call_but_not_remove(void **state)
{
	int calls[2] = {0};
	size_t bytes;

	(void)state;
	assert_int_equal(kvs_cu_observe(cu, info_only, 1, call_back_into_the_table, calls, &of_callback), 0);
	assert_int_equal(cu->cuMemGetInfo(&bytes, &bytes), 0);
	assert_int_equal(calls[false], 1);
	assert_int_equal(calls[true], 1);
	assert_int_equal(kvs_cu_unobserve(of_callback), 0);
	assert_int_equal(
		kvs_cu_observe(cu, (enum kvs_cu_function[]){KVS_FN_COUNT}, 1, count_calls, calls, &of_callback),
		-EINVAL);
}

/* ---- threads ---- */

struct mark {
	int alive, befores, afters; /* atomic: several threads count */
};

static int ended, wrong; /* atomic */

static void use_mark(void *arg, const struct kvs_cu_call *call)
{
	struct mark *mark = arg;

	if (__atomic_load_n(&mark->alive, __ATOMIC_SEQ_CST) != 1)
		__atomic_store_n(&wrong, 1, __ATOMIC_SEQ_CST);
	__atomic_add_fetch(call->after ? &mark->afters : &mark->befores, 1, __ATOMIC_SEQ_CST);
}

static void *call_on(void *arg)
{
	kvs_cu *cu = arg;
	int version = 0;

	while (!__atomic_load_n(&ended, __ATOMIC_SEQ_CST)) {
		if (cu->cuDriverGetVersion(&version) || version < 12000)
			__atomic_store_n(&wrong, 1, __ATOMIC_SEQ_CST);
	}
	return NULL;
}

static int inside, left; /* atomic */

static void take_long(void *arg, const struct kvs_cu_call *call)
{
	(void)arg;
	if (call->after)
		return;
	__atomic_store_n(&inside, 1, __ATOMIC_SEQ_CST);
	usleep(100000);
	__atomic_store_n(&left, 1, __ATOMIC_SEQ_CST);
}

static void *call_once(void *arg)
{
	int version;

	((kvs_cu *)arg)->cuDriverGetVersion(&version);
	return NULL;
}

static void removal_waits_for_a_callback_that_runs(void **state)
{
	static const enum kvs_cu_function version_only[] = {KVS_FN_cuDriverGetVersion};
	kvs_cu_observer *observer;
	pthread_t thread;

	(void)state;
	assert_int_equal(kvs_cu_observe(cu, version_only, 1, take_long, NULL, &observer), 0);
	assert_int_equal(pthread_create(&thread, NULL, call_once, cu), 0);
	while (!__atomic_load_n(&inside, __ATOMIC_SEQ_CST))
		usleep(1000);
	assert_int_equal(kvs_cu_unobserve(observer), 0);
	assert_int_equal(__atomic_load_n(&left, __ATOMIC_SEQ_CST), 1);
	pthread_join(thread, NULL);
}

static void observers_come_and_go_while_threads_call(void **state)
{
	pthread_t threads[THREADS];
	long heard = 0;
	kvs_cu *own; /* which nobody has observed when the threads begin */

	(void)state;
	assert_int_equal(kvs_cu_open("host", &own), 0);
	for (int i = 0; i < THREADS; i++)
		assert_int_equal(pthread_create(&threads[i], NULL, call_on, own), 0);
	for (int i = 0; i < ROUNDS; i++) {
		struct mark *mark = calloc(1, sizeof(*mark));
		kvs_cu_observer *observer;

		mark->alive = 1;
		assert_int_equal(kvs_cu_observe(own, NULL, 0, use_mark, mark, &observer), 0);
		for (int wait = 0; wait < 1000 && !__atomic_load_n(&mark->afters, __ATOMIC_SEQ_CST); wait++)
			sched_yield();
		assert_int_equal(kvs_cu_unobserve(observer), 0);
		/* Nothing runs any more, so plain reads are right, and freeing is. */
		assert_true(mark->afters <= mark->befores && mark->befores - mark->afters <= THREADS);
		heard += mark->afters;
		mark->alive = 2;
		free(mark);
	}
	__atomic_store_n(&ended, 1, __ATOMIC_SEQ_CST);
	for (int i = 0; i < THREADS; i++)
		pthread_join(threads[i], NULL);
	kvs_cu_close(own);
	assert_int_equal(kvs_cu_bind(cu), 0);
	assert_false(wrong);
	assert_true(heard > ROUNDS / 2);
}

static void a_c_program_needs_no_libstdcxx(void **state)
{
	char command[1024];
	struct process process;

	(void)state;
	snprintf(command, sizeof(command), "readelf -d %s | grep -c 'NEEDED.*libstdc++'", built("libkvshare.so"));
	process = run_shell(command, 60);
	assert_string_equal(process.out, "0\n");
	process_free(&process);
}

static int open_host(void **state)
{
	(void)state;
	return kvs_cu_open("host", &cu);
}

static int close_host(void **state)
{
	(void)state;
	kvs_cu_close(cu);
	return 0;
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(a_call_is_told_before_and_after),
		cmocka_unit_test(only_what_is_observed_is_replaced),
		cmocka_unit_test(every_kind_of_argument_arrives),
		cmocka_unit_test(observers_do_not_disturb_each_other),
		cmocka_unit_test(so_many_tables_and_no_more),
		cmocka_unit_test(a_callback_may_call_but_not_remove),
		cmocka_unit_test(removal_waits_for_a_callback_that_runs),
		cmocka_unit_test(observers_come_and_go_while_threads_call),
		cmocka_unit_test(a_c_program_needs_no_libstdcxx),
	};

	return cmocka_run_group_tests(tests, open_host, close_host);
}
