/*
 * model/gguf.c: reading the header of a GGUF file.
 *
 * The header has no length of its own, so it is read in growing pieces until it parses. Strings stay where they lie in
 * it. Nothing is believed: a count is compared with the bytes that are left before memory is asked for it, and each
 * tensor must lie in the file, and none on another.
 */
#include "gguf.h"

#include "../driver/cu.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#define FIRST_READ (1 << 20)
#define MAX_HEADER_BYTES (512u << 20) /* a vocabulary of 256 k with merges has about 12 MiB */
#define MAX_KEYS (1 << 16)            /* models have some 60 */
#define MAX_TENSORS (1 << 20)         /* the largest models have thousands */
#define MAX_RANK 4                    /* GGML_MAX_DIMS */
#define MAX_NAME_BYTES 64             /* of a tensor, by the format's definition */
#define CUT (-EMSGSIZE)               /* the header goes on behind the bytes that were read */

enum value_type { U8, I8, U16, I16, U32, I32, F32, BOOL, STRING, ARRAY, U64, I64, F64, VALUE_TYPES };
static const int value_bytes[VALUE_TYPES] = {1, 1, 2, 2, 4, 4, 4, 1, 0, 0, 8, 8, 8};
static const char *const value_names[VALUE_TYPES] = {
	"u8", "i8", "u16", "i16", "u32", "i32", "f32", "bool", "string", "list", "u64", "i64", "f64"};

struct key {
	struct gguf_text name;
	enum value_type type, element; /* element: of an ARRAY */
	uint64_t count;                /* of its elements */
	const uint8_t *at;
};

struct model_gguf {
	char *file;
	uint8_t *header;
	struct key *keys; /* [key_count] */
	size_t key_count;
	struct gguf_tensor *tensors; /* [tensor_count] */
	size_t tensor_count;
};

/* What is left of the header. `whole`: it is all that the file has. */
struct cursor {
	const char *file;
	const uint8_t *at;
	size_t left;
	bool whole;
};

/* ---- parts ---- */

static int cut(const struct cursor *from)
{
	return from->whole ? kvs_fail(-EINVAL, "%s: ends within its header: is it truncated?", from->file) : CUT;
}

static int take(struct cursor *from, size_t bytes, const uint8_t **out)
{
	if (from->left < bytes)
		return cut(from);
	*out = from->at;
	from->at += bytes;
	from->left -= bytes;
	return 0;
}

static uint64_t little(const uint8_t *at, int bytes)
{
	uint64_t value = 0;

	for (int i = 0; i < bytes; i++)
		value |= (uint64_t)at[i] << (8 * i);
	return value;
}

static int take_number(struct cursor *from, int bytes, uint64_t *out)
{
	const uint8_t *at = NULL;
	int err = take(from, bytes, &at);

	*out = err ? 0 : little(at, bytes);
	return err;
}

static int take_text(struct cursor *from, const char *what, struct gguf_text *out)
{
	const uint8_t *at = NULL;
	uint64_t len;
	int err = take_number(from, 8, &len);

	if (!err && len > MAX_HEADER_BYTES)
		return kvs_fail(
			-EINVAL, "%s: %s has a length of %llu bytes", from->file, what, (unsigned long long)len);
	if (!err)
		err = take(from, len, &at);
	if (!err)
		*out = (struct gguf_text){(const char *)at, len};
	return err;
}

/* Each thing of `count` has at least `least` bytes. A count that no file of this size can have is an error at once. */
static int check_count(const struct cursor *from, uint64_t count, size_t least, uint64_t most, const char *what)
{
	if (count > most)
		return kvs_fail(-EINVAL, "%s: %s is %llu: too many", from->file, what, (unsigned long long)count);
	return count * least > from->left ? cut(from) : 0;
}

/* ---- keys ---- */

static int take_type(struct cursor *from, const struct gguf_text *key, enum value_type *out)
{
	uint64_t type;
	int err = take_number(from, 4, &type);

	if (!err && type >= VALUE_TYPES)
		return kvs_fail(-EINVAL, "%s: %.*s has a value of type %llu, which GGUF does not have", from->file,
			(int)(key->len < 64 ? key->len : 64), key->at, (unsigned long long)type);
	*out = (enum value_type)type;
	return err;
}

static int skip_elements(struct cursor *from, struct key *key)
{
	const uint8_t *at;
	struct gguf_text text;
	int err = check_count(from, key->count, key->element == STRING ? 8 : value_bytes[key->element],
		MAX_HEADER_BYTES, "the number of elements of a list");

	key->at = from->at;
	if (!err && key->element != STRING)
		return take(from, key->count * value_bytes[key->element], &at);
	for (uint64_t i = 0; i < key->count && !err; i++)
		err = take_text(from, "an element of a list", &text);
	return err;
}

static int take_value(struct cursor *from, struct key *key)
{
	int err = take_type(from, &key->name, &key->type);

	key->element = key->type;
	key->count = 1;
	if (err || key->type != ARRAY)
		return err ? err : skip_elements(from, key);
	err = take_type(from, &key->name, &key->element);
	if (!err && key->element == ARRAY)
		return kvs_fail(-EINVAL, "%s: %.*s is a list of lists, which is not read", from->file,
			(int)(key->name.len < 64 ? key->name.len : 64), key->name.at);
	if (!err)
		err = take_number(from, 8, &key->count);
	return err ? err : skip_elements(from, key);
}

static int by_name(const void *a, const void *b)
{
	const struct gguf_text *x = &((const struct key *)a)->name, *y = &((const struct key *)b)->name;
	int order = memcmp(x->at, y->at, x->len < y->len ? x->len : y->len);

	return order ? order : (x->len > y->len) - (x->len < y->len);
}

/* Readers differ in which of two they take, so a file with two is refused. Sorts the keys. */
static int check_twice(struct model_gguf *gguf)
{
	qsort(gguf->keys, gguf->key_count, sizeof(*gguf->keys), by_name);
	for (size_t i = 1; i < gguf->key_count; i++)
		if (!by_name(&gguf->keys[i - 1], &gguf->keys[i]))
			return kvs_fail(-EINVAL, "%s: has the key %.*s twice", gguf->file,
				(int)(gguf->keys[i].name.len < 64 ? gguf->keys[i].name.len : 64),
				gguf->keys[i].name.at);
	return 0;
}

static int take_keys(struct model_gguf *gguf, struct cursor *from, uint64_t count)
{
	int err = check_count(from, count, 8 + 4 + 1, MAX_KEYS, "the number of keys");

	if (err)
		return err;
	gguf->keys = calloc(count + 1, sizeof(*gguf->keys));
	if (!gguf->keys)
		return kvs_fail(-ENOMEM, "%s: no memory for %llu keys", gguf->file, (unsigned long long)count);
	for (; gguf->key_count < count && !err; gguf->key_count += !err) {
		err = take_text(from, "the name of a key", &gguf->keys[gguf->key_count].name);
		if (!err)
			err = take_value(from, &gguf->keys[gguf->key_count]);
	}
	return err ? err : check_twice(gguf);
}

/* ---- tensors ---- */

static int refuse_tensor(const struct model_gguf *gguf, const struct gguf_tensor *tensor, const char *why)
{
	return kvs_fail(-EINVAL, "%s: tensor %.*s %s", gguf->file, (int)(tensor->name.len < 64 ? tensor->name.len : 64),
		tensor->name.at, why);
}

/* The file has the fastest dimension first. */
static int take_shape(struct model_gguf *gguf, struct cursor *from, struct gguf_tensor *tensor)
{
	uint64_t rank, dim, elements = 1;
	int err = take_number(from, 4, &rank);

	if (!err && (rank < 1 || rank > MAX_RANK))
		return refuse_tensor(gguf, tensor, "has no rank from 1 to 4");
	tensor->rank = (int)rank;
	for (int i = tensor->rank - 1; i >= 0 && !err; i--) {
		err = take_number(from, 8, &dim);
		if (!err && (dim < 1 || dim >= 1ull << 48 || elements > (1ull << 48) / dim))
			return refuse_tensor(gguf, tensor, "has a dimension that is zero or too large");
		tensor->shape[i] = (int64_t)dim;
		elements *= dim;
	}
	tensor->bytes = elements; /* until its type is known */
	return err;
}

static bool is_name(struct gguf_text name)
{
	for (size_t i = 0; i < name.len; i++)
		if ((unsigned char)name.at[i] < ' ')
			return false;
	return name.len && name.len <= MAX_NAME_BYTES;
}

static int take_tensor(struct model_gguf *gguf, struct cursor *from, struct gguf_tensor *tensor)
{
	uint64_t type;
	int err = take_text(from, "the name of a tensor", &tensor->name);

	if (!err && !is_name(tensor->name))
		return refuse_tensor(
			gguf, tensor, "has a name that is empty, of more than 64 bytes or of control characters");
	if (!err)
		err = take_shape(gguf, from, tensor);
	if (!err)
		err = take_number(from, 4, &type);
	if (!err)
		err = take_number(from, 8, &tensor->offset);
	if (err)
		return err;
	tensor->type = model_gguf_type((uint32_t)type);
	if (!tensor->type)
		return refuse_tensor(gguf, tensor, "is of a type that ggml does not have");
	if (tensor->shape[tensor->rank - 1] % tensor->type->elements)
		return refuse_tensor(gguf, tensor, "has rows that are not a whole number of its type's blocks");
	tensor->bytes = tensor->bytes / tensor->type->elements * tensor->type->bytes;
	return 0;
}

static int take_tensors(struct model_gguf *gguf, struct cursor *from, uint64_t count)
{
	int err = check_count(from, count, 8 + 4 + 8 + 4 + 8, MAX_TENSORS, "the number of tensors");

	if (err)
		return err;
	gguf->tensors = calloc(count + 1, sizeof(*gguf->tensors));
	if (!gguf->tensors)
		return kvs_fail(-ENOMEM, "%s: no memory for %llu tensors", gguf->file, (unsigned long long)count);
	for (; gguf->tensor_count < count && !err; gguf->tensor_count += !err)
		err = take_tensor(gguf, from, &gguf->tensors[gguf->tensor_count]);
	return err;
}

static int by_offset(const void *a, const void *b)
{
	const struct gguf_tensor *x = a, *y = b;

	return x->offset < y->offset ? -1 : x->offset > y->offset;
}

/* Offsets count from the end of the header, rounded up. Sorts the tensors by them. */
static int place_tensors(struct model_gguf *gguf, uint64_t header_bytes, uint64_t file_bytes)
{
	int64_t align = 32;
	uint64_t start, end = 0;
	int err = model_gguf_int(gguf, "general.alignment", 1, 1 << 20, &align);

	if (err)
		return err;
	start = (header_bytes + align - 1) / align * align;
	qsort(gguf->tensors, gguf->tensor_count, sizeof(*gguf->tensors), by_offset);
	for (size_t i = 0; i < gguf->tensor_count; i++) {
		struct gguf_tensor *tensor = &gguf->tensors[i];
		if (tensor->offset % align)
			return refuse_tensor(gguf, tensor, "has an offset that is not aligned (general.alignment)");
		if (tensor->offset < end)
			return refuse_tensor(gguf, tensor, "lies on another tensor");
		if (start > file_bytes || tensor->offset > file_bytes - start ||
			tensor->bytes > file_bytes - start - tensor->offset)
			return refuse_tensor(gguf, tensor, "lies beyond the file's end: is the file truncated?");
		end = tensor->offset + tensor->bytes;
		tensor->offset += start;
	}
	return 0;
}

/* ---- the header ---- */

static int check_version(struct cursor *from)
{
	const uint8_t *magic = NULL;
	uint64_t version;
	int err = take(from, 4, &magic);

	if (!err && memcmp(magic, "GGUF", 4))
		return kvs_fail(-EINVAL, "%s: is not a GGUF file", from->file);
	if (!err)
		err = take_number(from, 4, &version);
	if (err || version == 2 || version == 3)
		return err;
	if (version == 0x03000000 || version == 0x02000000)
		return kvs_fail(-EINVAL, "%s: is big-endian: only little-endian GGUF files are read", from->file);
	return kvs_fail(-EINVAL, "%s: has GGUF version %llu, versions 2 and 3 are read", from->file,
		(unsigned long long)version);
}

static int read_all(struct model_gguf *gguf, struct cursor *from, uint64_t file_bytes)
{
	const uint8_t *start = from->at;
	uint64_t tensors, keys;
	int err = check_version(from);

	if (!err)
		err = take_number(from, 8, &tensors);
	if (!err)
		err = take_number(from, 8, &keys);
	if (!err)
		err = take_keys(gguf, from, keys);
	if (!err)
		err = take_tensors(gguf, from, tensors);
	return err ? err : place_tensors(gguf, (uint64_t)(from->at - start), file_bytes);
}

/* Takes `header`, which has `bytes` bytes, also on failure. CUT: it is too short. */
static int create(uint8_t *header, size_t bytes, uint64_t file_bytes, const char *name, struct model_gguf **out)
{
	struct model_gguf *gguf = calloc(1, sizeof(*gguf));
	struct cursor from = {name, header, bytes, bytes == file_bytes};
	int err;

	if (!gguf || !(gguf->file = strdup(name))) {
		free(gguf);
		free(header);
		return kvs_fail(-ENOMEM, "%s: no memory for its header", name);
	}
	gguf->header = header;
	err = read_all(gguf, &from, file_bytes);
	if (err)
		model_gguf_close(gguf);
	else
		*out = gguf;
	return err;
}

int model_gguf_parse(const void *header, size_t bytes, uint64_t file_bytes, const char *name, struct model_gguf **out)
{
	uint8_t *copy = malloc(bytes + 1);

	*out = NULL;
	if (!copy)
		return kvs_fail(-ENOMEM, "%s: no memory for its header", name);
	memcpy(copy, header, bytes);
	return create(copy, bytes, file_bytes, name, out);
}

int model_gguf_open(const struct model_file *file, const char *name, struct model_gguf **out)
{
	size_t bytes = FIRST_READ;
	int err = CUT;

	*out = NULL;
	for (size_t read = 0; err == CUT; read = bytes, bytes *= 4) {
		uint8_t *header;
		if (read == MAX_HEADER_BYTES)
			return kvs_fail(-EINVAL, "%s: its header is larger than %u MiB", name, MAX_HEADER_BYTES >> 20);
		if (bytes > MAX_HEADER_BYTES)
			bytes = MAX_HEADER_BYTES;
		if (bytes > file->bytes)
			bytes = file->bytes;
		header = malloc(bytes + 1);
		err = header ? model_file_read(file, 0, header, bytes)
			     : kvs_fail(-ENOMEM, "%s: no memory for its header", name);
		if (err)
			free(header);
		else
			err = create(header, bytes, file->bytes, name, out);
	}
	return err;
}

void model_gguf_close(struct model_gguf *gguf)
{
	if (!gguf)
		return;
	free(gguf->keys);
	free(gguf->tensors);
	free(gguf->header);
	free(gguf->file);
	free(gguf);
}

bool model_gguf_is(const char *path)
{
	struct model_file file;
	char magic[4];
	bool is = !model_file_open_path(path, &file);

	if (is) {
		is = file.bytes >= 4 && !model_file_read(&file, 0, magic, 4) && !memcmp(magic, "GGUF", 4);
		model_file_close(&file);
	}
	return is;
}

const char *model_gguf_name(const struct model_gguf *gguf)
{
	return gguf->file;
}

size_t model_gguf_count(const struct model_gguf *gguf)
{
	return gguf->tensor_count;
}

const struct gguf_tensor *model_gguf_tensor(const struct model_gguf *gguf, size_t index)
{
	return &gguf->tensors[index];
}

/* ---- looking up keys ---- */

bool gguf_text_is(struct gguf_text text, const char *is)
{
	return text.len == strlen(is) && !memcmp(text.at, is, text.len);
}

static const struct key *find(const struct model_gguf *gguf, const char *name)
{
	for (size_t i = 0; i < gguf->key_count; i++)
		if (gguf_text_is(gguf->keys[i].name, name))
			return &gguf->keys[i];
	return NULL;
}

bool model_gguf_has(const struct model_gguf *gguf, const char *key)
{
	return find(gguf, key) != NULL;
}

static int wrong_type(const struct model_gguf *gguf, const struct key *key, const char *name, const char *wanted)
{
	return kvs_fail(-EINVAL, "%s: %s is a %s, it must be a %s", gguf->file, name, value_names[key->type], wanted);
}

static bool is_integer(enum value_type type)
{
	return type <= I32 || type == U64 || type == I64;
}

/* Saturates a u64 that is too large, which is outside every range too. */
static int64_t integer_at(const uint8_t *at, enum value_type type)
{
	uint64_t value = little(at, value_bytes[type]);
	int unused = 64 - 8 * value_bytes[type];

	if (type == I8 || type == I16 || type == I32 || type == I64)
		return (int64_t)(value << unused) >> unused;
	return value > INT64_MAX ? INT64_MAX : (int64_t)value;
}

static float float_at(const uint8_t *at)
{
	uint32_t bits = (uint32_t)little(at, 4);
	float value;

	memcpy(&value, &bits, sizeof(value));
	return value;
}

int model_gguf_int(const struct model_gguf *gguf, const char *name, int64_t min, int64_t max, int64_t *out)
{
	const struct key *key = find(gguf, name);
	int64_t value;

	if (!key)
		return 0;
	if (!is_integer(key->type))
		return wrong_type(gguf, key, name, "number");
	value = integer_at(key->at, key->type);
	if (value < min || value > max)
		return kvs_fail(-EINVAL, "%s: %s is %lld, allowed are %lld to %lld", gguf->file, name, (long long)value,
			(long long)min, (long long)max);
	*out = value;
	return 0;
}

int model_gguf_number(const struct model_gguf *gguf, const char *name, double *out)
{
	const struct key *key = find(gguf, name);
	uint64_t bits;

	if (!key)
		return 0;
	if (key->type == F64) {
		bits = little(key->at, 8);
		memcpy(out, &bits, sizeof(*out));
	} else if (key->type == F32) {
		*out = float_at(key->at);
	} else if (is_integer(key->type)) {
		*out = (double)integer_at(key->at, key->type);
	} else {
		return wrong_type(gguf, key, name, "number");
	}
	return 0;
}

int model_gguf_bool(const struct model_gguf *gguf, const char *name, bool *out)
{
	const struct key *key = find(gguf, name);

	if (key && key->type != BOOL)
		return wrong_type(gguf, key, name, "bool");
	if (key)
		*out = *key->at != 0;
	return 0;
}

/* The text at *at, which it moves on. The header has been checked. */
static struct gguf_text text_at(const uint8_t **at)
{
	struct gguf_text text = {(const char *)*at + 8, little(*at, 8)};

	*at += 8 + text.len;
	return text;
}

int model_gguf_text(const struct model_gguf *gguf, const char *name, struct gguf_text *out)
{
	const struct key *key = find(gguf, name);
	const uint8_t *at;

	if (!key)
		return 0;
	if (key->type != STRING)
		return wrong_type(gguf, key, name, "string");
	at = key->at;
	*out = text_at(&at);
	return 0;
}

const struct gguf_text *model_gguf_unknown(const struct model_gguf *gguf, const char *prefix, const char *const known[])
{
	for (size_t i = 0; i < gguf->key_count; i++) {
		const struct gguf_text *name = &gguf->keys[i].name;
		bool is_known = name->len < strlen(prefix) || memcmp(name->at, prefix, strlen(prefix)) != 0;
		for (size_t k = 0; known[k] && !is_known; k++)
			is_known = gguf_text_is(*name, known[k]);
		if (!is_known)
			return name;
	}
	return NULL;
}

/* The list `name` in *key, and memory for its elements in *out; *key is NULL if it is absent. */
static int open_list(const struct model_gguf *gguf, const char *name, bool (*fits)(enum value_type element),
	const char *wanted, size_t element_bytes, const struct key **key, void **out)
{
	*out = NULL;
	*key = find(gguf, name);
	if (!*key)
		return 0;
	if ((*key)->type != ARRAY || !fits((*key)->element))
		return wrong_type(gguf, *key, name, wanted);
	*out = calloc((*key)->count + 1, element_bytes);
	return *out ? 0 : kvs_fail(-ENOMEM, "%s: no memory for %s", gguf->file, name);
}

static bool is_text(enum value_type type)
{
	return type == STRING;
}

static bool is_float(enum value_type type)
{
	return type == F32;
}

size_t model_gguf_length(const struct model_gguf *gguf, const char *name)
{
	const struct key *key = find(gguf, name);

	return key && key->type == ARRAY ? key->count : 0;
}

int model_gguf_texts(const struct model_gguf *gguf, const char *name, struct gguf_text **out, size_t *count)
{
	const struct key *key;
	void *list;
	int err = open_list(gguf, name, is_text, "list of strings", sizeof(**out), &key, &list);
	const uint8_t *at = key ? key->at : NULL;

	*out = err ? NULL : list;
	*count = !err && key ? key->count : 0;
	for (size_t i = 0; i < *count; i++)
		(*out)[i] = text_at(&at);
	return err;
}

int model_gguf_ints(
	const struct model_gguf *gguf, const char *name, int32_t min, int32_t max, int32_t **out, size_t *count)
{
	const struct key *key;
	void *list;
	int err = open_list(gguf, name, is_integer, "list of numbers", sizeof(**out), &key, &list);

	*out = NULL;
	*count = 0;
	for (size_t i = 0; !err && key && i < key->count; i++) {
		int64_t value = integer_at(key->at + i * value_bytes[key->element], key->element);
		if (value < min || value > max)
			err = kvs_fail(-EINVAL, "%s: %s[%zu] is %lld, allowed are %d to %d", gguf->file, name, i,
				(long long)value, min, max);
		((int32_t *)list)[i] = (int32_t)value;
	}
	if (err) {
		free(list);
		return err;
	}
	*out = list;
	*count = key ? key->count : 0;
	return 0;
}

int model_gguf_floats(const struct model_gguf *gguf, const char *name, float **out, size_t *count)
{
	const struct key *key;
	void *list;
	int err = open_list(gguf, name, is_float, "list of f32", sizeof(**out), &key, &list);

	*out = err ? NULL : list;
	*count = !err && key ? key->count : 0;
	for (size_t i = 0; i < *count; i++)
		(*out)[i] = float_at(key->at + 4 * i);
	return err;
}
