/* tests/support/faults.c: finds the functions that only softcuda has, by name. */
#include "faults.h"

#include <dlfcn.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>

#include <cmocka.h>

static void *symbol(void *library, const char *name)
{
	void *address = dlsym(library, name);

	if (!address)
		fprintf(stderr, "softcuda has no %s\n", name);
	return address;
}

int faults_open(void *library, struct faults *out)
{
	out->get_counters = symbol(library, SOFTCUDA_GET_COUNTERS);
	out->fail_nth = symbol(library, SOFTCUDA_FAIL_NTH);
	out->failed = symbol(library, SOFTCUDA_FAILED);
	return out->get_counters && out->fail_nth && out->failed ? 0 : -1;
}

void faults_assert_nothing_left(const struct faults *faults, const char *name, size_t nth)
{
	struct softcuda_counters left;

	faults->get_counters(&left);
	if (left.reservations || left.handles || left.mappings || left.allocations || left.host_allocations ||
		left.streams || left.events || left.modules || left.physical_bytes)
		fail_msg(
			"call %zu of %s failed, and left %zu reservations, %zu handles, %zu mappings, %zu allocations, "
			"%zu host allocations, %zu streams, %zu events, %zu modules, %zu bytes",
			nth, name, left.reservations, left.handles, left.mappings, left.allocations,
			left.host_allocations, left.streams, left.events, left.modules, left.physical_bytes);
}
