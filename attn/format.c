/* attn/format.c: element types and their names, the sizes of K and V (format.h), checks of tensors. */
#include "kernels.h"
#include "stream.h"

#include <errno.h>
#include <string.h>
#include <strings.h>

static const struct {
	const char *name, *long_name;
} dtypes[] = {
	[KVS_F32] = {"f32", "float32"},
	[KVS_F16] = {"f16", "float16"},
	[KVS_BF16] = {"bf16", "bfloat16"},
	[KVS_I32] = {"i32", "int32"},
	[KVS_Q8_0] = {"q8_0", "Q8_0"},
	[KVS_Q4_0] = {"q4_0", "Q4_0"},
	[KVS_Q4_1] = {"q4_1", "Q4_1"},
	[KVS_Q5_0] = {"q5_0", "Q5_0"},
	[KVS_Q5_1] = {"q5_1", "Q5_1"},
	[KVS_IQ4_NL] = {"iq4_nl", "IQ4_NL"},
	[KVS_Q4_K] = {"q4_k", "Q4_K"},
	[KVS_Q5_K] = {"q5_k", "Q5_K"},
	[KVS_Q6_K] = {"q6_k", "Q6_K"},
};

size_t kvs_dtype_bytes(enum kvs_dtype dtype)
{
	return attn_block_bytes(dtype);
}

size_t kvs_row_bytes(enum kvs_dtype dtype, size_t elements)
{
	return attn_row_bytes(dtype, elements);
}

const char *kvs_dtype_name(enum kvs_dtype dtype)
{
	return dtypes[dtype].name;
}

int kvs_dtype_parse(const char *name, enum kvs_dtype *out)
{
	const char *bare = strncmp(name, "torch.", 6) == 0 ? name + 6 : name;

	for (int d = KVS_F32; d <= KVS_BF16; d++) {
		if (strcasecmp(bare, dtypes[d].name) == 0 || strcasecmp(bare, dtypes[d].long_name) == 0) {
			*out = d;
			return 0;
		}
	}
	return kvs_fail(-EINVAL, "unknown element type \"%s\": f32, f16 and bf16 are known", name);
}

size_t kvs_kv_elements(struct kvs_kv_format format)
{
	return (size_t)format.kv_heads * format.head_dim;
}

size_t kvs_kv_head_bytes(struct kvs_kv_format format)
{
	return format.head_dim * kvs_dtype_bytes(format.dtype);
}

size_t kvs_kv_token_bytes(struct kvs_kv_format format)
{
	return format.kv_heads * kvs_kv_head_bytes(format);
}

uint64_t attn_tensor_bytes(kvs_tensor t)
{
	return t.rows * attn_row_bytes(t.dtype, t.cols);
}

static bool is_of_type(enum kvs_dtype dtype, enum kvs_dtype wanted)
{
	if (wanted == ATTN_ANY_WEIGHT)
		return dtype <= KVS_Q6_K && dtype != KVS_I32;
	return wanted == ATTN_ANY_FLOAT ? dtype <= KVS_BF16 : dtype == wanted;
}

int attn_tensor_check(const char *what, kvs_tensor t, enum kvs_dtype dtype, int rows, int cols)
{
	if (!t.data)
		return kvs_fail(-EINVAL, "%s has no data", what);
	if (!is_of_type(t.dtype, dtype))
		return kvs_fail(-EINVAL, "%s is of type %s, not %s", what,
			t.dtype <= KVS_Q6_K ? kvs_dtype_name(t.dtype) : "unknown",
			dtype == ATTN_ANY_FLOAT    ? "a float type"
			: dtype == ATTN_ANY_WEIGHT ? "a type of weights"
						   : kvs_dtype_name(dtype));
	if (t.rows <= 0 || t.cols <= 0)
		return kvs_fail(
			-EINVAL, "%s is [%d][%d]: a tensor has at least one row and column", what, t.rows, t.cols);
	if ((rows && t.rows != rows) || (cols && t.cols != cols))
		return kvs_fail(-EINVAL, "%s is [%d][%d], not [%d][%d]", what, t.rows, t.cols, rows ? rows : t.rows,
			cols ? cols : t.cols);
	if (t.cols % attn_block_elements(t.dtype))
		return kvs_fail(-EINVAL, "%s has rows of %d elements: those of %s are blocks of %zu", what, t.cols,
			kvs_dtype_name(t.dtype), attn_block_elements(t.dtype));
	return 0;
}
