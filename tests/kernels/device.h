/*
 * tests/kernels/device.h: what the kernel tests share: a device, tensors between guards, values to compare with.
 *
 * The tests know the device through kvs_cu alone, so the same programs judge softcuda and a GPU:
 *   KVS_TEST_DEVICE   the device, as kvs_cu_open() takes it (default "host")
 *   KVS_TEST_SEED     seed of all random values (default 1)
 * On the host device every test runs once for each order in which softcuda can run a block's threads, and once with the
 * kernels' native bodies of each set of instructions that the processor has.
 */
#ifndef KVS_KERNELS_DEVICE_H
#define KVS_KERNELS_DEVICE_H

#include <setjmp.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "../../attn/attn.h"

extern kvs_cu *cu;
extern kvs_stream *stream;

/*
 * Run `count` cmocka tests under every schedule, on a device and stream that are opened for them. Returns what main()
 * returns.
 */
int run_under_schedules(const struct CMUnitTest *tests, size_t count);

/* 0 or the test fails with kvs_error(). */
#define must(call) check_error((call), 0, #call, __FILE__, __LINE__)
/* -EINVAL with `text` in its message, or the test fails. */
#define must_refuse(call, text) check_refused((call), (text), #call, __FILE__, __LINE__)
void check_error(int err, int expected, const char *call, const char *file, int line);
void check_refused(int err, const char *text, const char *call, const char *file, int line);

/* Uniform in [low, high); in [low, high]. */
double random_in(double low, double high);
int random_int(int low, int high);

/* Numbers on the host: `value` is what the device holds, rounded to the tensor's type. */
struct array {
	kvs_tensor t;
	int32_t *id;   /* I32 */
	double *value; /* the others */
};

/* A tensor of random values in [-scale, scale); of ids in [0, limit); of NaN (all bytes 0xff), to be written. */
struct array array_random(enum kvs_dtype dtype, int rows, int cols, double scale);
struct array array_ids(int rows, int limit);
struct array array_poisoned(enum kvs_dtype dtype, int rows, int cols);
/* Of a quantised type, of random blocks; it cannot be written or read. */
struct array array_quantised(enum kvs_dtype dtype, int rows, int cols);
/* Blocks of any bytes, but for scales: those are finite. From rand(); the caller frees. */
uint8_t *random_blocks(enum kvs_dtype dtype, int rows, int cols);
/* Host to device, rounding `value`; device to host. Both wait. */
void array_write(struct array *a);
void array_read(struct array *a);
/* Bytes as they are on the device; the caller frees. */
unsigned char *array_bytes(const struct array *a);

/*
 * Ends a test case: waits, asserts that nothing was written outside any array, and frees all arrays.
 */
void arrays_end(void);

/* |device - reference| <= absolute + relative * |reference|; false for NaN. The message names the element. */
void check_close(const struct array *a, const double *reference, double absolute, double relative, const char *what);

/* Largest relative error of rounding to `dtype`. */
double rounding_of(enum kvs_dtype dtype);
double round_to(enum kvs_dtype dtype, double value);

#endif
