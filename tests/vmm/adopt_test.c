/* A manager in a driver and a context that another program opened: it works there, and leaves both unchanged. */
#include "fixture.h"

struct owner {
	void *library;
	CUcontext context, other;
	CUdeviceptr memory;
	__typeof__(cuCtxGetCurrent) *get_current;
	__typeof__(cuCtxDestroy) *destroy;
	__typeof__(cuMemAlloc) *alloc;
	__typeof__(cuMemFree) *free;
};

static void *need(void *library, const char *name)
{
	void *symbol = dlsym(library, name);

	if (!symbol)
		fail_msg("softcuda has no %s", name);
	return symbol;
}

/* Two contexts, to notice if the manager makes the other one current. */
static void owner_open(struct owner *owner)
{
	CUresult (*create)(CUcontext *, unsigned, CUdevice);
	CUresult (*init)(unsigned);

	assert_non_null(getenv("KVSHARE_SOFTCUDA"));
	owner->library = dlopen(getenv("KVSHARE_SOFTCUDA"), RTLD_NOW | RTLD_LOCAL);
	assert_non_null(owner->library);
	init = need(owner->library, "cuInit");
	create = need(owner->library, "cuCtxCreate_v2");
	owner->get_current = need(owner->library, "cuCtxGetCurrent");
	owner->destroy = need(owner->library, "cuCtxDestroy_v2");
	owner->alloc = need(owner->library, "cuMemAlloc_v2");
	owner->free = need(owner->library, "cuMemFree_v2");
	assert_int_equal(init(0), CUDA_SUCCESS);
	assert_int_equal(create(&owner->other, 0, 0), CUDA_SUCCESS);
	assert_int_equal(create(&owner->context, 0, 0), CUDA_SUCCESS);
	assert_int_equal(owner->alloc(&owner->memory, 4096), CUDA_SUCCESS);
}

static void owner_close(struct owner *owner)
{
	assert_int_equal(owner->free(owner->memory), CUDA_SUCCESS);
	assert_int_equal(owner->destroy(owner->context), CUDA_SUCCESS);
	assert_int_equal(owner->destroy(owner->other), CUDA_SUCCESS);
}

static struct fixture fixture_adopt(struct owner *owner, const struct kvs_vmm_options *options)
{
	const struct kvs_cu_driver driver = {kvs_cu_symbol_of_library, owner->library};
	struct fixture f = {0};

	fixture_check(kvs_cu_adopt(&driver, owner->context, 0, &f.cu));
	f.get_counters = (softcuda_get_counters_fn *)need(owner->library, SOFTCUDA_GET_COUNTERS);
	f.fail_nth = (softcuda_fail_nth_fn *)need(owner->library, SOFTCUDA_FAIL_NTH);
	f.failed = (softcuda_failed_fn *)need(owner->library, SOFTCUDA_FAILED);
	fixture_check(kvs_vmm_create(f.cu, options, &f.vmm));
	f.block = kvs_vmm_block_bytes(f.vmm);
	return f;
}

static void use_cache(struct fixture *f)
{
	const struct kvs_cache_shape shape = {
		.layers = 3, .slots = 1, .ctx_tokens = 8, .k_token_bytes = f->block * 3 / 4, .v_token_bytes = f->block};
	kvs_cache *cache;
	kvs_plan *plan;

	fixture_check(kvs_plan_parse("0,1,0", &plan));
	fixture_check(kvs_cache_create(f->vmm, &shape, plan, &cache));
	kvs_plan_free(plan);
	for (size_t tokens = 1; tokens <= 8; tokens++)
		fixture_check(kvs_cache_resize(cache, 0, tokens));
	fixture_write(f, kvs_cache_v(cache, 0, 0) + 7 * f->block, 31);
	assert_int_equal(fixture_read(f, kvs_cache_v(cache, 2, 0) + 7 * f->block), 31);
	fixture_check(kvs_cache_resize(cache, 0, 2));
	fixture_check(kvs_vmm_settle(f->vmm)); /* waits for the worker too, which has a thread of its own */
	fixture_assert_valid(f);
	assert_int_equal(fixture_stats(f).physical_bytes + fixture_stats(f).free_bytes,
		fixture_stats(f).calls[KVS_CALL_CREATE].calls * f->block -
			fixture_stats(f).calls[KVS_CALL_RELEASE].calls * f->block);
	kvs_cache_free(cache);
}

static void a_manager_works_where_another_program_is_at_home(void **state)
{
	struct owner owner;
	struct fixture f;
	CUcontext current;
	CUstream stream;

	(void)state;
	owner_open(&owner);
	f = fixture_adopt(&owner, &(struct kvs_vmm_options){.premap = true});
	assert_int_equal(f.cu->cuStreamCreate(&stream, CU_STREAM_NON_BLOCKING), CUDA_SUCCESS);
	fixture_check(kvs_vmm_attach_stream(f.vmm, stream));
	use_cache(&f);
	assert_int_equal(owner.get_current(&current), CUDA_SUCCESS);
	assert_ptr_equal(current, owner.context);
	kvs_vmm_detach_stream(f.vmm, stream);
	assert_int_equal(f.cu->cuStreamDestroy(stream), CUDA_SUCCESS);
	kvs_vmm_free(f.vmm);
	assert_int_equal(fixture_counters(&f).reservations, 0);
	assert_int_equal(fixture_counters(&f).mappings, 0);
	assert_int_equal(fixture_counters(&f).events, 0);
	assert_int_equal(fixture_counters(&f).hazards, 0);
	kvs_cu_close(f.cu);
	assert_int_equal(owner.get_current(&current), CUDA_SUCCESS);
	assert_ptr_equal(current, owner.context);
	owner_close(&owner);
}

int main(void)
{
	const struct CMUnitTest tests[] = {cmocka_unit_test(a_manager_works_where_another_program_is_at_home)};

	setenv("SOFTCUDA_GRANULARITY", "64K", 0);
	return cmocka_run_group_tests(tests, NULL, NULL);
}
