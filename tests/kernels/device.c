/* tests/kernels/device.c: see device.h. */
#include "device.h"
#include "../../attn/native/processor.h"
#include "../../model/gguf.h"

#include <errno.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

kvs_cu *cu;
kvs_stream *stream;

#define GUARD 512 /* bytes before and behind each array */
#define GUARD_BYTE 0xa5
#define ARRAYS_MAX 64

static struct {
	CUdeviceptr memory; /* guard, data, guard */
	size_t bytes;       /* of the data */
	void *host;
} arrays[ARRAYS_MAX];
static int array_count;
static uint64_t random_state;

static void seed_random(void)
{
	const char *seed = getenv("KVS_TEST_SEED");

	random_state = seed ? strtoull(seed, NULL, 0) : 1;
	print_message("seed %llu\n", (unsigned long long)random_state);
	srand((unsigned)random_state);
	random_state = random_state * 0x9e3779b97f4a7c15ull + 1;
}

static uint64_t random_next(void) /* xorshift64* */
{
	random_state ^= random_state >> 12;
	random_state ^= random_state << 25;
	random_state ^= random_state >> 27;
	return random_state * 0x2545f4914f6cdd1dull;
}

double random_in(double low, double high)
{
	return low + (high - low) * (random_next() >> 11) * 0x1p-53;
}

int random_int(int low, int high)
{
	return low + (int)(random_next() % (uint64_t)(high - low + 1));
}

int run_under_schedules(const struct CMUnitTest *tests, size_t count)
{
	enum { ORDERS = 3 };
	static const char *const orders[ORDERS] = {"forward", "reverse", "random:7"};
	const char *device = getenv("KVS_TEST_DEVICE") ? getenv("KVS_TEST_DEVICE") : "host";
	bool host = strcmp(device, "host") == 0;
	int runs = host ? ORDERS + (int)attn_set_best() + 1 : 1, failed = 0;

	for (int i = 0; i < runs; i++) {
		bool native = i >= ORDERS;
		const char *schedule = native ? attn_set_name(i - ORDERS) : orders[i];

		/* Both are read when the stream loads its kernels. */
		setenv("KVS_SIMT_SCHEDULE", native ? "forward" : schedule, 1);
		setenv("KVS_HOST_KERNELS", native ? schedule : "simt", 1);
		if (kvs_cu_open(device, &cu) || kvs_stream_open(cu, &stream)) {
			fprintf(stderr, "%s\n", kvs_error());
			return 1;
		}
		print_message("device %s, schedule %s\n", cu->name, host ? schedule : "its own");
		seed_random();
		failed += _cmocka_run_group_tests(schedule, tests, count, NULL, NULL);
		kvs_stream_close(stream);
		kvs_cu_close(cu);
	}
	return failed != 0;
}

void check_error(int err, int expected, const char *call, const char *file, int line)
{
	if (err == expected)
		return;
	print_error("%s: %d, not %d: %s\n", call, err, expected, kvs_error());
	_fail(file, line);
}

void check_refused(int err, const char *text, const char *call, const char *file, int line)
{
	check_error(err, -EINVAL, call, file, line);
	if (strstr(kvs_error(), text))
		return;
	print_error("%s: \"%s\" does not say \"%s\"\n", call, kvs_error(), text);
	_fail(file, line);
}

static void check_driver(CUresult result, const char *what)
{
	if (result != CUDA_SUCCESS)
		fail_msg("%s: CUDA error %d", what, result);
}

/* IEEE half from double, round to nearest even, by way of the value's own binade: double rounding cannot occur. */
static double round_bits(double value, int significand_bits, int least_exponent)
{
	int exponent;

	if (value == 0 || isnan(value) || isinf(value))
		return value;
	frexp(value, &exponent); /* value = 0.xxx * 2^exponent */
	if (exponent < least_exponent)
		exponent = least_exponent;
	double unit = ldexp(1, exponent - significand_bits);
	return nearbyint(value / unit) * unit;
}

double round_to(enum kvs_dtype dtype, double value)
{
	switch (dtype) {
	case KVS_F16:
		return round_bits(value, 11, -13);
	case KVS_BF16:
		return round_bits(value, 8, -125);
	default:
		return (float)value;
	}
}

double rounding_of(enum kvs_dtype dtype)
{
	return dtype == KVS_F16 ? 0x1p-11 : dtype == KVS_BF16 ? 0x1p-8 : 0x1p-24;
}

static uint16_t half_bits(double value)
{
	int exponent;
	uint16_t sign = signbit(value) ? 0x8000 : 0;

	value = fabs(round_to(KVS_F16, value));
	if (value == 0)
		return sign;
	frexp(value, &exponent);
	if (exponent < -13) /* subnormal */
		return sign | (uint16_t)ldexp(value, 24);
	return sign | (uint16_t)((exponent + 14) << 10) | (uint16_t)(ldexp(value, 11 - exponent) - 1024);
}

static double half_value(uint16_t bits)
{
	int exponent = bits >> 10 & 31, significand = bits & 1023;
	double sign = bits & 0x8000 ? -1 : 1;

	if (exponent == 31)
		return significand ? NAN : sign * INFINITY;
	return sign * (exponent ? ldexp(1024 + significand, exponent - 25) : ldexp(significand, -24));
}

static void encode(enum kvs_dtype dtype, double value, void *to)
{
	float f = (float)round_to(dtype, value);
	uint32_t bits;

	memcpy(&bits, &f, sizeof(bits));
	if (dtype == KVS_F32) {
		memcpy(to, &f, 4);
	} else {
		uint16_t half = dtype == KVS_F16 ? half_bits(value) : (uint16_t)(bits >> 16);
		memcpy(to, &half, 2);
	}
}

static double decode(enum kvs_dtype dtype, const void *from)
{
	uint32_t bits = 0;
	uint16_t half;
	float f;

	if (dtype == KVS_F32) {
		memcpy(&f, from, 4);
		return f;
	}
	memcpy(&half, from, 2);
	if (dtype == KVS_F16)
		return half_value(half);
	bits = (uint32_t)half << 16;
	memcpy(&f, &bits, 4);
	return f;
}

static size_t elements(const struct array *a)
{
	return (size_t)a->t.rows * a->t.cols;
}

static size_t bytes_of(const struct array *a)
{
	return a->t.rows * kvs_row_bytes(a->t.dtype, a->t.cols);
}

struct array array_poisoned(enum kvs_dtype dtype, int rows, int cols)
{
	struct array a = {.t = {.dtype = dtype, .rows = rows, .cols = cols}};
	size_t bytes = bytes_of(&a);
	int index = array_count++;

	assert_true(array_count <= ARRAYS_MAX);
	arrays[index].bytes = bytes;
	arrays[index].host = calloc(elements(&a), sizeof(*a.value));
	if (dtype == KVS_I32)
		a.id = arrays[index].host;
	else
		a.value = arrays[index].host;
	check_driver(cu->cuMemAlloc(&arrays[index].memory, bytes + 2 * GUARD), "cuMemAlloc");
	check_driver(cu->cuMemsetD8(arrays[index].memory, GUARD_BYTE, bytes + 2 * GUARD), "cuMemsetD8");
	a.t.data = arrays[index].memory + GUARD;
	check_driver(cu->cuMemsetD8(a.t.data, 0xff, bytes), "cuMemsetD8");
	check_driver(cu->cuCtxSynchronize(), "cuCtxSynchronize");
	return a;
}

struct array array_random(enum kvs_dtype dtype, int rows, int cols, double scale)
{
	struct array a = array_poisoned(dtype, rows, cols);

	for (size_t i = 0; i < elements(&a); i++)
		a.value[i] = random_in(-scale, scale);
	array_write(&a);
	return a;
}

uint8_t *random_blocks(enum kvs_dtype dtype, int rows, int cols)
{
	size_t bytes = rows * kvs_row_bytes(dtype, cols), block = kvs_dtype_bytes(dtype);
	uint8_t *blocks = malloc(bytes);

	for (size_t i = 0; i < bytes; i++)
		blocks[i] = (uint8_t)(rand() >> 7);
	for (size_t i = 0; i < bytes; i += block) {
		blocks[i + 1] &= 0xbf; /* the exponent of the scale, and of the minimum if there is one */
		blocks[i + 3] &= 0xbf;
		blocks[i + block - 1] &= 0xbf; /* Q6_K has its scale there */
	}
	return blocks;
}

struct array array_quantised(enum kvs_dtype dtype, int rows, int cols)
{
	struct array a = array_poisoned(dtype, rows, cols);
	uint8_t *blocks = random_blocks(dtype, rows, cols);
	float *values = malloc(elements(&a) * sizeof(*values));

	model_gguf_dequantize(dtype, blocks, values, elements(&a));
	for (size_t i = 0; i < elements(&a); i++)
		a.value[i] = values[i];
	check_driver(cu->cuMemcpyHtoD(a.t.data, blocks, bytes_of(&a)), "cuMemcpyHtoD");
	check_driver(cu->cuCtxSynchronize(), "cuCtxSynchronize");
	free(blocks);
	free(values);
	return a;
}

struct array array_ids(int rows, int limit)
{
	struct array a = array_poisoned(KVS_I32, rows, 1);

	for (int i = 0; i < rows; i++)
		a.id[i] = random_int(0, limit - 1);
	array_write(&a);
	return a;
}

void array_write(struct array *a)
{
	size_t size = kvs_dtype_bytes(a->t.dtype);
	unsigned char *bytes = malloc(bytes_of(a));

	for (size_t i = 0; i < elements(a); i++) {
		if (a->id) {
			memcpy(bytes + i * size, &a->id[i], size);
		} else {
			a->value[i] = round_to(a->t.dtype, a->value[i]);
			encode(a->t.dtype, a->value[i], bytes + i * size);
		}
	}
	check_driver(cu->cuMemcpyHtoD(a->t.data, bytes, bytes_of(a)), "cuMemcpyHtoD");
	check_driver(
		cu->cuCtxSynchronize(), "cuCtxSynchronize"); /* the stream does not wait for the copy's last bytes */
	free(bytes);
}

unsigned char *array_bytes(const struct array *a)
{
	unsigned char *bytes = malloc(bytes_of(a));

	must(kvs_stream_synchronize(stream));
	check_driver(cu->cuMemcpyDtoH(bytes, a->t.data, bytes_of(a)), "cuMemcpyDtoH");
	return bytes;
}

void array_read(struct array *a)
{
	size_t size = kvs_dtype_bytes(a->t.dtype);
	unsigned char *bytes = array_bytes(a);

	for (size_t i = 0; i < elements(a); i++) {
		if (a->id)
			memcpy(&a->id[i], bytes + i * size, size);
		else
			a->value[i] = decode(a->t.dtype, bytes + i * size);
	}
	free(bytes);
}

static void check_guard(CUdeviceptr at, const char *side, int index)
{
	unsigned char guard[GUARD];

	check_driver(cu->cuMemcpyDtoH(guard, at, GUARD), "cuMemcpyDtoH");
	for (int i = 0; i < GUARD; i++) {
		if (guard[i] != GUARD_BYTE)
			fail_msg("byte %d of the guard %s array %d was written", i, side, index);
	}
}

void arrays_end(void)
{
	must(kvs_stream_synchronize(stream));
	for (int i = 0; i < array_count; i++) {
		check_guard(arrays[i].memory, "before", i);
		check_guard(arrays[i].memory + GUARD + arrays[i].bytes, "behind", i);
		check_driver(cu->cuMemFree(arrays[i].memory), "cuMemFree");
		free(arrays[i].host);
	}
	array_count = 0;
}

void check_close(const struct array *a, const double *reference, double absolute, double relative, const char *what)
{
	for (size_t i = 0; i < elements(a); i++) {
		double error = fabs(a->value[i] - reference[i]);
		if (!(error <= absolute + relative * fabs(reference[i])))
			fail_msg("%s: [%zu][%zu] of %s [%d][%d] is %.9g, not %.9g (error %.3g)", what, i / a->t.cols,
				i % a->t.cols, kvs_dtype_name(a->t.dtype), a->t.rows, a->t.cols, a->value[i],
				reference[i], error);
	}
}
