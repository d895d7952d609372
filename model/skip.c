/*
 * model/skip.c: what a layer that shares gets instead of its K and V: a linear map of low rank.
 *
 * The layer no longer projects K and V. In their place it may take its normed input x through two thin matrices and add
 * the result to the residual behind attention: h += b (a x), a [rank][hidden], b [hidden][rank]. With rank = kv_heads *
 * head_dim that is as many numbers as W_k and W_v had. The matrices are fitted for one plan, so a patch that has them for
 * a layer which projects its own K or V is refused. They lie in memory of their own, and a model without them pays nothing.
 */
#include "engine.h"

#include <errno.h>
#include <math.h>
#include <stdlib.h>

#define ALIGNMENT 256 /* good for cuBLAS and for 16-byte loads */
#define LARGEST_F16 65504.0f

static void give_back(kvs_engine *e, struct model_skip *skip)
{
	if (skip->a.data)
		KVS_CU_GIVE_BACK(e->cu->cuMemFree, skip->a.data);
	e->weights.bytes -= skip->bytes;
	*skip = (struct model_skip){0};
}

int model_skip_remove(kvs_engine *e, int layer)
{
	int err = e->skips && e->skips[layer].a.data ? kvs_stream_synchronize(e->stream) : 0;

	if (!err && e->skips)
		give_back(e, &e->skips[layer]);
	return err;
}

void model_skips_free(kvs_engine *e)
{
	for (int l = 0; e->skips && l < e->config.layers; l++)
		give_back(e, &e->skips[l]);
	free(e->skips);
	e->skips = NULL;
}

/* Converts on the host, then copies: the matrices are thin. */
static int upload(kvs_engine *e, kvs_tensor to, const struct kvs_patch_matrix *from)
{
	size_t count = (size_t)from->rows * from->cols;
	float *values = malloc(2 * sizeof(*values) * count);
	bool beyond = false;
	CUresult result = CUDA_SUCCESS;

	if (!values)
		return kvs_fail(-ENOMEM, "no memory for %s", from->name);
	model_to_f32(values, from->data, from->dtype, 0, count);
	for (size_t i = 0; i < count && to.dtype == KVS_F16; i++)
		beyond |= fabsf(values[i]) > LARGEST_F16;
	if (!beyond) {
		model_from_f32(values + count, values, to.dtype, count);
		result = e->cu->cuMemcpyHtoD(to.data, values + count, count * kvs_dtype_bytes(to.dtype));
	}
	if (!result)
		result = e->cu->cuStreamSynchronize(NULL); /* the engine's stream does not wait for the last bytes */
	free(values);
	if (beyond)
		return kvs_fail(-ERANGE, "%s has numbers beyond f16, whose largest is 65504: run with --kv-dtype f32",
			from->name);
	return result ? kvs_cu_fail(e->cu, result, "copying %s to the device", from->name) : 0;
}

static int allocate(kvs_engine *e, int rank, enum kvs_dtype dtype, struct model_skip *out)
{
	size_t half = (size_t)rank * e->config.hidden * kvs_dtype_bytes(dtype);
	size_t second = (half + ALIGNMENT - 1) / ALIGNMENT * ALIGNMENT;
	CUdeviceptr memory;
	CUresult result = e->cu->cuMemAlloc(&memory, second + half);

	if (result)
		return kvs_cu_fail(e->cu, result, "%zu bytes for a skip of rank %d", second + half, rank);
	*out = (struct model_skip){.a = {memory, dtype, rank, e->config.hidden},
		.b = {memory + second, dtype, e->config.hidden, rank},
		.bytes = second + half};
	return 0;
}

int model_skip_put(kvs_engine *e, int layer, const struct kvs_patch_matrix *a, const struct kvs_patch_matrix *b)
{
	enum kvs_dtype dtype = e->mixed_weights ? a->dtype : e->weight_dtype;
	struct model_skip skip = {0};
	int err = model_skip_check_shapes(&e->config, a, b);

	if (!err && e->policy == KVS_POLICY_LAST)
		err = kvs_fail(
			-EINVAL, "%s: with the policy last a layer projects its own K and V, and has no skip", a->name);
	if (!err && !e->skips) {
		e->skips = calloc(e->config.layers, sizeof(*e->skips));
		err = e->skips ? 0 : kvs_fail(-ENOMEM, "no memory for %s", a->name);
	}
	if (!err)
		err = kvs_stream_synchronize(e->stream);
	if (!err)
		err = allocate(e, a->rows, dtype, &skip);
	if (err)
		return err;
	e->weights.bytes += skip.bytes;
	err = upload(e, skip.a, a);
	if (!err)
		err = upload(e, skip.b, b);
	give_back(e, err ? &skip : &e->skips[layer]);
	if (err)
		return err;
	e->skips[layer] = skip;
	model_note(e, (struct kvs_engine_note){.kind = KVS_NOTE_WEIGHTS, .address = skip.a.data, .bytes = skip.bytes});
	return 0;
}

int model_skip_put_patch(kvs_engine *e, const kvs_patch *patch, int layer)
{
	struct kvs_patch_matrix a, b;
	int err = layer < e->config.layers
			  ? model_patch_skip(patch, layer, &e->config, &a, &b)
			  : kvs_fail(-EINVAL, "a skip of layer %d: the model has %d layers", layer, e->config.layers);

	return err ? err : model_skip_put(e, layer, &a, &b);
}

int kvs_engine_set_skip(kvs_engine *e, int layer, int rank, enum kvs_dtype dtype, float *a, float *b)
{
	char names[2][KVS_SKIP_NAME];
	struct kvs_patch_matrix down = {names[0], rank, e->config.hidden, KVS_F32, a};
	struct kvs_patch_matrix up = {names[1], e->config.hidden, rank, KVS_F32, b};

	if (layer < 0 || layer >= e->config.layers)
		return kvs_fail(-EINVAL, "a skip of layer %d: the model has %d layers", layer, e->config.layers);
	kvs_skip_name(layer, 'a', names[0]);
	kvs_skip_name(layer, 'b', names[1]);
	model_round(a, dtype, (size_t)rank * e->config.hidden);
	model_round(b, dtype, (size_t)rank * e->config.hidden);
	return model_skip_put(e, layer, &down, &up);
}

/*
 * The buffers of the MLP, which comes next, hold a x, as GEMM gives it and as GEMM takes it; on the host that is one type.
 */
int model_skip_add(kvs_engine *e, int layer, kvs_tensor residual)
{
	const struct model_skip *skip = &e->skips[layer];
	int rows = residual.rows, err;
	kvs_tensor out = {e->gate_up.data, KVS_F32, rows, skip->a.rows},
		   x = {e->gated.data, e->dtype, rows, skip->a.rows};

	if (!skip->a.data)
		return 0;
	err = kvs_gemm(e->stream, out, 0, model_rows(e->normed, 0, rows), skip->a, false);
	if (!err && e->dtype != KVS_F32)
		err = kvs_cast(e->stream, x, out);
	return err ? err : kvs_gemm(e->stream, residual, 0, e->dtype == KVS_F32 ? out : x, skip->b, true);
}
