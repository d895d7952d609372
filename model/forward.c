/*
 * model/forward.c: one pass through the layers.
 *
 * Everything is enqueued, nothing waits. A layer that borrows K (V) does not project, rotate or write it: its attention
 * reads the rows that the owner, an earlier layer, appended in an earlier launch of the same pass. That holds whether the
 * borrower reads through its own read-only mapping or (share_by_pointer) through the owner's addresses. With the policy
 * `last` it does all of that, at the owner's addresses, over what the owner wrote there.
 *
 * Several sequences of one length may go through together: every GEMM takes the rows of all of them, attention takes one
 * sequence at a time. A pass may also start in the middle: the layers below keep their K and V from an earlier pass.
 */
#include "engine.h"

#include <math.h>

static int project_qkv(kvs_engine *e, const struct model_layer *layer, kvs_tensor normed, bool own_k, bool own_v)
{
	int q = e->config.heads * e->config.head_dim, kv = e->config.kv_heads * e->config.head_dim;
	int first = q + (own_k ? kv : 0) +
		    (own_k && own_v ? kv : 0); /* Q, K and V are side by side: one GEMM covers those from Q on */
	kvs_tensor out = {e->qkv.data, KVS_F32, normed.rows, first};
	int err = kvs_gemm(e->stream, out, e->qkv.cols, normed, model_rows(layer->qkv, 0, first), false);

	if (err || own_k || !own_v)
		return err;
	out.data += (CUdeviceptr)(q + kv) * sizeof(float);
	out.cols = kv;
	return kvs_gemm(e->stream, out, e->qkv.cols, normed, model_rows(layer->qkv, q + kv, kv), false);
}

/* Where `owner`'s K or V of the pass's sequence `s` starts. */
static CUdeviceptr owner_address(const kvs_engine *e, const struct model_pass *pass, int owner, int s, bool is_k)
{
	size_t token = pass->first + (size_t)s * pass->stride;
	CUdeviceptr base = is_k ? kvs_cache_k(e->cache, owner, pass->slot) : kvs_cache_v(e->cache, owner, pass->slot);

	return base + token * kvs_kv_token_bytes(e->kv);
}

static kvs_kv layer_kv(const kvs_engine *e, int l, const struct model_pass *pass, int s)
{
	int k = l, v = l;

	if (e->plan && (e->share_by_pointer || e->policy == KVS_POLICY_LAST)) {
		k = kvs_plan_owner(e->plan, l, KVS_K);
		v = kvs_plan_owner(e->plan, l, KVS_V);
	}
	return (kvs_kv){.k = owner_address(e, pass, k, s, true),
		.v = owner_address(e, pass, v, s, false),
		.format = e->kv,
		.tokens = pass->start + pass->tokens};
}

static int add_bias(kvs_engine *e, kvs_tensor x, kvs_tensor bias)
{
	return bias.data ? kvs_add_row(e->stream, x, bias) : 0;
}

/* From the projections of sequence `s` to its attention output. */
static int attend(kvs_engine *e, int l, const struct model_pass *pass, int s, bool own_k, bool own_v)
{
	const struct model_layer *layer = &e->weights.layers[l];
	struct kvs_rope_append append = {.qkv = model_rows(e->qkv, s * pass->tokens, pass->tokens),
		.bias = layer->qkv_bias,
		.q_gain = layer->q_gain,
		.k_gain = layer->k_gain,
		.rope = e->rope,
		.kv = layer_kv(e, l, pass, s),
		.heads = e->config.heads,
		.start = pass->start,
		.eps = e->config.rms_eps,
		.own_k = own_k,
		.own_v = own_v};
	struct kvs_attention attention = {.out = model_rows(e->attended, s * pass->tokens, pass->tokens),
		.qkv = append.qkv,
		.kv = append.kv,
		.workspace = e->workspace,
		.heads = e->config.heads,
		.start = pass->start,
		.window = e->config.window[l],
		.scale = 1 / sqrtf((float)e->config.head_dim)};
	int err = kvs_rope_append(e->stream, &append);

	return err ? err : kvs_attention(e->stream, &attention);
}

static bool stores(const kvs_engine *e, int l, enum kvs_k_or_v which)
{
	return !e->plan || e->policy == KVS_POLICY_LAST || kvs_plan_owner(e->plan, l, which) == l;
}

int model_run_heads(kvs_engine *e, int l, const struct model_pass *pass, kvs_tensor residual)
{
	const struct model_layer *layer = &e->weights.layers[l];
	bool own_k = stores(e, l, KVS_K), own_v = stores(e, l, KVS_V);
	kvs_tensor normed = model_rows(e->normed, 0, residual.rows);
	int err = kvs_rmsnorm(e->stream, normed, residual, layer->attn_norm, e->config.rms_eps);

	if (!err)
		err = project_qkv(e, layer, normed, own_k, own_v);
	for (int s = 0; s < pass->sequences && !err; s++)
		err = attend(e, l, pass, s, own_k, own_v);
	return err;
}

int model_add_heads(kvs_engine *e, int l, kvs_tensor residual)
{
	const struct model_layer *layer = &e->weights.layers[l];
	int err = kvs_gemm(e->stream, residual, 0, model_rows(e->attended, 0, residual.rows), layer->o, true);

	if (!err && e->skips && !stores(e, l, KVS_K) && !stores(e, l, KVS_V))
		err = model_skip_add(e, l, residual);
	return err ? err : add_bias(e, residual, layer->o_bias);
}

int model_run_gate(kvs_engine *e, int l, kvs_tensor residual)
{
	const struct model_layer *layer = &e->weights.layers[l];
	int tokens = residual.rows;
	kvs_tensor normed = model_rows(e->normed, 0, tokens), gate_up = model_rows(e->gate_up, 0, tokens);
	kvs_tensor gated = model_rows(e->gated, 0, tokens);
	int err = kvs_rmsnorm(e->stream, normed, residual, layer->ffn_norm, e->config.rms_eps);

	if (!err)
		err = kvs_gemm(e->stream, gate_up, 0, normed, layer->gate_up, false);
	if (!err)
		err = add_bias(e, gate_up, layer->gate_up_bias);
	return err ? err : kvs_silu_mul(e->stream, gated, gate_up);
}

int model_add_gated(kvs_engine *e, int l, kvs_tensor residual)
{
	const struct model_layer *layer = &e->weights.layers[l];
	int err = kvs_gemm(e->stream, residual, 0, model_rows(e->gated, 0, residual.rows), layer->down, true);

	return err ? err : add_bias(e, residual, layer->down_bias);
}

/* Copies the rows of a pass out of the residual, or back into it. */
static int copy_residual(kvs_engine *e, kvs_tensor rows, CUdeviceptr to, CUdeviceptr from)
{
	CUresult result = e->cu->cuMemcpyDtoDAsync(
		to, from, (size_t)rows.rows * rows.cols * sizeof(float), kvs_stream_handle(e->stream));

	return result ? kvs_cu_fail(e->cu, result, "copying the residual of %d tokens", rows.rows) : 0;
}

int model_run_layers(kvs_engine *e, const struct model_pass *pass)
{
	kvs_tensor residual = model_rows(e->residual, 0, pass->sequences * pass->tokens);
	int first = pass->from ? pass->from->layer : 0, kept = 0;
	int err = pass->from ? copy_residual(e, residual, residual.data, pass->from->data) : 0;

	for (int l = first; l < e->config.layers && !err; l++) {
		if (kept < pass->keep_count && pass->keep[kept].layer == l)
			err = copy_residual(e, residual, pass->keep[kept++].data, residual.data);
		model_note(e, (struct kvs_engine_note){.kind = KVS_NOTE_LAYER, .layer = l});
		if (!err)
			err = model_run_heads(e, l, pass, residual);
		if (!err)
			err = model_add_heads(e, l, residual);
		if (!err)
			err = model_run_gate(e, l, residual);
		if (!err)
			err = model_add_gated(e, l, residual);
	}
	model_note(e, (struct kvs_engine_note){.kind = KVS_NOTE_LAYER, .layer = -1});
	return err;
}

int model_run_head(kvs_engine *e, kvs_tensor residual)
{
	kvs_tensor normed = model_rows(e->normed, 0, residual.rows);
	int err = kvs_rmsnorm(e->stream, normed, residual, e->weights.final_norm, e->config.rms_eps);

	if (err)
		return err;
	return kvs_gemm(e->stream, model_rows(e->logits, 0, residual.rows), 0, normed, e->weights.head, false);
}
