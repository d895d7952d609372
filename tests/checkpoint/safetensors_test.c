/*
 * tests/checkpoint/safetensors_test.c: headers of safetensors files, right and wrong.
 *
 * Files are made in memory, in allocations of exactly their size, so that ASan sees a read past the end.
 */
#include "../../model/model.h"

#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include <cmocka.h>

struct image {
	unsigned char *bytes;
	size_t size;
};

/* The length, the header, then `data_bytes` bytes counting up from 0. */
static struct image image_of(const char *header, size_t data_bytes)
{
	uint64_t length = strlen(header);
	struct image image = {.size = 8 + length + data_bytes};

	image.bytes = malloc(image.size);
	assert_non_null(image.bytes);
	for (int i = 0; i < 8; i++)
		image.bytes[i] = (unsigned char)(length >> (8 * i));
	memcpy(image.bytes + 8, header, length);
	for (size_t i = 0; i < data_bytes; i++)
		image.bytes[8 + length + i] = (unsigned char)i;
	return image;
}

static const char good[] = "{\"__metadata__\": {\"format\": \"pt\"}, "
			   "\"b\": {\"dtype\": \"BF16\", \"shape\": [2, 3], \"data_offsets\": [16, 28]}, "
			   "\"a\": {\"dtype\": \"F32\", \"shape\": [4], \"data_offsets\": [0, 16]}, "
			   "\"e\": {\"dtype\": \"F16\", \"shape\": [0, 7], \"data_offsets\": [16, 16]}, "
			   "\"s\": {\"dtype\": \"F32\", \"shape\": [], \"data_offsets\": [28, 32]}}  ";

static int find(const struct kvs_safetensors *st, const char *wanted, struct kvs_weight *out)
{
	for (size_t i = 0; i < kvs_safetensors_count(st); i++) {
		const char *name;
		int err = kvs_safetensors_get(st, i, &name, out);
		if (!strcmp(name, wanted))
			return err;
	}
	fail_msg("no tensor %s", wanted);
	return -ENOENT;
}

static void tensors_have_their_type_shape_and_bytes(void **state)
{
	struct image image = image_of(good, 32);
	uint64_t data = image.size - 32;
	struct kvs_safetensors *st;
	struct kvs_weight weight;

	(void)state;
	assert_int_equal(kvs_safetensors_parse(image.bytes, image.size, "x", &st), 0);
	assert_int_equal(kvs_safetensors_count(st), 4);
	assert_int_equal(find(st, "b", &weight), 0);
	assert_int_equal(weight.dtype, KVS_BF16);
	assert_int_equal(weight.rank, 2);
	assert_int_equal(weight.shape[0], 2);
	assert_int_equal(weight.shape[1], 3);
	assert_int_equal(weight.bytes, 12);
	assert_int_equal(weight.offset, data + 16);
	assert_int_equal(find(st, "a", &weight), 0);
	assert_int_equal(weight.dtype, KVS_F32);
	assert_int_equal(weight.offset, data);
	assert_int_equal(find(st, "e", &weight), 0);
	assert_int_equal(weight.dtype, KVS_F16);
	assert_int_equal(weight.bytes, 0);
	assert_int_equal(find(st, "s", &weight), 0);
	assert_int_equal(weight.rank, 0);
	assert_int_equal(weight.bytes, 4);
	kvs_safetensors_free(st);
	free(image.bytes);
}

static void a_file_without_tensors_is_fine(void **state)
{
	struct image image = image_of("{}", 0);
	struct kvs_safetensors *st;

	(void)state;
	assert_int_equal(kvs_safetensors_parse(image.bytes, image.size, "x", &st), 0);
	assert_int_equal(kvs_safetensors_count(st), 0);
	kvs_safetensors_free(st);
	free(image.bytes);
}

static void other_types_are_refused_only_when_asked_for(void **state)
{
	struct image image =
		image_of("{\"ids\": {\"dtype\": \"I32\", \"shape\": [2], \"data_offsets\": [0, 8]}, "
			 "\"q\": {\"dtype\": \"F4\", \"shape\": [3, 2], \"data_offsets\": [8, 11]}, "
			 "\"deep\": {\"dtype\": \"F16\", \"shape\": [1,1,1,1,1], \"data_offsets\": [11, 13]}, "
			 "\"w\": {\"dtype\": \"F16\", \"shape\": [1], \"data_offsets\": [13, 15]}}",
			15);
	struct kvs_safetensors *st;
	struct kvs_weight weight;

	(void)state;
	assert_int_equal(kvs_safetensors_parse(image.bytes, image.size, "model.safetensors", &st), 0);
	assert_int_equal(find(st, "w", &weight), 0);
	assert_int_equal(find(st, "ids", &weight), -EINVAL);
	assert_string_equal(kvs_error(), "model.safetensors: ids: dtype I32 is not supported, only F32, F16 and BF16");
	assert_int_equal(find(st, "q", &weight), -EINVAL);
	assert_int_equal(find(st, "deep", &weight), -EINVAL);
	assert_non_null(strstr(kvs_error(), "shape has 5 dimensions"));
	kvs_safetensors_free(st);
	free(image.bytes);
}

#define ONE(dtype, shape, offsets)                                                                                     \
	"{\"w\": {\"dtype\": " dtype ", \"shape\": " shape ", \"data_offsets\": " offsets "}}"
#define TWO(first, second)                                                                                             \
	"{\"a\": {\"dtype\": \"F32\", \"shape\": [4], \"data_offsets\": " first                                        \
	"}, \"b\": {\"dtype\": \"F32\", \"shape\": [4], \"data_offsets\": " second "}}"

static const struct {
	const char *header;
	size_t data_bytes;
	const char *message;
} refused[] = {
	{"", 0, "line 1"},
	{"[]", 0, "holds no JSON object"},
	{"{\"w\": 3}", 0, "w: its description is not an object"},
	{"{\"w\": {}}", 0, "w: dtype is not a name"},
	{ONE("\"F32\"", "[4]", "[0, 16]") "x", 16, "line 1"},
	{ONE("7", "[4]", "[0, 16]"), 16, "w: dtype is not a name"},
	{ONE("\"Q4_0\"", "[4]", "[0, 16]"), 16, "w: dtype \"Q4_0\" is unknown to safetensors"},
	{ONE("\"F32\"", "4", "[0, 16]"), 16, "w: shape is not a list"},
	{ONE("\"F32\"", "[-4]", "[0, 16]"), 16, "w: shape holds a value that is not a size"},
	{ONE("\"F32\"", "[4.0]", "[0, 16]"), 16, "w: shape holds a value that is not a size"},
	{ONE("\"F32\"", "[4]", "[0]"), 16, "w: data_offsets is not a list of two integers"},
	{ONE("\"F32\"", "[4]", "[0, 16, 16]"), 16, "w: data_offsets is not a list of two integers"},
	{ONE("\"F32\"", "[4]", "[0, 16.0]"), 16, "w: data_offsets is not a list of two integers"},
	{ONE("\"F32\"", "[4]", "\"0-16\""), 16, "w: data_offsets is not a list of two integers"},
	{ONE("\"F32\"", "[4]", "[-16, 0]"), 16, "w: data_offsets are negative or run backwards"},
	{ONE("\"F32\"", "[4]", "[16, 0]"), 16, "w: data_offsets are negative or run backwards"},
	{ONE("\"F32\"", "[4]", "[0, 12]"), 12, "w: data_offsets hold 12 bytes, shape and dtype make 16"},
	{ONE("\"F32\"", "[4]", "[0, 16]"), 15, "w: data_offsets end at 16, the file has 15 bytes of data"},
	{ONE("\"F32\"", "[4]", "[4611686018427387904, 4611686018427387920]"), 16, "w: data_offsets end at 46116860"},
	{ONE("\"F32\"", "[4]", "[9223372036854775800, 9223372036854775807]"), 16, "w: data_offsets hold 7 bytes"},
	{ONE("\"F32\"", "[4]", "[0, 18446744073709551616]"), 16, "line 1"},
	{ONE("\"F32\"", "[4611686018427387904, 4]", "[0, 0]"), 0, "w: the product of its shape overflows"},
	{ONE("\"F32\"", "[4294967296, 4294967296, 0]", "[0, 0]"), 0, "w: the product of its shape overflows"},
	{ONE("\"F32\"", "[9223372036854775807]", "[0, 16]"), 16, "w: the product of its shape overflows"},
	{ONE("\"F4\"", "[3]", "[0, 2]"), 2, "w: its shape does not fill whole bytes"},
	{ONE("\"F32\"", "[4]", "[0, 16]"), 17, "1 bytes after the last tensor"},
	{ONE("\"F32\"", "[4]", "[4, 20]"), 20, "w: data_offsets begin at 4, after a hole"},
	{TWO("[0, 16]", "[20, 36]"), 36, "b: data_offsets begin at 20, after a hole"},
	{TWO("[0, 16]", "[12, 28]"), 28, "b: data_offsets begin at 12, inside another tensor"},
	{TWO("[0, 16]", "[0, 16]"), 16, "data_offsets begin at 0, inside another tensor"},
	{"{\"a\": {\"dtype\": \"F32\", \"shape\": [], \"data_offsets\": [0, 4]}, "
	 "\"a\": {\"dtype\": \"F32\", \"shape\": [], \"data_offsets\": [0, 4]}}",
		4, "line 1"},
	{"{}", 3, "3 bytes after the last tensor"},
};

static void what_is_wrong_is_refused_with_file_and_tensor(void **state)
{
	(void)state;
	for (size_t i = 0; i < sizeof(refused) / sizeof(refused[0]); i++) {
		struct image image = image_of(refused[i].header, refused[i].data_bytes);
		struct kvs_safetensors *st;
		int err = kvs_safetensors_parse(image.bytes, image.size, "model.safetensors", &st);
		if (err != -EINVAL)
			fail_msg("%s: returned %d", refused[i].header, err);
		if (strncmp(kvs_error(), "model.safetensors: ", 19) || !strstr(kvs_error(), refused[i].message))
			fail_msg("%s: the message is: %s", refused[i].header, kvs_error());
		assert_null(st);
		free(image.bytes);
	}
}

static void hostile_header_lengths_are_refused(void **state)
{
	static const uint64_t lengths[] = {25, 1 << 20, 100000000, 100000001, UINT64_MAX, UINT64_MAX - 7, 1ull << 63};

	(void)state;
	for (size_t i = 0; i < sizeof(lengths) / sizeof(lengths[0]); i++) {
		unsigned char file[32] = {0};
		struct kvs_safetensors *st;
		for (int byte = 0; byte < 8; byte++)
			file[byte] = (unsigned char)(lengths[i] >> (8 * byte));
		assert_int_equal(kvs_safetensors_parse(file, sizeof(file), "x", &st), -EINVAL);
		assert_non_null(strstr(kvs_error(), "x: a header of "));
	}
}

static int parse_copy(const unsigned char *bytes, size_t size)
{
	unsigned char *copy = malloc(size + !size);
	struct kvs_safetensors *st;
	int err;

	assert_non_null(copy);
	memcpy(copy, bytes, size);
	err = kvs_safetensors_parse(copy, size, "x", &st);
	for (size_t i = 0; !err && i < kvs_safetensors_count(st); i++) {
		struct kvs_weight weight;
		const char *name;
		if (kvs_safetensors_get(st, i, &name, &weight))
			continue;
		const unsigned char *data = copy + weight.offset;
		assert_true(data >= copy && weight.bytes <= (size_t)(copy + size - data));
	}
	kvs_safetensors_free(st);
	free(copy);
	return err;
}

static void every_truncation_is_refused(void **state)
{
	struct image image = image_of(good, 32);

	(void)state;
	for (size_t size = 0; size < image.size; size++)
		assert_int_equal(parse_copy(image.bytes, size), -EINVAL);
	assert_int_equal(parse_copy(image.bytes, image.size), 0);
	free(image.bytes);
}

static void flipped_bits_are_refused_or_leave_tensors_inside_the_file(void **state)
{
	struct image image = image_of(good, 32);

	(void)state;
	for (size_t bit = 0; bit < 8 * (image.size - 32); bit++) {
		image.bytes[bit / 8] ^= 1 << bit % 8;
		int err = parse_copy(image.bytes, image.size);
		if (err && (err != -EINVAL || strncmp(kvs_error(), "x: ", 3)))
			fail_msg("bit %zu: %d, %s", bit, err, kvs_error());
		image.bytes[bit / 8] ^= 1 << bit % 8;
	}
	free(image.bytes);
}

static void ten_thousand_tensors_take_no_noticeable_time(void **state)
{
	enum { COUNT = 10000 };
	char *header = malloc(COUNT * 100), *at = header;
	clock_t start = clock();

	(void)state;
	assert_non_null(header);
	for (int i = 0; i < COUNT; i++) /* the last in the file is the first in the header */
		at += sprintf(at, "%c\"t%d\": {\"dtype\": \"F32\", \"shape\": [1], \"data_offsets\": [%d, %d]}",
			i ? ',' : '{', i, 4 * (COUNT - 1 - i), 4 * (COUNT - i));
	strcpy(at, "}");
	struct image image = image_of(header, 4 * COUNT);
	assert_int_equal(parse_copy(image.bytes, image.size), 0);
	assert_true(clock() - start <
		    5 * CLOCKS_PER_SEC); /* quadratic time would be minutes; ASan on a busy machine takes less */
	free(header);
	free(image.bytes);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(tensors_have_their_type_shape_and_bytes),
		cmocka_unit_test(a_file_without_tensors_is_fine),
		cmocka_unit_test(other_types_are_refused_only_when_asked_for),
		cmocka_unit_test(what_is_wrong_is_refused_with_file_and_tensor),
		cmocka_unit_test(hostile_header_lengths_are_refused),
		cmocka_unit_test(every_truncation_is_refused),
		cmocka_unit_test(flipped_bits_are_refused_or_leave_tensors_inside_the_file),
		cmocka_unit_test(ten_thousand_tensors_take_no_noticeable_time),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
