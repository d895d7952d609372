/*
 * calib/compensate/pair_costs.c: what is left of a pair's damage when W_q and W_o of its layer are refitted for it alone.
 *
 * The original walks up the layers once. At each layer every owner is tried: queries are turned to its keys, W_o is fitted to
 * what the attention added, and the rest of that is the pair's error. Errors of one layer compare its owners. Layers are
 * compared by what comes out of the model: the layers above run with the best pair's matrices, on the same held tokens.
 */
#include "pair_costs.h"

#include "../measure.h"
#include "matrices.h"
#include "together.h"
#include "walk.h"

#include <errno.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

#define LEAST_SAMPLES 4 /* a quarter is held back */
#define NEWTON_STEPS 1
#define HEAD_ROWS 32 /* of logits that are held at a time */

struct calib_pairs {
	struct calib_walk walk;
	struct kvs_calib_text text; /* the samples that are used; its ids are its own */
	const kvs_checkpoint *ckpt;
	const struct kvs_config *config;
	struct calib_lapack *lapack;
	struct calib_ridge outputs;
	struct calib_queries queries;
	struct kvs_calib_progress told, outer;
	size_t done, total;
	int layer, best; /* run last, -1: none; its best owner, -1: none yet */
	double best_left;
	double added; /* mean square of what the original's attention adds to the held rows of the layer */
	float *out;   /* [rows][hidden]: residuals that come out of the model, of the held samples */
	int rows;
	struct calib_spool *expected;  /* [rows][vocab]: the original's probabilities */
	double entropy;                /* of these, its sum over the rows, with a minus */
	float *logits, *probabilities; /* [HEAD_ROWS][vocab] */
	/* Matrices of the layer: the checkpoint's, the present pair's, the best's. */
	float *old_q, *old_o, *new_q, *new_o, *best_q, *best_o, *q_bias, *o_bias;
	bool has_q_bias, has_o_bias;
	struct kvs_refit q, o;
	double *turns; /* [heads][head_dim][head_dim] */
	struct calib_query_result *results;
	double *work;
};

/* ---- matrices ---- */

static int put(struct calib_pairs *p, const struct kvs_refit *refit, const float *values)
{
	size_t count = (size_t)refit->rows * refit->cols;
	float *copy = malloc(sizeof(*copy) * count);
	int err;

	if (!copy)
		return kvs_fail(-ENOMEM, "no memory for %s", refit->name);
	memcpy(copy, values, sizeof(*copy) * count); /* which is rounded in place */
	err = kvs_engine_set_matrix(p->walk.engine, refit->name, refit->rows, refit->cols, refit->dtype, copy);
	free(copy);
	return err;
}

static int read_matrices(struct calib_pairs *p, int layer)
{
	int err;

	p->q = calib_matrix_describe(p->config, KVS_REFIT_QUERIES, layer);
	p->o = calib_matrix_describe(p->config, KVS_REFIT_OUTPUTS, layer);
	err = calib_matrix_read(p->ckpt, p->config, &p->q, p->old_q, p->q_bias, &p->has_q_bias);
	if (!err)
		err = calib_matrix_read(p->ckpt, p->config, &p->o, p->old_o, p->o_bias, &p->has_o_bias);
	p->queries.bias = p->has_q_bias ? p->q_bias : NULL;
	return err;
}

/* The checkpoint's again, whatever happened before. */
static int restore(struct calib_pairs *p, int err)
{
	int failed = kvs_engine_reset_matrix(p->walk.engine, p->ckpt, p->q.name);

	if (!failed)
		failed = kvs_engine_reset_matrix(p->walk.engine, p->ckpt, p->o.name);
	return err ? err : failed;
}

static void swap(float **a, float **b)
{
	float *old = *a;

	*a = *b;
	*b = old;
}

/* ---- one pair ---- */

static void drop_pair(struct calib_pairs *p, kvs_plan *plan)
{
	p->walk.plan = NULL;
	kvs_plan_free(plan);
}

/* On success drop_pair() ends it. */
static int set_pair(struct calib_pairs *p, int owner, kvs_plan **plan)
{
	int owners[KVS_PLAN_MAX_LAYERS], err;

	for (int l = 0; l < p->config->layers; l++)
		owners[l] = l;
	owners[p->layer] = owner;
	err = kvs_plan_create(p->config->layers, owners, owners, plan);
	if (err)
		return err;
	p->walk.plan = *plan;
	err = kvs_engine_set_plan(p->walk.engine, *plan);
	if (err)
		drop_pair(p, *plan);
	return err;
}

static int fit_queries(struct calib_pairs *p)
{
	int dim = p->config->head_dim;
	int err = calib_walk_compensated(&p->walk, p->layer, CALIB_AT_QUERIES, &p->queries, NULL, NULL);

	memcpy(p->new_q, p->old_q, sizeof(float) * p->q.rows * p->q.cols);
	if (!err)
		err = calib_queries_fit_all(&p->queries, p->turns, p->results);
	for (int h = 0; h < p->config->heads && !err; h++)
		if (p->results[h].better)
			calib_matrix_turn(p->lapack, p->config, h, p->turns + (size_t)h * dim * dim, p->work, p->new_q);
	return err ? err : put(p, &p->q, p->new_q);
}

static void take(void *arg, const struct calib_rows *rows)
{
	struct calib_pairs *p = arg;

	calib_ridge_add(&p->outputs, p->lapack, rows->part, rows->rows, rows->attended, rows->target, rows->before,
		p->has_o_bias ? p->o_bias : NULL);
}

static int fit_pair(struct calib_pairs *p, double *left)
{
	static const double strengths[] = {CALIB_OUTPUT_STRENGTHS};
	struct calib_ridge_choice choice = {.strengths = strengths, .count = sizeof(strengths) / sizeof(*strengths)};
	int err = p->config->qk_norm ? 0 : fit_queries(p);

	memcpy(p->new_o, p->old_o, sizeof(float) * p->o.rows * p->o.cols);
	if (p->config->qk_norm)
		memcpy(p->new_q, p->old_q, sizeof(float) * p->q.rows * p->q.cols);
	calib_ridge_clear(&p->outputs);
	if (!err)
		err = calib_walk_compensated(&p->walk, p->layer, CALIB_AT_ATTENDED, NULL, take, p);
	p->added = p->outputs.tt[CALIB_HELD] / ((double)p->outputs.rows[CALIB_HELD] * p->outputs.outs);
	return err ? err : calib_ridge_try(&p->outputs, p->lapack, &choice, p->new_o, left);
}

/* The original up to `layer`; below it, K and V alone are wanted. */
static int go_up(struct calib_pairs *p, int layer)
{
	int err = 0;

	while (p->layer < layer && !err) {
		int l = p->layer + 1;
		bool queries = l == layer && !p->config->qk_norm;
		p->best = -1;
		p->queries.window = p->config->window[l];
		err = read_matrices(p, l);
		if (!err)
			err = calib_walk_original(&p->walk, l, queries ? &p->queries : NULL);
		if (!err)
			p->layer = l;
	}
	return err;
}

int calib_pairs_try(struct calib_pairs *p, int layer, int owner, double *left)
{
	kvs_plan *plan;
	double error;
	int err = go_up(p, layer);

	if (!err)
		err = set_pair(p, owner, &plan);
	if (err)
		return err;
	err = restore(p, fit_pair(p, &error));
	drop_pair(p, plan);
	if (err)
		return err;
	/* Attention that adds nothing, as pruning leaves it, loses nothing. */
	*left = p->added > 0 ? error / p->added : 0;
	if (p->best >= 0 && !(*left < p->best_left))
		return 0;
	p->best = owner;
	p->best_left = *left;
	swap(&p->new_q, &p->best_q);
	swap(&p->new_o, &p->best_o);
	return 0;
}

/* ---- what comes out of the model ---- */

/* The residuals [tokens][hidden] of a sample, behind those of the samples before. Few tokens carry most of the KL: none is left out. */
static void append(struct calib_pairs *p)
{
	size_t count = (size_t)p->text.sample_tokens * p->walk.hidden;

	memcpy(p->out + (size_t)p->rows * p->walk.hidden, p->walk.residual, sizeof(*p->out) * count);
	p->rows += p->text.sample_tokens;
}

/* Rows of logits, beside the original's probabilities for them. */
struct comparison {
	struct calib_pairs *p;
	int first, rows;
	double sum; /* over the rows: of p log p, or of p (log p - log q) without it */
};

/* Logits become probabilities. */
static void expect(void *arg)
{
	struct comparison *c = arg;
	int vocab = c->p->config->vocab;

	for (int row = c->first; row < c->first + c->rows; row++) {
		float *logits = c->p->logits + (size_t)row * vocab;
		double log_all = calib_log_sum(logits, vocab);
		for (int i = 0; i < vocab; i++) {
			double log_p = logits[i] - log_all;
			logits[i] = (float)exp(log_p);
			c->sum += logits[i] * log_p;
		}
	}
}

static void diverge(void *arg)
{
	struct comparison *c = arg;
	int vocab = c->p->config->vocab;

	for (int row = c->first; row < c->first + c->rows; row++) {
		const float *logits = c->p->logits + (size_t)row * vocab;
		const float *expected = c->p->probabilities + (size_t)row * vocab;
		double log_all = calib_log_sum(logits, vocab);
		for (int i = 0; i < vocab; i++)
			c->sum += expected[i] * (log_all - logits[i]);
	}
}

/* On two threads; how many there are changes no bit. */
static double sum_of_rows(struct calib_pairs *p, int rows, void (*call)(void *arg))
{
	struct comparison one = {.p = p, .rows = rows / 2},
			  other = {.p = p, .first = rows / 2, .rows = rows - rows / 2};

	calib_side_by_side(call, &one, call, &other);
	return one.sum + other.sum;
}

/* The original's probabilities for the held samples, which are compared with many times. */
static int keep_expected(struct calib_pairs *p)
{
	int err = 0;

	p->entropy = 0;
	for (int row = 0, now; row < p->rows && !err; row += now) {
		now = p->rows - row < HEAD_ROWS ? p->rows - row : HEAD_ROWS;
		err = kvs_engine_head(p->walk.engine, p->out + (size_t)row * p->walk.hidden, now, p->logits);
		if (!err)
			p->entropy += sum_of_rows(p, now, expect);
		if (!err)
			err = calib_spool_write(p->expected, row, now, p->logits);
		if (!err)
			err = calib_tell(&p->told, "", 0, 0);
	}
	return err || isfinite(p->entropy) ? err : calib_not_a_number("loss");
}

static int run_original(struct calib_pairs *p)
{
	int tokens = p->text.sample_tokens, err = kvs_engine_set_plan(p->walk.engine, NULL);

	p->rows = 0;
	for (int s = 0; s < p->text.samples && !err; s++) {
		struct kvs_batch batch = {.ids = p->text.ids + (size_t)s * tokens, .sequences = 1, .tokens = tokens};
		if (calib_part_of(s, p->text.samples) == CALIB_FITTED)
			continue;
		err = calib_tell(&p->told, "", 0, 0);
		if (!err)
			err = kvs_engine_run_batch(p->walk.engine, &batch);
		if (!err)
			err = kvs_engine_batch_residual(p->walk.engine, p->walk.residual);
		append(p);
	}
	return err ? err : keep_expected(p);
}

static int compare(struct calib_pairs *p, double *kl)
{
	double sum = p->entropy;
	int err = 0;

	for (int row = 0, now; row < p->rows && !err; row += now) {
		now = p->rows - row < HEAD_ROWS ? p->rows - row : HEAD_ROWS;
		err = kvs_engine_head(p->walk.engine, p->out + (size_t)row * p->walk.hidden, now, p->logits);
		if (!err)
			err = calib_spool_read(p->expected, row, now, p->probabilities);
		if (!err)
			sum += sum_of_rows(p, now, diverge);
		if (!err)
			err = calib_tell(&p->told, "", 0, 0);
	}
	*kl = sum / p->rows;
	return err || isfinite(sum) ? err : calib_not_a_number("loss");
}

static int measure(struct calib_pairs *p, double *kl)
{
	int err = put(p, &p->q, p->best_q);

	p->rows = 0;
	if (!err)
		err = put(p, &p->o, p->best_o);
	for (int s = 0; s < p->text.samples && !err; s++) {
		if (calib_part_of(s, p->text.samples) == CALIB_FITTED)
			continue;
		err = calib_tell(&p->told, "", 0, 0);
		if (!err)
			err = calib_walk_above(&p->walk, p->layer, s);
		append(p);
	}
	return err ? err : compare(p, kl);
}

int calib_pairs_measure(struct calib_pairs *p, int layer, int owner, double *kl)
{
	kvs_plan *plan;
	double left;
	int err = go_up(p, layer);

	if (!err && p->best != owner) { /* a search that goes on in the middle of a layer */
		p->best = -1;
		err = calib_pairs_try(p, layer, owner, &left);
	}
	if (!err)
		err = set_pair(p, owner, &plan);
	if (err)
		return err;
	err = restore(p, measure(p, kl));
	drop_pair(p, plan);
	return err;
}

/* ---- open and close ---- */

/* What the walk and the fits tell is in their own figures. */
static bool tell(void *arg, const char *what, size_t done, size_t total)
{
	struct calib_pairs *p = arg;

	(void)what;
	(void)done;
	(void)total;
	return !p->outer.step || p->outer.step(p->outer.arg, "refit: every pair", p->done, p->total);
}

void calib_pairs_at(struct calib_pairs *pairs, size_t done, size_t total)
{
	pairs->done = done;
	pairs->total = total;
}

int calib_pairs_check(const struct kvs_calib_text *text)
{
	if (text->samples >= LEAST_SAMPLES && text->sample_tokens >= CALIB_QUERY_STRIDE)
		return 0;
	return kvs_fail(-EINVAL,
		"fitting pairs takes %d samples of %d tokens or more, these are %d of %d: --samples, --sample-tokens",
		LEAST_SAMPLES, CALIB_QUERY_STRIDE, text->samples, text->sample_tokens);
}

/* Some of the samples, at even distances: neighbours are often of one chapter. */
static int cut(struct calib_pairs *p, const struct kvs_calib_text *text)
{
	int most = CALIB_PAIR_TOKENS / text->sample_tokens, err = calib_pairs_check(text);
	size_t sample = sizeof(*text->ids) * text->sample_tokens;

	p->text = *text;
	p->text.ids = NULL;
	if (most < LEAST_SAMPLES)
		most = LEAST_SAMPLES;
	if (p->text.samples > most)
		p->text.samples = most;
	if (err)
		return err;
	p->text.ids = malloc(sample * p->text.samples);
	if (!p->text.ids)
		return kvs_fail(-ENOMEM, "no memory for %d samples", p->text.samples);
	for (int s = 0; s < p->text.samples; s++)
		memcpy(p->text.ids + (size_t)s * text->sample_tokens,
			text->ids + (size_t)s * text->samples / p->text.samples * text->sample_tokens, sample);
	return 0;
}

static int open_queries(struct calib_pairs *p)
{
	p->queries = (struct calib_queries){
		.lapack = p->lapack, .progress = &p->told, .steps = NEWTON_STEPS, .rotations = p->walk.rotations};
	return calib_queries_open(&p->queries, p->config, &p->text);
}

static int allocate(struct calib_pairs *p)
{
	size_t hidden = p->config->hidden, dim = p->config->head_dim, heads_dim = p->config->heads * dim;
	size_t square = hidden * heads_dim, rows = (size_t)p->text.samples * p->text.sample_tokens;
	float **matrices[] = {&p->old_q, &p->old_o, &p->new_q, &p->new_o, &p->best_q, &p->best_o};
	bool whole = true;
	int err;

	for (size_t i = 0; i < sizeof(matrices) / sizeof(*matrices); i++)
		whole &= (*matrices[i] = malloc(sizeof(float) * square)) != NULL;
	p->q_bias = malloc(sizeof(float) * heads_dim);
	p->o_bias = malloc(sizeof(float) * hidden);
	p->work = malloc(sizeof(double) * dim * 2 * hidden);
	p->turns = malloc(sizeof(double) * heads_dim * dim);
	p->results = malloc(sizeof(*p->results) * p->config->heads);
	p->out = malloc(sizeof(float) * rows * hidden);
	p->logits = malloc(sizeof(float) * HEAD_ROWS * p->config->vocab);
	p->probabilities = malloc(sizeof(float) * HEAD_ROWS * p->config->vocab);
	if (!whole || !p->q_bias || !p->o_bias || !p->work || !p->turns || !p->results || !p->out || !p->logits ||
		!p->probabilities)
		return kvs_fail(-ENOMEM, "no memory for the matrices of a pair of layers");
	err = calib_spool_open(p->config->vocab, &p->expected);
	return err ? err : calib_ridge_open((int)heads_dim, (int)hidden, &p->outputs);
}

static int set_up(struct calib_pairs *p, const struct kvs_calib_text *text)
{
	int err = cut(p, text);

	if (!err)
		err = calib_lapack_open(&p->lapack);
	if (!err)
		err = calib_walk_open(&p->walk);
	if (!err)
		err = allocate(p);
	if (!err)
		err = open_queries(p);
	return err ? err : run_original(p);
}

int calib_pairs_open(kvs_engine *engine, const kvs_checkpoint *ckpt, const struct kvs_calib_text *text,
	const struct kvs_calib_progress *progress, struct calib_pairs **out)
{
	struct calib_pairs *p = calloc(1, sizeof(*p));
	int err;

	if (!p)
		return kvs_fail(-ENOMEM, "no memory to fit pairs");
	p->ckpt = ckpt;
	p->config = kvs_engine_config(engine);
	p->outer = *progress;
	p->told = (struct kvs_calib_progress){tell, p};
	p->layer = p->best = -1;
	p->walk = (struct calib_walk){.engine = engine, .text = &p->text, .progress = &p->told, .pairs = true};
	err = set_up(p, text);
	if (err)
		calib_pairs_close(p);
	else
		*out = p;
	return err;
}

void calib_pairs_close(struct calib_pairs *p)
{
	float *floats[] = {p->old_q, p->old_o, p->new_q, p->new_o, p->best_q, p->best_o, p->q_bias, p->o_bias, p->out,
		p->logits, p->probabilities};

	for (size_t i = 0; i < sizeof(floats) / sizeof(*floats); i++)
		free(floats[i]);
	free(p->text.ids);
	free(p->work);
	free(p->turns);
	free(p->results);
	calib_queries_close(&p->queries);
	calib_ridge_close(&p->outputs);
	calib_spool_close(p->expected);
	calib_walk_close(&p->walk);
	calib_lapack_close(p->lapack);
	free(p);
}
