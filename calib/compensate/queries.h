/*
 * calib/compensate/queries.h: a matrix for each head that turns a borrower's queries to its owner's keys. Private to
 * calib/compensate/.
 */
#ifndef CALIB_QUERIES_H
#define CALIB_QUERIES_H

#include "../measure.h"
#include "lapack.h"
#include "ridge.h"
#include "spool.h"

/* One query in so many is fitted on: the third, sixth, ... of a sequence. Of long texts, whose queries cost all their keys, fewer. */
#define CALIB_QUERY_STRIDE 3
#define CALIB_QUERY_STRIDE_MOST 6
#define CALIB_QUERIES_MOST 3072 /* of a head, with a stride below the most */

/* Every fourth sequence is held back from the fit; of fewer, the last. */
static inline enum calib_part calib_part_of(int sequence, int sequences)
{
	return sequence % 4 == 3 || (sequences < 4 && sequence == sequences - 1) ? CALIB_HELD : CALIB_FITTED;
}

struct calib_queries {
	struct calib_lapack *lapack;
	const struct kvs_calib_progress *progress;
	size_t done, total; /* for the progress, which stands still meanwhile */
	int sequences, tokens, heads, kv_heads, head_dim, window;
	int steps;              /* of Newton's method, at most */
	int stride, used;       /* every so manieth token has a query that is fitted on; of a sequence */
	const float *rotations; /* [tokens][head_dim]: as kvs_engine_rotations() */
	const float *bias;      /* [heads * head_dim] of the projection, or NULL */
	/* Records [used][head_dim] of a sequence and a head, in that order; [tokens][head_dim] of a sequence and a KV head. */
	struct calib_spool *before; /* queries of the compensated stream, before bias and rotation */
	struct calib_spool *wanted; /* the original's, rotated */
	struct calib_spool *keys;   /* the owner's, rotated */
	struct calib_spool *own;    /* the original's, rotated */
};

/*
 * Takes the sizes from the model and the samples, and opens the records, which the caller fills; the other fields are the
 * caller's. Close in any case. -ENOMEM, -EIO.
 */
int calib_queries_open(
	struct calib_queries *queries, const struct kvs_config *config, const struct kvs_calib_text *text);
void calib_queries_close(struct calib_queries *queries);

struct calib_query_result {
	bool better;          /* on the held sequences; if not, the matrix is one */
	double before, after; /* mean KL(original || this head's attention) of the held sequences, nats */
};
/*
 * The matrix [head_dim][head_dim] of one head, to be put in front of its rows of W_q. -EIO (singular, or not numbers; the
 * spools), -ENOMEM, -ECANCELED.
 */
int calib_queries_fit(const struct calib_queries *queries, int head, double *matrix, struct calib_query_result *out);
/* All heads, [heads] of each, on several threads (heads.c). Errors as above; the progress is told on the caller's thread. */
int calib_queries_fit_all(const struct calib_queries *queries, double *matrices, struct calib_query_result *results);

#endif
