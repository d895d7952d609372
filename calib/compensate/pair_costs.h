/*
 * calib/compensate/pair_costs.h: what is left of a pair's damage when W_q and W_o of its layer are refitted for it alone. Private to
 * calib/.
 */
#ifndef CALIB_COMPENSATE_PAIR_COSTS_H
#define CALIB_COMPENSATE_PAIR_COSTS_H

#include "../calib.h"

#define CALIB_PAIR_TOKENS 2048 /* of the samples, to fit on and to hold back */

struct calib_pairs;

/* Whether a text has samples enough. -EINVAL has the number. */
int calib_pairs_check(const struct kvs_calib_text *text);
/*
 * Samples of `text` at even distances are fitted on, about 2,048 tokens; a quarter of them is held back for both figures.
 * The engine holds the checkpoint's own matrices, and holds them again after each call. -EINVAL (too few samples), -ENODEV,
 * -ENOMEM, -EIO, -ECANCELED.
 */
int calib_pairs_open(kvs_engine *engine, const kvs_checkpoint *ckpt, const struct kvs_calib_text *text,
	const struct kvs_calib_progress *progress, struct calib_pairs **out);
void calib_pairs_close(struct calib_pairs *pairs);
/* Progress is told with these figures from now on. */
void calib_pairs_at(struct calib_pairs *pairs, size_t done, size_t total);
/* Fits `layer` to read `owner`; layers ascend. *left: the error of the residual behind the attention, of the attention's own part. */
int calib_pairs_try(struct calib_pairs *pairs, int layer, int owner, double *left);
/* The mean KL(original || with this pair and its matrices) of the held tokens. The pair is fitted if it was not the layer's best. */
int calib_pairs_measure(struct calib_pairs *pairs, int layer, int owner, double *kl);

#endif
