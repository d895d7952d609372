/*
 * Sharing is real: the process holds fewer pages. PSS counts a page once for a process, however often it is mapped; RSS
 * counts it once for each mapping, and so would hide the saving.
 */
#include "fixture.h"

static size_t process_pss_bytes(void)
{
	FILE *file = fopen("/proc/self/smaps_rollup", "r");
	char line[256];
	size_t kib = 0;

	if (!file)
		return 0;
	while (fgets(line, sizeof(line), file) && sscanf(line, "Pss: %zu", &kib) != 1)
		;
	fclose(file);
	return kib * 1024;
}

static void pss_grows_by_what_owners_hold(void **state)
{
	const size_t unshared_bytes = (size_t)1 << 30, expected = unshared_bytes / 16 * 12;
	struct fixture f = fixture_open(NULL);
	struct kvs_cache_shape shape = {.layers = 16, .slots = 1, .k_token_bytes = 2048, .v_token_bytes = 2048};
	kvs_cache *cache;
	kvs_plan *plan;
	size_t before, grown;

	(void)state;
	shape.ctx_tokens = unshared_bytes / 32 / 2048;
	fixture_check(kvs_plan_parse("0,1,2,3,4,5,2,7,8,3,10,11,1,13,5,15", &plan));
	fixture_check(kvs_cache_create(f.vmm, &shape, plan, &cache));
	before = process_pss_bytes();
	fixture_check(kvs_cache_resize(cache, 0, shape.ctx_tokens));
	for (int layer = 0; layer < 16; layer++) {
		size_t bytes = shape.ctx_tokens * 2048;

		for (size_t at = 0; at < bytes; at += 4096) { /* read every page, of borrowers too */
			*(volatile const char *)(uintptr_t)(kvs_cache_k(cache, layer, 0) + at);
			*(volatile const char *)(uintptr_t)(kvs_cache_v(cache, layer, 0) + at);
		}
	}
	grown = process_pss_bytes() - before;
	print_message("PSS grew by %zu of %zu bytes unshared\n", grown, unshared_bytes);
	assert_in_range(grown, expected - expected * 3 / 100, expected + expected * 3 / 100);
	assert_int_equal(fixture_stats(&f).unshared_bytes, unshared_bytes);
	assert_int_equal(fixture_stats(&f).physical_bytes, expected);
	kvs_plan_free(plan);
	kvs_cache_free(cache);
	fixture_close(&f);
}

int main(void)
{
	const struct CMUnitTest tests[] = {cmocka_unit_test(pss_grows_by_what_owners_hold)};

	if (!process_pss_bytes()) {
		puts("/proc/self/smaps_rollup says nothing of PSS here");
		return 77;
	}
#ifdef __SANITIZE_THREAD__
	puts("ThreadSanitizer's shadow of the cache is part of the process's PSS");
	return 77;
#endif
	return cmocka_run_group_tests(tests, NULL, NULL);
}
