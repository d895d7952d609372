/*
 * tests/support/faults.h: softcuda told to fail a call, and asked what is left.
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

/* From softcuda's handle, which must stay open meanwhile. -1, and a line on stderr, where it lacks one of them. */
int faults_open(void *library, struct faults *out);

/* Fails the test unless softcuda holds nothing at all; `name` and `nth` say which call had failed. */
void faults_assert_nothing_left(const struct faults *faults, const char *name, size_t nth);

#endif
