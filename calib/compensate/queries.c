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
 * Weights are computed once for each place at which they are taken, and kept in temporary files: a step of conjugate
 * gradients is two products. They are made of blocks of queries, so that no key is multiplied that no query of the block sees.
 * A block is float32; sums over blocks, and all that is solved, are float64. Memory is a few blocks and one sequence,
 * whatever the number of sequences.
 */
#include "queries.h"

#include <errno.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

#define BLOCK 64       /* queries at a time */
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
	float scale;
	double tau;
	size_t fitted;                 /* queries of sequences that are fitted on */
	double entropy;                /* sum of p log p over the queries of those that are held back */
	struct calib_spool *original;  /* [tokens] of each query, sequence by sequence: p */
	struct calib_spool *between;   /* the same: (p + changed) / 2 at the last NEWTON_RIGHT, if it is fitted on */
	float *z, *wanted;             /* [used][dim] */
	float *keys, *own, *weighted;  /* [tokens][dim] */
	float *turned, *back;          /* [BLOCK][dim] */
	float *p, *changed, *e;        /* [BLOCK][tokens] */
	float *matrix, *product;       /* [dim][dim] */
	float *floats;                 /* all of these */
	double *inverse_c, *inverse_z; /* [dim][dim] */
	double *right, *x, *r, *m, *d, *ad; /* [dim][dim]: conjugate gradients */
	double *trial;                      /* [dim][dim] */
	double *doubles;                    /* all of these */
};

/* Queries that follow each other in a sequence, and the keys that one or more of them see. */
struct block {
	int row, rows, key, keys;
};

/* ---- one block ---- */

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

static struct block block_at(const struct work *w, int row)
{
	int rows = w->used - row < BLOCK ? w->used - row : BLOCK, key = first_key(w, row);

	return (struct block){row, rows, key, position(w, row + rows - 1) + 1 - key};
}

/* R x, or R' x with `back`, for a row of pairs (i, i + dim / 2). */
static void rotate(const struct work *w, float *row, int at, bool back)
{
	const float *table = w->q->rotations + (size_t)at * w->dim;
	int half = w->dim / 2;

	for (int i = 0; i < half; i++) {
		float c = table[2 * i], s = back ? -table[2 * i + 1] : table[2 * i + 1], a = row[i], b = row[i + half];
		row[i] = a * c - b * s;
		row[i + half] = b * c + a * s;
	}
}

static void clear_unseen(const struct work *w, const struct block *b, int t, float *row)
{
	int first = first_key(w, b->row + t), end = position(w, b->row + t) + 1;

	memset(row + b->key, 0, sizeof(*row) * (first - b->key));
	memset(row + end, 0, sizeof(*row) * (b->key + b->keys - end));
}

/* Scores become their softmax over the keys that each query sees, and zero elsewhere in the block. */
static void softmax(const struct work *w, const struct block *b, float *scores)
{
	for (int t = 0; t < b->rows; t++, scores += w->tokens) {
		int first = first_key(w, b->row + t), last = position(w, b->row + t);
		float most = -INFINITY;
		double sum = 0;
		for (int s = first; s <= last; s++)
			most = fmaxf(most, scores[s]);
		for (int s = first; s <= last; s++)
			sum += scores[s] = expf(scores[s] - most);
		for (int s = first; s <= last; s++)
			scores[s] /= (float)sum;
		clear_unseen(w, b, t, scores);
	}
}

/* Scores of rows of rotated queries and of keys. */
static void score(const struct work *w, const struct block *b, const float *rows, const float *keys, float *out)
{
	calib_lapack_multiply_f32(w->q->lapack, b->rows, b->keys, w->dim, w->scale, rows, w->dim,
		keys + (size_t)b->key * w->dim, w->dim, true, out + b->key, w->tokens);
}

/* Scores of queries A z, and the bias or not, with the owner's keys. A is `matrix`. */
static void score_turned(struct work *w, const struct block *b, bool with_bias, float *out)
{
	const float *bias = with_bias && w->q->bias ? w->q->bias + (size_t)w->head * w->dim : NULL;

	calib_lapack_multiply_f32(w->q->lapack, b->rows, w->dim, w->dim, 1, w->z + (size_t)b->row * w->dim, w->dim,
		w->matrix, w->dim, true, w->turned, w->dim);
	for (int t = 0; t < b->rows; t++) {
		float *row = w->turned + (size_t)t * w->dim;
		for (int i = 0; bias && i < w->dim; i++)
			row[i] += bias[i];
		rotate(w, row, position(w, b->row + t), false);
	}
	score(w, b, w->turned, w->keys, out);
}

/* The original's. */
static void score_wanted(struct work *w, const struct block *b, float *out)
{
	score(w, b, w->wanted + (size_t)b->row * w->dim, w->own, out);
}

/* e <- p * (e - sum of p * e), row by row. */
static void centre(struct work *w, const struct block *b)
{
	for (int t = 0; t < b->rows; t++) {
		const float *p = w->p + (size_t)t * w->tokens;
		float *e = w->e + (size_t)t * w->tokens, mean = 0;
		int first = first_key(w, b->row + t), last = position(w, b->row + t);
		for (int s = first; s <= last; s++)
			mean += p[s] * e[s];
		for (int s = first; s <= last; s++)
			e[s] = p[s] * (e[s] - mean);
		clear_unseen(w, b, t, e);
	}
}

/* sum += a' b, for rows [rows][dim] of both. */
static void add_products(struct work *w, const float *a, const float *b, int rows, double *sum)
{
	calib_lapack_products_f32(w->q->lapack, a, w->dim, b, w->dim, rows, w->product);
	for (int i = 0; i < w->dim * w->dim; i++)
		sum[i] += w->product[i];
}

/* sum += sum over t of R_t' (sum over s of e_ts k_s / sqrt(d)) z_t' */
static void add_back(struct work *w, const struct block *b, double *sum)
{
	calib_lapack_multiply_f32(w->q->lapack, b->rows, w->dim, b->keys, w->scale, w->e + b->key, w->tokens,
		w->keys + (size_t)b->key * w->dim, w->dim, false, w->back, w->dim);
	for (int t = 0; t < b->rows; t++)
		rotate(w, w->back + (size_t)t * w->dim, position(w, b->row + t), true);
	add_products(w, w->back, w->z + (size_t)b->row * w->dim, b->rows, sum);
}

/* The sum of -p log(changed) for the scores in e. */
static double cross_entropy(const struct work *w, const struct block *b)
{
	double sum = 0;

	for (int t = 0; t < b->rows; t++) {
		const float *p = w->p + (size_t)t * w->tokens, *scores = w->e + (size_t)t * w->tokens;
		int first = first_key(w, b->row + t), last = position(w, b->row + t);
		double log_all = calib_log_sum(scores + first, last + 1 - first);
		for (int s = first; s <= last; s++)
			sum -= p[s] * (scores[s] - log_all);
	}
	return sum;
}

/* e = the original's scores, less those of the matrix. */
static void differ_in_scores(struct work *w, const struct block *b)
{
	score_turned(w, b, true, w->changed);
	score_wanted(w, b, w->e);
	for (int t = 0; t < b->rows; t++)
		for (int s = b->key; s < b->key + b->keys; s++)
			w->e[(size_t)t * w->tokens + s] -= w->changed[(size_t)t * w->tokens + s];
}

/* e = p, less the weights of the matrix. What is between the two is kept for the Hessian. */
static int differ_in_weights(struct work *w, size_t record, const struct block *b)
{
	score_turned(w, b, true, w->changed);
	softmax(w, b, w->changed);
	for (int t = 0; t < b->rows; t++)
		for (int s = b->key; s < b->key + b->keys; s++) {
			size_t at = (size_t)t * w->tokens + s;
			w->e[at] = w->p[at] - w->changed[at];
			w->changed[at] = (w->p[at] + w->changed[at]) / 2;
		}
	return calib_spool_write(w->between, record, b->rows, w->changed);
}

/* ---- passes over the sequences ---- */

static size_t kv_record(const struct work *w, int sequence)
{
	return (size_t)sequence * w->q->kv_heads + w->head / (w->q->heads / w->q->kv_heads);
}

static int load_sequence(struct work *w, int sequence)
{
	int err = calib_spool_read(w->q->before, (size_t)sequence * w->q->heads + w->head, 1, w->z);

	return err ? err : calib_spool_read(w->q->keys, kv_record(w, sequence), 1, w->keys);
}

static int load_original(struct work *w, int sequence)
{
	int err = calib_spool_read(w->q->wanted, (size_t)sequence * w->q->heads + w->head, 1, w->wanted);

	return err ? err : calib_spool_read(w->q->own, kv_record(w, sequence), 1, w->own);
}

static size_t query_record(const struct work *w, int sequence, int row)
{
	return (size_t)sequence * w->used + row;
}

static int add_block(struct work *w, int sequence, const struct block *b, enum kind kind, double *sum, double *kl)
{
	size_t record = query_record(w, sequence, b->row);
	int err = calib_spool_read(kind == NEWTON_OPERATOR ? w->between : w->original, record, b->rows, w->p);

	if (err)
		return err;
	if (kind == DIVERGENCE) {
		score_turned(w, b, true, w->e);
		*kl += cross_entropy(w, b);
		return 0;
	}
	if (kind == NEWTON_RIGHT) {
		err = differ_in_weights(w, record, b);
	} else {
		if (kind == SQUARE_RIGHT)
			differ_in_scores(w, b);
		else
			score_turned(w, b, false, w->e);
		centre(w, b);
	}
	if (!err)
		add_back(w, b, sum);
	return err;
}

static int add_sequence(struct work *w, int sequence, enum kind kind, double *sum, double *kl)
{
	struct block block;
	int err = load_sequence(w, sequence);

	if (!err && kind == SQUARE_RIGHT)
		err = load_original(w, sequence);
	for (int row = 0; row < w->used && !err; row += block.rows) {
		block = block_at(w, row);
		err = add_block(w, sequence, &block, kind, sum, kl);
	}
	return err;
}

/* Sums over the fitted sequences; of KL, over the held ones. `matrix` is where they are taken, or what the Hessian is multiplied with. */
static int pass(struct work *w, enum kind kind, const double *matrix, double *sum, double *kl)
{
	enum calib_part part = kind == DIVERGENCE ? CALIB_HELD : CALIB_FITTED;
	size_t queries = 0;
	int err = calib_tell(w->q->progress, "compensating", w->q->done, w->q->total);

	for (int i = 0; i < w->dim * w->dim; i++)
		w->matrix[i] = (float)matrix[i];
	if (kind == DIVERGENCE)
		*kl = w->entropy;
	else
		memset(sum, 0, sizeof(*sum) * w->dim * w->dim);
	for (int s = 0; s < w->q->sequences && !err; s++) {
		if (calib_part_of(s, w->q->sequences) != part)
			continue;
		err = add_sequence(w, s, kind, sum, kl);
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
static int solve(struct work *w, enum kind kind, int iterations)
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
		err = pass(w, kind, w->d, w->ad, NULL);
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

/* C += R' Cov(k) R / d of one query, by its weights, which are the first row of p. */
static void add_covariance(struct work *w, int row, double *c)
{
	int dim = w->dim, first = first_key(w, row), last = position(w, row);
	float *mean = w->back;

	memset(mean, 0, sizeof(*mean) * dim);
	for (int s = first; s <= last; s++)
		for (int i = 0; i < dim; i++)
			mean[i] += w->p[s] * w->keys[(size_t)s * dim + i];
	for (int s = first; s <= last; s++) {
		float *to = w->weighted + (size_t)s * dim, root = sqrtf(w->p[s]) * w->scale;
		for (int i = 0; i < dim; i++)
			to[i] = root * (w->keys[(size_t)s * dim + i] - mean[i]);
		rotate(w, to, position(w, row), true);
	}
	add_products(w, w->weighted + (size_t)first * dim, w->weighted + (size_t)first * dim, last + 1 - first, c);
}

static int add_covariances(struct work *w, int sequence)
{
	int err = 0;

	for (int i = 1; i <= COVARIANCES && !err; i++) {
		int row = (int)((long)i * w->used / COVARIANCES) - (i * w->used >= COVARIANCES);
		err = calib_spool_read(w->original, query_record(w, sequence, row), 1, w->p);
		if (!err)
			add_covariance(w, row, w->inverse_c);
	}
	return err;
}

/* Once for each sequence: the original's weights, and for those that are held back their entropy. */
static int weigh_original(struct work *w, int sequence, enum calib_part part)
{
	struct block b;
	int err = load_original(w, sequence);

	for (int row = 0; row < w->used && !err; row += b.rows) {
		b = block_at(w, row);
		score_wanted(w, &b, w->p);
		softmax(w, &b, w->p);
		for (int t = 0; t < b.rows && part == CALIB_HELD; t++)
			for (int s = b.key; s < b.key + b.keys; s++) {
				double p = w->p[(size_t)t * w->tokens + s];
				w->entropy += p > 0 ? p * log(p) : 0;
			}
		err = calib_spool_write(w->original, query_record(w, sequence, row), b.rows, w->p);
	}
	return err;
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
		add_products(w, w->z, w->z, w->used, w->inverse_z);
		err = add_covariances(w, s);
		covariances += COVARIANCES;
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
	int err;

	memset(matrix, 0, sizeof(*matrix) * w->dim * w->dim);
	err = pass(w, SQUARE_RIGHT, matrix, w->right, NULL);
	if (!err)
		err = solve(w, SQUARE_OPERATOR, SQUARE_ITERATIONS);
	set_one(matrix, w->dim);
	if (!err)
		err = pass(w, DIVERGENCE, matrix, NULL, &out->before);
	if (!err)
		err = pass(w, DIVERGENCE, w->x, NULL, kl);
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
	int err = pass(w, NEWTON_RIGHT, matrix, w->right, NULL);

	*taken = false;
	for (size_t i = 0; i < count; i++)
		w->right[i] -= w->tau * matrix[i];
	if (!err)
		err = solve(w, NEWTON_OPERATOR, NEWTON_ITERATIONS);
	for (size_t l = 0; l < sizeof(lengths) / sizeof(*lengths) && !err && !*taken; l++) {
		double now;
		for (size_t i = 0; i < count; i++)
			w->trial[i] = matrix[i] + lengths[l] * w->x[i];
		err = pass(w, DIVERGENCE, w->trial, NULL, &now);
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

/* Called with NULL for the number of floats, and again to divide them. */
static size_t lay_out(struct work *w)
{
	size_t row = (size_t)w->used * w->dim, keys = (size_t)w->tokens * w->dim, block = (size_t)BLOCK * w->dim;
	size_t scores = (size_t)BLOCK * w->tokens, square = (size_t)w->dim * w->dim, at = 0;
	struct {
		float **array;
		size_t count;
	} arrays[] = {{&w->z, row}, {&w->wanted, row}, {&w->keys, keys}, {&w->own, keys}, {&w->weighted, keys},
		{&w->turned, block}, {&w->back, block}, {&w->p, scores}, {&w->changed, scores}, {&w->e, scores},
		{&w->matrix, square}, {&w->product, square}};

	for (size_t i = 0; i < sizeof(arrays) / sizeof(*arrays); at += arrays[i++].count)
		if (w->floats)
			*arrays[i].array = w->floats + at;
	return at;
}

/* -ENOMEM. Rows of a block are written to files whole, so what is beyond its keys is to be numbers. */
static int allocate(struct work *w)
{
	double **squares[] = {&w->inverse_c, &w->inverse_z, &w->right, &w->x, &w->r, &w->m, &w->d, &w->ad, &w->trial};
	size_t count = sizeof(squares) / sizeof(*squares), square = (size_t)w->dim * w->dim;

	w->floats = calloc(lay_out(w), sizeof(*w->floats));
	w->doubles = malloc(sizeof(*w->doubles) * square * count);
	if (!w->floats || !w->doubles)
		return kvs_fail(-ENOMEM, "no memory for the queries of %d tokens", w->tokens);
	lay_out(w);
	for (size_t i = 0; i < count; i++)
		*squares[i] = w->doubles + i * square;
	return 0;
}

int calib_queries_fit(const struct calib_queries *queries, int head, double *matrix, struct calib_query_result *out)
{
	struct work w = {.q = queries,
		.head = head,
		.used = queries->used,
		.tokens = queries->tokens,
		.dim = queries->head_dim,
		.window = queries->window,
		.scale = 1 / sqrtf(queries->head_dim)};
	int err = allocate(&w);

	*out = (struct calib_query_result){0};
	if (!err)
		err = calib_spool_open(w.tokens, &w.original);
	if (!err)
		err = calib_spool_open(w.tokens, &w.between);
	if (!err)
		err = fit(&w, matrix, out);
	calib_spool_close(w.original);
	calib_spool_close(w.between);
	free(w.doubles);
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
	while (tokens / queries->stride > CALIB_QUERIES_MOST && queries->stride < CALIB_QUERY_STRIDE_MOST &&
		queries->stride < queries->tokens)
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
