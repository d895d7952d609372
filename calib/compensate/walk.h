/*
 * calib/compensate/walk.h: two models side by side, layer by layer: the original and the compensated one. Private to
 * calib/compensate/.
 */
#ifndef CALIB_WALK_H
#define CALIB_WALK_H

#include "../measure.h"
#include "queries.h"
#include "spool.h"

struct calib_walk {
	kvs_engine *engine;
	const struct kvs_calib_text *text;
	const kvs_plan *plan;
	const struct kvs_calib_progress *progress;
	size_t done, total; /* samples in passes */
	int layers, hidden, heads_dim, kv_dim, ff;
	/*
	 * Pairs: the plan changes from one layer to the next, and every layer sees the original's residual: `compensated` is a
	 * copy of what is in front of the layer that was run last. K and V of all layers are kept.
	 */
	bool pairs;
	int first;              /* the first layer that borrows; below it the two models are one */
	struct kvs_batch batch; /* that is in the buffers */
	/* A record for each token; the original's residual is in front of the next layer, the others at the present one. */
	struct calib_spool *original, *middle, *compensated;
	struct calib_spool *next; /* behind the present layer, if it `ended` with the matrices that it has */
	bool ended;
	struct calib_spool *kv;            /* [2 * owner + is_v][token]: of layers that are read */
	float *residual, *reached, *other; /* [rows][hidden]: of the batch */
	float *end;                        /* [rows][hidden]: behind the layer */
	float *normed;                     /* [rows][hidden] */
	float *attended, *gated;           /* [rows][heads_dim], [rows][ff] */
	float *k, *v;                      /* [rows][kv_dim] */
	float *sequence;                   /* [tokens][heads_dim or kv_dim], of one head after the other */
	float *rotations;
};

int calib_walk_open(struct calib_walk *walk); /* -ENOMEM, -EIO; close it in any case */
void calib_walk_close(struct calib_walk *walk);

/*
 * The original model's layer, on all samples: its residual moves up, `middle` is what is behind the attention. With
 * `queries`, its rotated queries and keys go into their spools. Layers are run in order.
 */
int calib_walk_original(struct calib_walk *walk, int layer, const struct calib_queries *queries);

/* What one pass of the compensated model hands to its caller, batch by batch. */
struct calib_rows {
	enum calib_part part;
	int rows;
	const float *before;   /* [rows][hidden]: in front of the layer */
	const float *reached;  /* [rows][hidden]: behind its attention (CALIB_AT_GATED only) */
	const float *target;   /* [rows][hidden]: the original's behind the attention, or behind the layer */
	const float *attended; /* [rows][heads_dim] */
	const float *gated;    /* [rows][ff] */
	const float *normed;   /* [rows][hidden]: what W_q takes (CALIB_AT_ATTENDED only) */
};
enum calib_at { CALIB_AT_QUERIES, CALIB_AT_ATTENDED, CALIB_AT_GATED, CALIB_AT_END };
/*
 * The compensated model's layer, as far as `at`. At the queries: they go into the spools of `queries`, without bias and
 * rotation, with the owner's keys. At the end: its residual moves up. Else `take` gets the rows of each sequence. At the
 * activations the layer is run to its end as well, and has `ended`: whoever replaces its W_down clears that, and runs it
 * again; else calib_walk_step() is as good.
 */
int calib_walk_compensated(struct calib_walk *walk, int layer, enum calib_at at, const struct calib_queries *queries,
	void (*take)(void *arg, const struct calib_rows *rows), void *arg);
/* Behind a layer that has `ended`: its residual moves up. */
void calib_walk_step(struct calib_walk *walk);

/*
 * With `pairs`: the layer and all above it on one sample, and what comes out of the last: `residual` of the walk, [tokens][hidden].
 */
int calib_walk_above(struct calib_walk *walk, int layer, int sample);

static inline bool calib_borrows(const kvs_plan *plan, int layer)
{
	return kvs_plan_owner(plan, layer, KVS_K) != layer || kvs_plan_owner(plan, layer, KVS_V) != layer;
}

#endif
