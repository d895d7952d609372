/*
 * calib/compensate/queries.c: a matrix for each head that turns a borrower's queries to its owner's keys.
 *
 * With z a query before its rotation R, k the owner's rotated keys, and S and P scores and weights of the original layer,
 * A is to give R A z . k / sqrt(d) the weights P. First the least squares fit of the scores, in which the mean over the keys is
 * free and a key counts by P: the second-order form of KL(P || P') around P, so it is quadratic in A. Then Newton's method on KL
 * itself, with the weights between P and P' in the Hessian, and steps that are taken only if KL falls on sequences that the
 * fit does not see. Both systems are solved by conjugate gradients, a few steps each, with the Kronecker product of
 * the keys' and the queries' covariance as preconditioner. A commutes with no rotation, yet folds into W_q, which comes before it.
 *
 * Weights are computed once for each place at which they are taken, and kept in temporary files, in float32: a step of conjugate
 * gradients is two products. Memory is a few matrices [queries][tokens] of one sequence, whatever the number of sequences.
 */
#include "queries.h"

#include <errno.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

#define TAU 0.01       /* pull to zero, of the mean diagonals of C and of E[z z'] */
#define DAMP_KEYS 1e-2 /* of the preconditioner's factors, of their mean diagonals */
#define DAMP_QUERIES 1e-3
#define COVARIANCES 8       /* queries of a sequence whose covariances of keys make up C */
#define SQUARE_ITERATIONS 8 /* of conjugate gradients */
#define NEWTON_ITERATIONS 5

enum kind {
	SQUARE_RIGHT,    /* the gradient of the least squares fit at zero */
	SQUARE_OPERATOR, /* its Hessian times V */
	NEWTON_RIGHT,    /* the gradient of KL at A */
	NEWTON_OPERATOR, /* its Hessian, nearly, times V */
	DIVERGENCE       /* KL at A, no matrix */
};

struct work {
	const struct calib_queries *q;
	int head, used, tokens, dim, window;
	double scale, tau;
	size_t fitted;                /* queries of sequences that are fitted on */
	double entropy;               /* sum of p log p over the queries of those that are held back */
	struct calib_spool *original; /* [used][tokens] of a sequence: p */
	struct calib_spool *between;  /* the same of fitted sequences: (p + changed) / 2 at the last NEWTON_RIGHT */
	float *floats;                /* [tokens][dim] or [used][tokens], the larger */
	double *z, *wanted, *turned, *back; /* [used][dim] */
	double *keys, *own, *weighted;      /* [tokens][dim] */
	double *p, *changed, *e;            /* [used][tokens] */
	double *inverse_c, *inverse_z;      /* [dim][dim] */
	double *right, *x, *r, *m, *d, *ad; /* [dim][dim]: conjugate gradients */
	double *trial;                      /* [dim][dim] */
	double *memory;                     /* all of these */
};

/* ---- one sequence ---- */

static int position(const struct work *w, int row)
{
	return (row + 1) * w->q->stride - 1;
}

/* The first key that a query sees; the last is its own position's. */
static int first_key(const struct work *w, int row)
{
	int first = position(w, row) + 1 - w->window;

	return w->window && first > 0 ? first : 0;
}

/* R x, or R' x with `back`, for a row of pairs (i, i + dim / 2). */
static void rotate(const struct work *w, double *row, int at, bool back)
{
	const float *table = w->q->rotations + (size_t)at * w->dim;
	int half = w->dim / 2;

	for (int i = 0; i < half; i++) {
		double c = table[2 * i], s = back ? -table[2 * i + 1] : table[2 * i + 1], a = row[i], b = row[i + half];
		row[i] = a * c - b * s;
		row[i + half] = b * c + a * s;
	}
}

/* Softmax of a row of scores over the keys that its query sees; zero elsewhere. `out` may be `scores`. */
static void softmax_row(const struct work *w, int row, const double *scores, double *out)
{
	int first = first_key(w, row), last = position(w, row);
	double most = -INFINITY, sum = 0;

	for (int s = first; s <= last; s++)
		most = fmax(most, scores[s]);
	for (int s = first; s <= last; s++)
		sum += out[s] = exp(scores[s] - most);
	for (int s = first; s <= last; s++)
		out[s] /= sum;
	memset(out, 0, sizeof(*out) * first);
	memset(out + last + 1, 0, sizeof(*out) * (w->tokens - last - 1));
}

static void softmax(const struct work *w, const double *scores, double *out)
{
	for (int t = 0; t < w->used; t++)
		softmax_row(w, t, scores + (size_t)t * w->tokens, out + (size_t)t * w->tokens);
}

static int load(struct work *w, const struct calib_spool *spool, size_t record, size_t count, double *out)
{
	int err = calib_spool_read(spool, record, 1, w->floats);

	for (size_t i = 0; i < count && !err; i++)
		out[i] = w->floats[i];
	return err;
}

static int keep(struct work *w, struct calib_spool *spool, int sequence, const double *weights)
{
	size_t count = (size_t)w->used * w->tokens;

	for (size_t i = 0; i < count; i++)
		w->floats[i] = (float)weights[i];
	return calib_spool_write(spool, sequence, 1, w->floats);
}

/* Scores of rows of queries and of keys. */
static void score(struct work *w, const double *rows, const double *keys, double *out)
{
	calib_lapack_multiply(w->q->lapack, rows, keys, true, w->used, w->tokens, w->dim, out);
	for (size_t i = 0; i < (size_t)w->used * w->tokens; i++)
		out[i] *= w->scale;
}

static size_t kv_record(const struct work *w, int sequence)
{
	return (size_t)sequence * w->q->kv_heads + w->head / (w->q->heads / w->q->kv_heads);
}

static int load_sequence(struct work *w, int sequence)
{
	int err = load(w, w->q->before, (size_t)sequence * w->q->heads + w->head, (size_t)w->used * w->dim, w->z);

	return err ? err : load(w, w->q->keys, kv_record(w, sequence), (size_t)w->tokens * w->dim, w->keys);
}

/* The original's scores into e. */
static int score_original(struct work *w, int sequence)
{
	int err = load(w, w->q->wanted, (size_t)sequence * w->q->heads + w->head, (size_t)w->used * w->dim, w->wanted);

	if (!err)
		err = load(w, w->q->own, kv_record(w, sequence), (size_t)w->tokens * w->dim, w->own);
	if (!err)
		score(w, w->wanted, w->own, w->e);
	return err;
}

/* Once for each sequence: p, and for those that are held back its entropy. */
static int weigh_original(struct work *w, int sequence, enum calib_part part)
{
	size_t count = (size_t)w->used * w->tokens;
	int err = score_original(w, sequence);

	if (err)
		return err;
	softmax(w, w->e, w->p);
	for (size_t i = 0; i < count && part == CALIB_HELD; i++)
		if (w->p[i] > 0)
			w->entropy += w->p[i] * log(w->p[i]);
	return keep(w, w->original, sequence, w->p);
}

/* Scores of queries A z (and the bias) with the owner's keys, into out; A NULL: of the bias alone. */
static void score_matrix(struct work *w, const double *matrix, bool with_bias, double *out)
{
	const float *bias = with_bias && w->q->bias ? w->q->bias + (size_t)w->head * w->dim : NULL;

	if (matrix)
		calib_lapack_multiply(w->q->lapack, w->z, matrix, true, w->used, w->dim, w->dim, w->turned);
	else
		memset(w->turned, 0, sizeof(*w->turned) * w->used * w->dim);
	for (int t = 0; t < w->used; t++) {
		double *row = w->turned + (size_t)t * w->dim;
		for (int i = 0; bias && i < w->dim; i++)
			row[i] += bias[i];
		rotate(w, row, position(w, t), false);
	}
	score(w, w->turned, w->keys, out);
}

/* e <- p * (e - sum of p * e), row by row. */
static void centre(struct work *w, const double *p, double *e)
{
	for (int t = 0; t < w->used; t++, p += w->tokens, e += w->tokens) {
		double mean = 0;
		for (int s = 0; s < w->tokens; s++)
			mean += p[s] * e[s];
		for (int s = 0; s < w->tokens; s++)
			e[s] = p[s] * (e[s] - mean);
	}
}

/* sum += sum over t of R_t' (sum over s of e_ts k_s / sqrt(d)) z_t' */
static void add_back(struct work *w, double *sum)
{
	calib_lapack_multiply(w->q->lapack, w->e, w->keys, false, w->used, w->dim, w->tokens, w->back);
	for (int t = 0; t < w->used; t++) {
		double *row = w->back + (size_t)t * w->dim;
		rotate(w, row, position(w, t), true);
		for (int i = 0; i < w->dim; i++)
			row[i] *= w->scale;
	}
	calib_lapack_add_products(w->q->lapack, w->back, w->dim, w->z, w->dim, w->used, sum);
}

/* The sum of -p log(changed) for the scores in e. */
static double cross_entropy(const struct work *w)
{
	double sum = 0;

	for (int t = 0; t < w->used; t++) {
		const double *p = w->p + (size_t)t * w->tokens, *scores = w->e + (size_t)t * w->tokens;
		int first = first_key(w, t), last = position(w, t);
		double most = -INFINITY, exponentials = 0;
		for (int s = first; s <= last; s++)
			most = fmax(most, scores[s]);
		for (int s = first; s <= last; s++)
			exponentials += exp(scores[s] - most);
		most += log(exponentials);
		for (int s = first; s <= last; s++)
			sum -= p[s] * (scores[s] - most);
	}
	return sum;
}

/* ---- passes over the sequences ---- */

static int add_square_right(struct work *w, int sequence)
{
	size_t count = (size_t)w->used * w->tokens;
	int err;

	score_matrix(w, NULL, true, w->changed);
	err = score_original(w, sequence);
	for (size_t i = 0; i < count && !err; i++)
		w->e[i] -= w->changed[i];
	if (!err)
		centre(w, w->p, w->e);
	return err;
}

static int add_newton_right(struct work *w, int sequence, const double *at)
{
	size_t count = (size_t)w->used * w->tokens;

	score_matrix(w, at, true, w->changed);
	softmax(w, w->changed, w->changed);
	for (size_t i = 0; i < count; i++) {
		w->e[i] = w->p[i] - w->changed[i];
		w->changed[i] = (w->p[i] + w->changed[i]) / 2;
	}
	return keep(w, w->between, sequence, w->changed);
}

static int add_sequence(
	struct work *w, int sequence, enum kind kind, const double *at, const double *v, double *sum, double *kl)
{
	int err = load_sequence(w, sequence);

	if (!err)
		err = load(w, kind == NEWTON_OPERATOR ? w->between : w->original, sequence, (size_t)w->used * w->tokens,
			w->p);
	if (err)
		return err;
	if (kind == DIVERGENCE) {
		score_matrix(w, at, true, w->e);
		*kl += cross_entropy(w);
		return 0;
	}
	if (kind == SQUARE_RIGHT) {
		err = add_square_right(w, sequence);
	} else if (kind == NEWTON_RIGHT) {
		err = add_newton_right(w, sequence, at);
	} else {
		score_matrix(w, v, false, w->e);
		centre(w, w->p, w->e);
	}
	if (!err)
		add_back(w, sum);
	return err;
}

/* Sums over the fitted sequences; of KL, over the held ones. */
static int pass(struct work *w, enum kind kind, const double *at, const double *v, double *sum, double *kl)
{
	enum calib_part part = kind == DIVERGENCE ? CALIB_HELD : CALIB_FITTED;
	size_t queries = 0;
	int err = calib_tell(w->q->progress, "compensating", w->q->done, w->q->total);

	if (kind == DIVERGENCE)
		*kl = w->entropy;
	else
		memset(sum, 0, sizeof(*sum) * w->dim * w->dim);
	for (int s = 0; s < w->q->sequences && !err; s++) {
		if (calib_part_of(s, w->q->sequences) != part)
			continue;
		err = add_sequence(w, s, kind, at, v, sum, kl);
		queries += w->used;
	}
	if (kind == DIVERGENCE)
		*kl /= queries;
	for (int i = 0; i < w->dim * w->dim && kind != DIVERGENCE; i++)
		sum[i] /= queries;
	return err;
}

/* ---- conjugate gradients ---- */

static double dot(const struct work *w, const double *a, const double *b)
{
	double sum = 0;

	for (int i = 0; i < w->dim * w->dim; i++)
		sum += a[i] * b[i];
	return sum;
}

static void precondition(struct work *w, const double *from, double *to)
{
	calib_lapack_multiply(w->q->lapack, w->inverse_c, from, false, w->dim, w->dim, w->dim, w->trial);
	calib_lapack_multiply(w->q->lapack, w->trial, w->inverse_z, false, w->dim, w->dim, w->dim, to);
}

/* x = some steps towards the solution of Hessian x = right, from zero. */
static int solve(struct work *w, enum kind kind, const double *at, int iterations)
{
	size_t count = (size_t)w->dim * w->dim, bytes = count * sizeof(double);
	double product;
	int err = 0;

	memset(w->x, 0, bytes);
	memcpy(w->r, w->right, bytes);
	precondition(w, w->r, w->m);
	memcpy(w->d, w->m, bytes);
	product = dot(w, w->r, w->m);
	for (int i = 0; i < iterations && product > 0 && !err; i++) {
		double curve, step, before = product;
		err = pass(w, kind, at, w->d, w->ad, NULL);
		for (size_t j = 0; j < count; j++)
			w->ad[j] += w->tau * w->d[j];
		curve = dot(w, w->d, w->ad);
		if (err || !(curve > 0))
			break;
		step = product / curve;
		for (size_t j = 0; j < count; j++) {
			w->x[j] += step * w->d[j];
			w->r[j] -= step * w->ad[j];
		}
		precondition(w, w->r, w->m);
		product = dot(w, w->r, w->m);
		for (size_t j = 0; j < count; j++)
			w->d[j] = w->m[j] + product / before * w->d[j];
	}
	return err || isfinite(dot(w, w->x, w->x)) ? err : calib_not_a_number("queries");
}

/* ---- the preconditioner ---- */

/* C += R' Cov(k) R / d of one query, by its weights. */
static void add_covariance(struct work *w, int row, double *c)
{
	const double *p = w->p + (size_t)row * w->tokens;
	double *mean = w->back, *turned = w->turned;
	int dim = w->dim;

	memset(mean, 0, sizeof(*mean) * dim);
	for (int s = 0; s < w->tokens; s++)
		for (int i = 0; i < dim; i++)
			mean[i] += p[s] * w->keys[(size_t)s * dim + i];
	for (int s = 0; s < w->tokens; s++) {
		double *to = w->weighted + (size_t)s * dim, root = sqrt(p[s]) * w->scale;
		for (int i = 0; i < dim; i++)
			turned[i] = w->keys[(size_t)s * dim + i] - mean[i];
		rotate(w, turned, position(w, row), true);
		for (int i = 0; i < dim; i++)
			to[i] = root * turned[i];
	}
	calib_lapack_add_products(w->q->lapack, w->weighted, dim, w->weighted, dim, w->tokens, c);
}

static double mean_diagonal(const double *a, int n)
{
	double sum = 0;

	for (int i = 0; i < n; i++)
		sum += a[(size_t)i * n + i] / n;
	return sum;
}

/* a <- (a + ridge * mean diag(a) I)^-1; uses `trial`. */
static int invert(struct work *w, double *a, double ridge)
{
	size_t count = (size_t)w->dim * w->dim;
	int err;

	memset(w->trial, 0, sizeof(double) * count);
	for (int i = 0; i < w->dim; i++)
		w->trial[(size_t)i * w->dim + i] = 1;
	err = calib_lapack_solve_ridge(w->q->lapack, a, w->dim, w->trial, w->dim, ridge);
	memcpy(a, w->trial, sizeof(double) * count);
	return err;
}

/* *dead: queries or keys do not vary at all, so there is nothing to turn. Sums that are no numbers are not dead. */
static int make_preconditioner(struct work *w, bool *dead)
{
	size_t count = (size_t)w->dim * w->dim, covariances = 0;
	int err = 0;

	memset(w->inverse_c, 0, sizeof(double) * count);
	memset(w->inverse_z, 0, sizeof(double) * count);
	for (int s = 0; s < w->q->sequences && !err; s++) {
		enum calib_part part = calib_part_of(s, w->q->sequences);
		err = weigh_original(w, s, part);
		if (!err && part == CALIB_FITTED)
			err = load_sequence(w, s);
		if (err || part == CALIB_HELD)
			continue;
		calib_lapack_add_products(w->q->lapack, w->z, w->dim, w->z, w->dim, w->used, w->inverse_z);
		for (int i = 1; i <= COVARIANCES; i++, covariances++)
			add_covariance(
				w, (int)((long)i * w->used / COVARIANCES) - (i * w->used >= COVARIANCES), w->inverse_c);
		w->fitted += w->used;
	}
	for (size_t i = 0; i < count && !err; i++) {
		w->inverse_c[i] /= covariances;
		w->inverse_z[i] /= w->fitted;
	}
	if (err)
		return err;
	*dead = mean_diagonal(w->inverse_c, w->dim) == 0 || mean_diagonal(w->inverse_z, w->dim) == 0;
	if (*dead)
		return 0;
	w->tau = TAU * mean_diagonal(w->inverse_c, w->dim) * mean_diagonal(w->inverse_z, w->dim);
	err = invert(w, w->inverse_c, DAMP_KEYS);
	return err ? err : invert(w, w->inverse_z, DAMP_QUERIES);
}

/* ---- the fit ---- */

static void set_one(double *matrix, int n)
{
	memset(matrix, 0, sizeof(*matrix) * n * n);
	for (int i = 0; i < n; i++)
		matrix[(size_t)i * n + i] = 1;
}

/* A = the least squares fit, or one if that is better; *kl is its divergence. */
static int start(struct work *w, double *matrix, struct calib_query_result *out, double *kl)
{
	int err = pass(w, SQUARE_RIGHT, NULL, NULL, w->right, NULL);

	if (!err)
		err = solve(w, SQUARE_OPERATOR, NULL, SQUARE_ITERATIONS);
	set_one(matrix, w->dim);
	if (!err)
		err = pass(w, DIVERGENCE, matrix, NULL, NULL, &out->before);
	if (!err)
		err = pass(w, DIVERGENCE, w->x, NULL, NULL, kl);
	if (!err && !isfinite(*kl + out->before))
		return calib_not_a_number("attention");
	out->better = *kl < out->before;
	if (out->better)
		memcpy(matrix, w->x, sizeof(double) * w->dim * w->dim);
	else
		*kl = out->before;
	return err;
}

/* One step of Newton's method; *taken says whether any length of it lets KL fall. */
static int newton(struct work *w, double *matrix, double *kl, bool *taken)
{
	static const double lengths[] = {1, 0.4, 0.16};
	size_t count = (size_t)w->dim * w->dim;
	int err = pass(w, NEWTON_RIGHT, matrix, NULL, w->right, NULL);

	*taken = false;
	for (size_t i = 0; i < count; i++)
		w->right[i] -= w->tau * matrix[i];
	if (!err)
		err = solve(w, NEWTON_OPERATOR, matrix, NEWTON_ITERATIONS);
	for (size_t l = 0; l < sizeof(lengths) / sizeof(*lengths) && !err && !*taken; l++) {
		double now;
		for (size_t i = 0; i < count; i++)
			w->trial[i] = matrix[i] + lengths[l] * w->x[i];
		err = pass(w, DIVERGENCE, w->trial, NULL, NULL, &now);
		*taken = !err && now < *kl;
		if (*taken) {
			memcpy(matrix, w->trial, sizeof(double) * count);
			*kl = now;
		}
	}
	return err;
}

static int fit(struct work *w, double *matrix, struct calib_query_result *out)
{
	bool taken = true, dead = false;
	int err = make_preconditioner(w, &dead);

	if (!err && dead) {
		set_one(matrix, w->dim);
		return 0;
	}
	if (!err)
		err = start(w, matrix, out, &out->after);
	for (int i = 0; i < w->q->steps && !err && taken; i++) {
		err = newton(w, matrix, &out->after, &taken);
		out->better |= taken;
	}
	return err;
}

/* Called with memory NULL for the number of doubles, and again to divide them. */
static size_t lay_out(struct work *w, double *memory)
{
	size_t row = (size_t)w->used * w->dim, keys = (size_t)w->tokens * w->dim, scores = (size_t)w->used * w->tokens;
	size_t square = (size_t)w->dim * w->dim, at = 0;
	struct {
		double **array;
		size_t count;
	} arrays[] = {{&w->z, row}, {&w->wanted, row}, {&w->turned, row + w->dim}, {&w->back, row + w->dim},
		{&w->keys, keys}, {&w->own, keys}, {&w->weighted, keys}, {&w->p, scores}, {&w->changed, scores},
		{&w->e, scores}, {&w->inverse_c, square}, {&w->inverse_z, square}, {&w->right, square}, {&w->x, square},
		{&w->r, square}, {&w->m, square}, {&w->d, square}, {&w->ad, square}, {&w->trial, square}};

	for (size_t i = 0; i < sizeof(arrays) / sizeof(*arrays); at += arrays[i++].count)
		if (memory)
			*arrays[i].array = memory + at;
	return at;
}

int calib_queries_fit(const struct calib_queries *queries, int head, double *matrix, struct calib_query_result *out)
{
	struct work w = {.q = queries,
		.head = head,
		.used = queries->used,
		.tokens = queries->tokens,
		.dim = queries->head_dim,
		.window = queries->window,
		.scale = 1 / sqrt(queries->head_dim)};
	int err = 0;

	*out = (struct calib_query_result){0};
	w.memory = malloc(sizeof(double) * lay_out(&w, NULL));
	w.floats = malloc(sizeof(float) * w.tokens * (w.dim > w.used ? w.dim : w.used));
	if (!w.memory || !w.floats)
		err = kvs_fail(-ENOMEM, "no memory for the queries of %d tokens", w.tokens);
	if (!err)
		err = calib_spool_open((size_t)w.used * w.tokens, &w.original);
	if (!err)
		err = calib_spool_open((size_t)w.used * w.tokens, &w.between);
	if (!err) {
		lay_out(&w, w.memory);
		err = fit(&w, matrix, out);
	}
	calib_spool_close(w.original);
	calib_spool_close(w.between);
	free(w.memory);
	free(w.floats);
	return err;
}

int calib_queries_open(
	struct calib_queries *queries, const struct kvs_config *config, const struct kvs_calib_text *text)
{
	size_t dim = config->head_dim, used, tokens = (size_t)text->samples * text->sample_tokens;
	int err;

	queries->sequences = text->samples;
	queries->tokens = text->sample_tokens;
	queries->heads = config->heads;
	queries->kv_heads = config->kv_heads;
	queries->head_dim = config->head_dim;
	queries->stride = CALIB_QUERY_STRIDE;
	while (tokens / queries->stride > CALIB_QUERIES_MOST && queries->stride < queries->tokens)
		queries->stride++;
	queries->used = queries->tokens / queries->stride;
	used = queries->used;
	err = calib_spool_open(used * dim, &queries->before);
	if (!err)
		err = calib_spool_open(used * dim, &queries->wanted);
	if (!err)
		err = calib_spool_open(queries->tokens * dim, &queries->keys);
	return err ? err : calib_spool_open(queries->tokens * dim, &queries->own);
}

void calib_queries_close(struct calib_queries *queries)
{
	calib_spool_close(queries->before);
	calib_spool_close(queries->wanted);
	calib_spool_close(queries->keys);
	calib_spool_close(queries->own);
}
