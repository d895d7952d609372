/*
 * model/checkpoint/gguf_weights.c: the tensors of a GGUF file under the names and in the order of transformers.
 *
 * llama.cpp rotates pairs of neighbouring rows, transformers a row with the one half a head further on. So llama.cpp's
 * converter moves the rows of Q and K of the architecture "llama", and they are moved back here as they are read.
 */
#include "checkpoint.h"

#include "../gguf.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

struct ckpt_gguf {
	struct model_gguf *gguf;
	char **names; /* [model_gguf_count()] as in transformers */
};

/* ---- names ---- */

static const char *const outer[][2] = {{"token_embd.weight", "model.embed_tokens.weight"},
	{"output_norm.weight", "model.norm.weight"}, {"output.weight", "lm_head.weight"}};
static const char *const inner[][2] = {{"attn_norm", "input_layernorm"}, {"ffn_norm", "post_attention_layernorm"},
	{"attn_q", "self_attn.q_proj"}, {"attn_k", "self_attn.k_proj"}, {"attn_v", "self_attn.v_proj"},
	{"attn_output", "self_attn.o_proj"}, {"attn_q_norm", "self_attn.q_norm"}, {"attn_k_norm", "self_attn.k_norm"},
	{"ffn_gate", "mlp.gate_proj"}, {"ffn_up", "mlp.up_proj"}, {"ffn_down", "mlp.down_proj"}};

/* "blk.3.attn_q.weight" in its parts; false: of another form. */
static bool split_name(const char *name, int *layer, char part[32], char kind[8])
{
	int end = 0;

	return sscanf(name, "blk.%5d.%31[a-z_].%7[a-z]%n", layer, part, kind, &end) == 3 && !name[end] && *layer >= 0;
}

/* A name that is not ours stays, and is reported as not used. */
static char *translate(struct gguf_text stored)
{
	char name[65], part[32], kind[8], *out = NULL;
	int layer;

	snprintf(name, sizeof(name), "%.*s", (int)stored.len, stored.at); /* 64 bytes at most */
	for (size_t i = 0; i < sizeof(outer) / sizeof(outer[0]); i++)
		if (!strcmp(name, outer[i][0]))
			return strdup(outer[i][1]);
	if (!split_name(name, &layer, part, kind))
		return strdup(name);
	for (size_t i = 0; i < sizeof(inner) / sizeof(inner[0]); i++)
		if (!strcmp(part, inner[i][0]))
			return asprintf(&out, "model.layers.%d.%s.%s", layer, inner[i][1], kind) < 0 ? NULL : out;
	return strdup(name);
}

static int name_tensors(struct ckpt_gguf *part)
{
	size_t count = model_gguf_count(part->gguf);

	part->names = calloc(count + 1, sizeof(*part->names));
	for (size_t i = 0; i < count && part->names; i++) {
		const struct gguf_tensor *tensor = model_gguf_tensor(part->gguf, i);
		if (!tensor->type->dequantize)
			return kvs_fail(-EINVAL,
				"%s: tensor %.*s is %s; read are F32, F16, BF16, Q8_0, Q4_0, Q4_1, Q5_0, Q5_1, Q4_K, "
				"Q5_K, Q6_K and IQ4_NL",
				model_gguf_name(part->gguf), (int)(tensor->name.len < 64 ? tensor->name.len : 64),
				tensor->name.at, tensor->type->name);
		part->names[i] = translate(tensor->name);
		if (!part->names[i])
			return kvs_fail(-ENOMEM, "%s: no memory for its tensors", model_gguf_name(part->gguf));
	}
	return part->names ? 0 : kvs_fail(-ENOMEM, "%s: no memory for its tensors", model_gguf_name(part->gguf));
}

int ckpt_gguf_open(const struct model_file *file, const char *name, struct ckpt_gguf **out)
{
	struct ckpt_gguf *part = calloc(1, sizeof(*part));
	int err = part ? model_gguf_open(file, name, &part->gguf) : kvs_fail(-ENOMEM, "%s: no memory", name);

	*out = NULL;
	if (!err)
		err = name_tensors(part);
	if (err)
		ckpt_gguf_close(part);
	else
		*out = part;
	return err;
}

void ckpt_gguf_close(struct ckpt_gguf *part)
{
	if (!part)
		return;
	for (size_t i = 0; part->names && i < model_gguf_count(part->gguf); i++)
		free(part->names[i]);
	free(part->names);
	model_gguf_close(part->gguf);
	free(part);
}

const struct model_gguf *ckpt_gguf_header(const struct ckpt_gguf *part)
{
	return part->gguf;
}

size_t ckpt_gguf_count(const struct ckpt_gguf *part)
{
	return model_gguf_count(part->gguf);
}

/* ---- split files: PREFIX-00001-of-00003.gguf ---- */

static int split_number(const struct model_gguf *gguf, const char *key, int64_t absent, int *out)
{
	int64_t value = absent;
	int err = model_gguf_int(gguf, key, 0, 99999, &value);

	*out = (int)value;
	return err;
}

int ckpt_gguf_parts(const struct ckpt_gguf *part, int *number, int *count)
{
	int err = split_number(part->gguf, "split.no", 0, number);

	if (!err)
		err = split_number(part->gguf, "split.count", 1, count);
	if (!err && *count == 0)
		*count = 1;
	return err;
}

/* The total of tensors, and the architecture, which a later part need not repeat. */
static int check_model(const struct ckpt_gguf *part, const struct ckpt_gguf *first)
{
	struct gguf_text own = {NULL, 0}, theirs = {NULL, 0};
	int64_t total = -1, said = -1;
	int err = model_gguf_text(part->gguf, "general.architecture", &own);

	if (!err)
		err = model_gguf_text(first->gguf, "general.architecture", &theirs);
	if (!err)
		err = model_gguf_int(part->gguf, "split.tensors.count", 0, INT64_MAX, &said);
	if (!err)
		err = model_gguf_int(first->gguf, "split.tensors.count", 0, INT64_MAX, &total);
	if (!err && own.at && (own.len != theirs.len || (own.len && memcmp(own.at, theirs.at, own.len) != 0)))
		return kvs_fail(-EINVAL, "%s: general.architecture is another than in %s: it is of another model",
			model_gguf_name(part->gguf), model_gguf_name(first->gguf));
	if (!err && said != total && said >= 0 && total >= 0)
		return kvs_fail(-EINVAL, "%s: split.tensors.count is %lld, in %s %lld: it is of another model",
			model_gguf_name(part->gguf), (long long)said, model_gguf_name(first->gguf), (long long)total);
	return err;
}

int ckpt_gguf_check_part(const struct ckpt_gguf *part, const struct ckpt_gguf *first, int number, int count)
{
	int own, parts, err = ckpt_gguf_parts(part, &own, &parts);

	if (!err && !model_gguf_has(part->gguf, "split.no"))
		return kvs_fail(-EINVAL, "%s: does not say which part of a model it is (split.no)",
			model_gguf_name(part->gguf));
	if (!err && (own != number || parts != count))
		return kvs_fail(-EINVAL, "%s: says that it is part %d of %d, its name says part %d of %d",
			model_gguf_name(part->gguf), own + 1, parts, number + 1, count);
	return err ? err : check_model(part, first);
}

int ckpt_gguf_check_total(const struct ckpt_gguf *first, size_t tensors)
{
	int64_t said = (int64_t)tensors;
	int err = model_gguf_int(first->gguf, "split.tensors.count", 0, INT64_MAX, &said);

	if (!err && (uint64_t)said != tensors)
		return kvs_fail(-EINVAL,
			"%s: split.tensors.count is %lld, its parts have %zu: is one of them of another model?",
			model_gguf_name(first->gguf), (long long)said, tensors);
	return err;
}

int ckpt_gguf_part_path(const char *first, int number, int count, char **path)
{
	char end[40];
	size_t length = strlen(first), tail;

	snprintf(end, sizeof(end), "-00001-of-%05d.gguf", count);
	tail = strlen(end);
	if (length < tail || strcmp(first + length - tail, end))
		return kvs_fail(-EINVAL,
			"%s: is one of %d parts, but its name does not end in %s, so the others cannot be found", first,
			count, end);
	if (asprintf(path, "%.*s-%05d-of-%05d.gguf", (int)(length - tail), first, number + 1, count) < 0)
		return kvs_fail(-ENOMEM, "%s: no memory to open it", first);
	return 0;
}

/* ---- tensors ---- */

/* The type of the device's that has the same numbers; false: there is none. */
static bool plain_type(const struct gguf_type *type, enum kvs_dtype *out)
{
	if (!strcmp(type->name, "F32"))
		*out = KVS_F32;
	else if (!strcmp(type->name, "F16"))
		*out = KVS_F16;
	else if (!strcmp(type->name, "BF16"))
		*out = KVS_BF16;
	else
		return false;
	return true;
}

void ckpt_gguf_stored(const struct ckpt_gguf *part, size_t index, struct ckpt_stored *out)
{
	const struct gguf_tensor *tensor = model_gguf_tensor(part->gguf, index);

	*out = (struct ckpt_stored){.file = model_gguf_name(part->gguf),
		.name = part->names[index],
		.dtype = tensor->type->name,
		.shape = tensor->shape,
		.rank = tensor->rank,
		.offset = tensor->offset,
		.bytes = tensor->bytes};
}

bool ckpt_gguf_same_types(const struct ckpt_gguf *part, const char **name)
{
	for (size_t i = 0; i < model_gguf_count(part->gguf); i++) {
		const struct gguf_tensor *tensor = model_gguf_tensor(part->gguf, i);
		enum kvs_dtype dtype;
		if (tensor->rank < 2)
			continue;
		if (!plain_type(tensor->type, &dtype) || (*name && strcmp(*name, tensor->type->name)))
			return false;
		*name = tensor->type->name;
	}
	return true;
}

void ckpt_gguf_get(const struct ckpt_gguf *part, size_t index, bool widen, struct kvs_weight *out)
{
	const struct gguf_tensor *tensor = model_gguf_tensor(part->gguf, index);
	size_t elements = tensor->bytes / tensor->type->bytes * tensor->type->elements;

	*out = (struct kvs_weight){.offset = tensor->offset, .rank = tensor->rank};
	out->stored = tensor->type->dtype;
	out->widened = !plain_type(tensor->type, &out->dtype) || (widen && tensor->rank > 1);
	if (out->widened)
		out->dtype = KVS_F32;
	memcpy(out->shape, tensor->shape, tensor->rank * sizeof(out->shape[0]));
	out->bytes = elements * kvs_dtype_bytes(out->dtype);
}

/* The heads of Q's or K's rows, 0: they have not been moved. */
static int moved_heads(const struct ckpt_gguf *part, size_t index, const struct kvs_config *config)
{
	const char *name = part->names[index];

	if (strcmp(config->model_type, "llama"))
		return 0;
	if (strstr(name, ".self_attn.q_proj."))
		return config->heads;
	return strstr(name, ".self_attn.k_proj.") ? config->kv_heads : 0;
}

/* Elements of the file's order, as f32 or as they are stored. */
static int read_run(const struct model_file *file, const struct gguf_tensor *tensor, const struct kvs_weight *weight,
	uint64_t first, char *out, size_t count)
{
	if (weight->widened)
		return model_gguf_read(file, tensor, first, (float *)(void *)out, count);
	return model_file_read(
		file, tensor->offset + first * tensor->type->bytes, out, count * (size_t)tensor->type->bytes);
}

/* Where the file has row `row` of a matrix of `rows`, with heads whose rows have been moved. */
static uint64_t stored_row(uint64_t row, uint64_t rows, int heads)
{
	uint64_t half = rows / heads / 2, in_head = row % (2 * half);

	return row - in_head + in_head % half * 2 + in_head / half;
}

int ckpt_gguf_read(const struct ckpt_gguf *part, size_t index, const struct model_file *file,
	const struct kvs_config *config, bool widen, size_t first, void *out, size_t bytes)
{
	const struct gguf_tensor *tensor = model_gguf_tensor(part->gguf, index);
	int heads = moved_heads(part, index, config), err = 0;
	uint64_t rows = tensor->shape[0], cols = tensor->rank > 1 ? tensor->shape[1] : 1, size, at, count;
	struct kvs_weight weight;

	ckpt_gguf_get(part, index, widen, &weight);
	size = kvs_dtype_bytes(weight.dtype);
	if (first > weight.bytes || bytes > weight.bytes - first || first % size || bytes % size)
		return kvs_fail(-EINVAL, "%s: %zu bytes from byte %zu on, it has %zu", part->names[index], bytes, first,
			weight.bytes);
	at = first / size;
	count = bytes / size;
	if (!heads || tensor->rank > 2 || rows % (2 * (uint64_t)heads))
		return read_run(file, tensor, &weight, at, out, count);
	for (uint64_t done = 0, now; done < count && !err; done += now) {
		uint64_t row = stored_row((at + done) / cols, rows, heads), col = (at + done) % cols;
		now = cols - col < count - done ? cols - col : count - done;
		err = read_run(file, tensor, &weight, row * cols + col, (char *)out + done * size, now);
	}
	return err;
}

/* Rows that have been moved within their head: a head is read at once, for the sake of system calls. */
static int read_moved(const struct model_file *file, const struct gguf_tensor *tensor, int heads, size_t row_bytes,
	int64_t first_row, int64_t rows, char *out)
{
	int64_t per_head = tensor->shape[0] / heads, end = first_row + rows, head_read = -1;
	char *head = malloc(per_head * row_bytes);
	int err = head ? 0 : kvs_fail(-ENOMEM, "%s: no memory to read a tensor", file->path);

	for (int64_t row = first_row; row < end && !err; row++) {
		if (row / per_head != head_read) {
			head_read = row / per_head;
			err = model_file_read(
				file, tensor->offset + head_read * per_head * row_bytes, head, per_head * row_bytes);
		}
		if (!err)
			memcpy(out + (row - first_row) * row_bytes,
				head + stored_row(row, tensor->shape[0], heads) % per_head * row_bytes, row_bytes);
	}
	free(head);
	return err;
}

bool ckpt_gguf_is_moved(const struct ckpt_gguf *part, size_t index, const struct kvs_config *config)
{
	int heads = moved_heads(part, index, config);

	return heads && model_gguf_tensor(part->gguf, index)->shape[0] % (2 * heads) == 0;
}

int ckpt_gguf_read_rows(const struct ckpt_gguf *part, size_t index, const struct model_file *file,
	const struct kvs_config *config, int64_t first_row, int64_t rows, void *out)
{
	const struct gguf_tensor *tensor = model_gguf_tensor(part->gguf, index);
	size_t row_bytes;

	if (tensor->rank != 2 || first_row < 0 || rows < 0 || first_row > tensor->shape[0] ||
		rows > tensor->shape[0] - first_row)
		return kvs_fail(-EINVAL, "%s: has no %lld rows from row %lld on", part->names[index], (long long)rows,
			(long long)first_row);
	row_bytes = tensor->bytes / (uint64_t)tensor->shape[0];
	if (!ckpt_gguf_is_moved(part, index, config))
		return model_file_read(file, tensor->offset + first_row * row_bytes, out, rows * row_bytes);
	return read_moved(file, tensor, moved_heads(part, index, config), row_bytes, first_row, rows, out);
}
