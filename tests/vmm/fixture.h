/*
 * tests/vmm/fixture.h: a manager on softcuda, and softcuda's own counters to check it against.
 *
 * Each test opens a device of its own. Closing the fixture asserts that the driver holds nothing of ours any more.
 */
#ifndef KVS_TESTS_VMM_FIXTURE_H
#define KVS_TESTS_VMM_FIXTURE_H

#include "../../driver/softcuda/softcuda.h"
#include "../../vmm/kvshare.h"

#include <dlfcn.h>
#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <cmocka.h>

struct fixture {
	kvs_cu *cu;
	kvs_vmm *vmm;
	size_t block; /* bytes */
	softcuda_get_counters_fn *get_counters;
	softcuda_fail_nth_fn *fail_nth;
	softcuda_failed_fn *failed;
};

static inline void fixture_check(int err)
{
	if (err)
		fail_msg("%d: %s", err, kvs_error());
}

static inline struct fixture fixture_open(const struct kvs_vmm_options *options)
{
	struct fixture f = {0};

	fixture_check(kvs_cu_open("host", &f.cu));
	f.get_counters = (softcuda_get_counters_fn *)dlsym(f.cu->library, SOFTCUDA_GET_COUNTERS);
	f.fail_nth = (softcuda_fail_nth_fn *)dlsym(f.cu->library, SOFTCUDA_FAIL_NTH);
	f.failed = (softcuda_failed_fn *)dlsym(f.cu->library, SOFTCUDA_FAILED);
	assert_non_null(f.get_counters);
	fixture_check(kvs_vmm_create(f.cu, options, &f.vmm));
	f.block = kvs_vmm_block_bytes(f.vmm);
	return f;
}

static inline struct softcuda_counters fixture_counters(const struct fixture *f)
{
	struct softcuda_counters counters;

	f->get_counters(&counters);
	return counters;
}

static inline struct kvs_vmm_stats fixture_stats(const struct fixture *f)
{
	struct kvs_vmm_stats stats;

	kvs_vmm_get_stats(f->vmm, &stats);
	return stats;
}

static inline void fixture_assert_valid(const struct fixture *f)
{
	if (!kvs_vmm_is_valid(f->vmm))
		fail_msg("%s", kvs_error());
}

static inline void fixture_assert_clean(const struct fixture *f)
{
	struct softcuda_counters counters = fixture_counters(f);

	assert_int_equal(counters.reservations, 0);
	assert_int_equal(counters.handles, 0);
	assert_int_equal(counters.mappings, 0);
	assert_int_equal(counters.events, 0);
	assert_int_equal(counters.physical_bytes, 0);
	assert_int_equal(counters.hazards, 0);
}

static inline void fixture_close(struct fixture *f)
{
	f->fail_nth(NULL, 0, CUDA_SUCCESS);
	fixture_assert_valid(f);
	kvs_vmm_free(f->vmm);
	fixture_assert_clean(f);
	kvs_cu_close(f->cu);
}

static inline void fixture_write(const struct fixture *f, CUdeviceptr address, uint32_t value)
{
	assert_int_equal(f->cu->cuMemcpyHtoD(address, &value, sizeof(value)), CUDA_SUCCESS);
}

static inline uint32_t fixture_read(const struct fixture *f, CUdeviceptr address)
{
	uint32_t value = 0;

	assert_int_equal(f->cu->cuMemcpyDtoH(&value, address, sizeof(value)), CUDA_SUCCESS);
	return value;
}

#endif
