/* attn/format.c: element types and their names, the sizes of K and V (format.h), checks of tensors. */
#include "stream.h"

#include <errno.h>
#include <string.h>
#include <strings.h>

static const struct {
	const char *name, *long_name;
	size_t bytes;
} dtypes[] = {
	[KVS_F32] = {"f32", "float32", 4},
	[KVS_F16] = {"f16", "float16", 2},
	[KVS_BF16] = {"bf16", "bfloat16", 2},
	[KVS_I32] = {"i32", "int32", 4},
};

size_t kvs_dtype_bytes(enum kvs_dtype dtype)
{
	return dtypes[dtype].bytes;
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
	return (uint64_t)t.rows * t.cols * kvs_dtype_bytes(t.dtype);
}

int attn_tensor_check(const char *what, kvs_tensor t, enum kvs_dtype dtype, int rows, int cols)
{
	if (!t.data)
		return kvs_fail(-EINVAL, "%s has no data", what);
	if (dtype == ATTN_ANY_FLOAT ? t.dtype > KVS_BF16 : t.dtype != dtype)
		return kvs_fail(-EINVAL, "%s is of type %s, not %s", what,
			t.dtype <= KVS_I32 ? kvs_dtype_name(t.dtype) : "unknown",
			dtype == ATTN_ANY_FLOAT ? "a float type" : kvs_dtype_name(dtype));
	if (t.rows <= 0 || t.cols <= 0)
		return kvs_fail(
			-EINVAL, "%s is [%d][%d]: a tensor has at least one row and column", what, t.rows, t.cols);
	if ((rows && t.rows != rows) || (cols && t.cols != cols))
		return kvs_fail(-EINVAL, "%s is [%d][%d], not [%d][%d]", what, t.rows, t.cols, rows ? rows : t.rows,
			cols ? cols : t.cols);
	return 0;
}
