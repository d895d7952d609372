/*
 * tests/support/faults.h: make softcuda fail a call, and check what it still holds.
 */
#ifndef KVS_TESTS_FAULTS_H
#define KVS_TESTS_FAULTS_H

#include "../../driver/softcuda/softcuda.h"

#include <stddef.h>

struct faults {
	softcuda_get_counters_fn *get_counters;
	softcuda_fail_nth_fn *fail_nth;
	softcuda_failed_fn *failed;
};

/* `library` is softcuda's handle, which must stay open. -1, and a line on stderr, if it lacks one of the functions. */
int faults_open(void *library, struct faults *out);

/* Fails the test unless softcuda holds nothing at all; `name` and `nth` tell the call that was made to fail. */
void faults_assert_nothing_left(const struct faults *faults, const char *name, size_t nth);

#endif
