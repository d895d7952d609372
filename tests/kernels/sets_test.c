/*
 * KVS_HOST_KERNELS chooses the set of instructions of the native bodies. All give the same bits, so this asks where the
 * bodies lie in the module, each time in a child that loads it afresh.
 */
#include "../../attn/native/native.h"
#include "../../attn/native/processor.h"
#include "../support/process.h"

#include <dlfcn.h>
#include <stdarg.h>
#include <unistd.h>

#include <setjmp.h>
#include <sys/mman.h>
#include <sys/wait.h>

#include <cmocka.h>

static size_t *shared; /* with children */

/* Of the first body, from the module's beginning; 0 if the module does not load. */
static size_t place_in_module(void)
{
	void *module = dlopen(built("attn/kernels.so"), RTLD_NOW | RTLD_LOCAL);
	const struct simt_native *natives = module ? dlsym(module, SIMT_NATIVES_SYMBOL) : NULL;
	Dl_info info;

	if (!natives || !natives->kernel || !dladdr((void *)natives->run_block, &info))
		return 0;
	return (size_t)((char *)natives->run_block - (char *)info.dli_fbase);
}

static size_t place_with(const char *kernels)
{
	int status;
	pid_t child = fork();

	if (!child) {
		if (kernels)
			setenv("KVS_HOST_KERNELS", kernels, 1);
		else
			unsetenv("KVS_HOST_KERNELS");
		*shared = place_in_module();
		_exit(0);
	}
	assert_int_equal(waitpid(child, &status, 0), child);
	assert_int_equal(status, 0);
	assert_int_not_equal(*shared, 0);
	return *shared;
}

static void each_name_has_its_bodies(void **state)
{
	size_t places[ATTN_SET_AVX512 + 1], best;

	(void)state;
	for (enum attn_set set = ATTN_SET_PLAIN; set <= attn_set_best(); set++) {
		places[set] = place_with(attn_set_name(set));
		for (enum attn_set other = ATTN_SET_PLAIN; other < set; other++)
			assert_int_not_equal(places[set], places[other]);
	}
	best = places[attn_set_best()];
	assert_int_equal(place_with("native"), best);
	assert_int_equal(place_with(NULL), best);
	assert_int_equal(place_with("avx512"), best); /* at most what the processor has */
}

int main(void)
{
	const struct CMUnitTest tests[] = {cmocka_unit_test(each_name_has_its_bodies)};

	shared = mmap(NULL, sizeof(*shared), PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
	return shared == MAP_FAILED || cmocka_run_group_tests(tests, NULL, NULL);
}
