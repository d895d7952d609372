/*
 * model/checkpoint/safetensors.c: the header of a safetensors file, checked in full before any tensor is handed out.
 *
 * The format (github.com/huggingface/safetensors): 8 bytes of little-endian length, that many bytes of JSON, then the
 * tensors' bytes without holes. Like the format's own reader, this one sorts the tensors by offset and requires that
 * each begins where the one before it ended and that the last ends with the file. That rules out overlaps and overruns
 * at once.
 */
#include "checkpoint.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#define LENGTH_BYTES 8
#define START_BYTES 64             /* enough to recognise other kinds of files */
#define MAX_HEADER_BYTES 100000000 /* the limit of the format's own reader */

struct element {
	const char *name;
	int bits;
};

static const struct element elements[] = {
	{"F32", 32},
	{"F16", 16},
	{"BF16", 16},
	{"F64", 64},
	{"I64", 64},
	{"U64", 64},
	{"C64", 64},
	{"I32", 32},
	{"U32", 32},
	{"I16", 16},
	{"U16", 16},
	{"I8", 8},
	{"U8", 8},
	{"BOOL", 8},
	{"F8_E4M3", 8},
	{"F8_E5M2", 8},
	{"F8_E8M0", 8},
	{"F8_E4M3FNUZ", 8},
	{"F8_E5M2FNUZ", 8},
	{"F6_E2M3", 6},
	{"F6_E3M2", 6},
	{"F4", 4},
};

struct tensor {
	const char *name; /* belongs to the header */
	const struct element *element;
	int64_t *shape; /* [rank] */
	int rank;
	uint64_t begin, end; /* bytes from the end of the header */
};

struct kvs_safetensors {
	json_t *header;
	uint64_t data;          /* offset of the tensors in the file: the end of the header */
	char *file;             /* its name in messages */
	struct tensor *tensors; /* [count], by offset */
	size_t count;
};

static int bad_tensor(const struct model_json *from, const char *what)
{
	return kvs_fail(-EINVAL, "%s: %.200s: %s", from->file, from->path, what);
}

static int read_element(const struct model_json *from, const struct element **out)
{
	const char *name = json_string_value(json_object_get(from->object, "dtype"));

	if (!name)
		return bad_tensor(from, "dtype is not a name");
	for (size_t i = 0; i < sizeof(elements) / sizeof(elements[0]); i++) {
		if (!strcmp(name, elements[i].name)) {
			*out = &elements[i];
			return 0;
		}
	}
	return kvs_fail(-EINVAL, "%s: %.200s: dtype \"%.32s\" is unknown to safetensors", from->file, from->path, name);
}

static int read_shape(const struct model_json *from, struct tensor *tensor)
{
	const json_t *shape = json_object_get(from->object, "shape");
	size_t rank = json_array_size(shape);

	if (!json_is_array(shape))
		return bad_tensor(from, "shape is not a list");
	tensor->shape = calloc(rank + 1, sizeof(*tensor->shape)); /* a scalar has none, and calloc(0) may be NULL */
	if (!tensor->shape)
		return kvs_fail(-ENOMEM, "%s: no memory for a shape of %zu dimensions", from->file, rank);
	tensor->rank = (int)rank;
	for (size_t i = 0; i < rank; i++) {
		const json_t *size = json_array_get(shape, i);
		if (!json_is_integer(size) || json_integer_value(size) < 0)
			return bad_tensor(from, "shape holds a value that is not a size");
		tensor->shape[i] = json_integer_value(size);
	}
	return 0;
}

static int read_offsets(const struct model_json *from, struct tensor *tensor)
{
	const json_t *offsets = json_object_get(from->object, "data_offsets");
	const json_t *begin = json_array_get(offsets, 0), *end = json_array_get(offsets, 1);

	if (json_array_size(offsets) != 2 || !json_is_integer(begin) || !json_is_integer(end))
		return bad_tensor(from, "data_offsets is not a list of two integers");
	if (json_integer_value(begin) < 0 || json_integer_value(end) < json_integer_value(begin))
		return bad_tensor(from, "data_offsets are negative or run backwards");
	tensor->begin = (uint64_t)json_integer_value(begin);
	tensor->end = (uint64_t)json_integer_value(end);
	return 0;
}

static int check_size(const struct model_json *from, const struct tensor *tensor)
{
	uint64_t bits = tensor->element->bits;

	for (int i = 0; i < tensor->rank; i++) {
		if (__builtin_mul_overflow(bits, (uint64_t)tensor->shape[i], &bits))
			return bad_tensor(from, "the product of its shape overflows");
	}
	if (bits % 8)
		return bad_tensor(from, "its shape does not fill whole bytes");
	if (bits / 8 != tensor->end - tensor->begin)
		return kvs_fail(-EINVAL, "%s: %.200s: data_offsets hold %llu bytes, shape and dtype make %llu",
			from->file, from->path, (unsigned long long)(tensor->end - tensor->begin),
			(unsigned long long)(bits / 8));
	return 0;
}

static int read_tensor(const struct model_json *from, struct tensor *tensor)
{
	int err;

	tensor->name = from->path;
	if (!json_is_object(from->object))
		return bad_tensor(from, "its description is not an object");
	err = read_element(from, &tensor->element);
	if (!err)
		err = read_shape(from, tensor);
	if (!err)
		err = read_offsets(from, tensor);
	return err ? err : check_size(from, tensor);
}

static int read_tensors(struct kvs_safetensors *st)
{
	const char *name;
	json_t *description;

	st->tensors = calloc(json_object_size(st->header) + 1, sizeof(*st->tensors));
	if (!st->tensors)
		return kvs_fail(-ENOMEM, "%s: no memory for %zu tensors", st->file, json_object_size(st->header));
	json_object_foreach(st->header, name, description)
	{
		if (!strcmp(name, "__metadata__"))
			continue;
		int err = read_tensor(&(struct model_json){description, st->file, name}, &st->tensors[st->count++]);
		if (err)
			return err;
	}
	return 0;
}

static int by_offset(const void *a, const void *b)
{
	const struct tensor *x = a, *y = b;

	if (x->begin != y->begin)
		return x->begin < y->begin ? -1 : 1;
	return (x->end > y->end) - (x->end < y->end); /* an empty tensor comes before one at the same offset */
}

static int check_layout(struct kvs_safetensors *st, uint64_t data_bytes)
{
	uint64_t at = 0;

	if (st->count)
		qsort(st->tensors, st->count, sizeof(*st->tensors), by_offset);
	for (size_t i = 0; i < st->count; i++) {
		const struct tensor *tensor = &st->tensors[i];
		if (tensor->end > data_bytes)
			return kvs_fail(-EINVAL,
				"%s: %.200s: data_offsets end at %llu, the file has %llu bytes of data: is it "
				"truncated?",
				st->file, tensor->name, (unsigned long long)tensor->end,
				(unsigned long long)data_bytes);
		if (tensor->begin != at)
			return kvs_fail(-EINVAL, "%s: %.200s: data_offsets begin at %llu, %s", st->file, tensor->name,
				(unsigned long long)tensor->begin,
				tensor->begin < at ? "inside another tensor" : "after a hole");
		at = tensor->end;
	}
	if (at != data_bytes)
		return kvs_fail(-EINVAL, "%s: %llu bytes after the last tensor", st->file,
			(unsigned long long)(data_bytes - at));
	return 0;
}

static uint64_t header_length(const unsigned char *file)
{
	uint64_t length = 0;

	for (int i = 0; i < LENGTH_BYTES; i++)
		length |= (uint64_t)file[i] << (8 * i);
	return length;
}

/* `start` is the first START_BYTES bytes of the file, or all there are. */
static int check_length(const char *name, const unsigned char *start, uint64_t file_bytes)
{
	const char *kind;

	if (file_bytes < LENGTH_BYTES)
		return kvs_fail(-EINVAL, "%s: %llu bytes are too few for a safetensors file", name,
			(unsigned long long)file_bytes);
	if (header_length(start) <= MAX_HEADER_BYTES && header_length(start) <= file_bytes - LENGTH_BYTES)
		return 0;
	kind = model_file_kind(start, file_bytes < START_BYTES ? file_bytes : START_BYTES);
	if (kind)
		return kvs_fail(-EINVAL, "%s is %s", name, kind);
	return kvs_fail(-EINVAL,
		"%s: a header of %llu bytes does not fit (the file has %llu, the format allows %d): is it truncated, "
		"or not a safetensors file?",
		name, (unsigned long long)header_length(start), (unsigned long long)file_bytes, MAX_HEADER_BYTES);
}

static int read_header(struct kvs_safetensors *st, const char *json, uint64_t length, uint64_t file_bytes)
{
	int err = model_json_parse(json, length, st->file, &st->header);

	st->data = LENGTH_BYTES + length;
	if (!err)
		err = read_tensors(st);
	return err ? err : check_layout(st, file_bytes - st->data);
}

/* `json` is a header of `length` bytes, whose length has been checked. */
static int create(
	const char *json, uint64_t length, uint64_t file_bytes, const char *name, struct kvs_safetensors **out)
{
	struct kvs_safetensors *st = calloc(1, sizeof(*st));
	int err = -ENOMEM;

	if (st)
		st->file = strdup(name);
	if (!st || !st->file)
		err = kvs_fail(-ENOMEM, "%s: no memory for its header", name);
	else
		err = read_header(st, json, length, file_bytes);
	if (err)
		kvs_safetensors_free(st);
	else
		*out = st;
	return err;
}

int kvs_safetensors_parse(const void *file, size_t file_bytes, const char *name, struct kvs_safetensors **out)
{
	int err = check_length(name, file, file_bytes);

	*out = NULL;
	return err ? err : create((const char *)file + LENGTH_BYTES, header_length(file), file_bytes, name, out);
}

int ckpt_safetensors_open(const struct model_file *file, const char *name, struct kvs_safetensors **out)
{
	unsigned char start[START_BYTES] = {0};
	char *json;
	int err = model_file_read(file, 0, start, file->bytes < START_BYTES ? file->bytes : START_BYTES);

	*out = NULL;
	if (!err)
		err = check_length(name, start, file->bytes);
	if (err)
		return err;
	json = malloc(header_length(start) + 1);
	err = json ? model_file_read(file, LENGTH_BYTES, json, header_length(start))
		   : kvs_fail(-ENOMEM, "%s: no memory for its header", name);
	if (!err)
		err = create(json, header_length(start), file->bytes, name, out);
	free(json);
	return err;
}

void kvs_safetensors_free(struct kvs_safetensors *st)
{
	if (!st)
		return;
	for (size_t i = 0; i < st->count; i++)
		free(st->tensors[i].shape);
	free(st->tensors);
	free(st->file);
	json_decref(st->header);
	free(st);
}

size_t kvs_safetensors_count(const struct kvs_safetensors *st)
{
	return st->count;
}

int kvs_safetensors_get(const struct kvs_safetensors *st, size_t index, const char **name, struct kvs_weight *out)
{
	const struct tensor *tensor = &st->tensors[index];
	enum kvs_dtype dtype;
	int most = (int)(sizeof(out->shape) / sizeof(out->shape[0]));

	*name = tensor->name;
	if (kvs_dtype_parse(tensor->element->name, &dtype) || dtype == KVS_I32)
		return kvs_fail(-EINVAL, "%s: %.200s: dtype %s is not supported, only F32, F16 and BF16", st->file,
			tensor->name, tensor->element->name);
	if (tensor->rank > most)
		return kvs_fail(-EINVAL, "%s: %.200s: shape has %d dimensions, at most %d are supported", st->file,
			tensor->name, tensor->rank, most);
	*out = (struct kvs_weight){.offset = st->data + tensor->begin,
		.dtype = dtype,
		.rank = tensor->rank,
		.bytes = tensor->end - tensor->begin};
	memcpy(out->shape, tensor->shape, tensor->rank * sizeof(out->shape[0]));
	return 0;
}

void ckpt_safetensors_stored(const struct kvs_safetensors *st, size_t index, struct ckpt_stored *out)
{
	const struct tensor *tensor = &st->tensors[index];

	*out = (struct ckpt_stored){.file = st->file,
		.name = tensor->name,
		.dtype = tensor->element->name,
		.shape = tensor->shape,
		.rank = tensor->rank,
		.offset = st->data + tensor->begin,
		.bytes = tensor->end - tensor->begin};
}
