/* calib/measure.h: what the measures share. Private to calib/. */
#ifndef KVS_CALIB_MEASURE_H
#define KVS_CALIB_MEASURE_H

#include "calib.h"

#define KVS_COMPARED_ROWS 64 /* rows of logits that are held at a time */

/* 0, or -ECANCELED when the callback wants to stop; `progress` may be NULL. */
int kvs_tell(const struct kvs_calib_progress *progress, const char *what, size_t done, size_t total);
int kvs_not_a_number(const char *what); /* fails with -EIO */
/* JSON has neither NaN nor infinity: null stands for both, and for what was not measured. */
struct json_t *calib_json_number(double value);
/* Windows `first` and on as a batch of as many as go through together. */
struct kvs_batch kvs_window_batch(const kvs_engine *engine, const struct kvs_calib_text *text, int first);

/* A changed model against the unshared one, token by token over the windows (quality.c). */
struct kvs_comparison {
	kvs_engine *engine;
	const struct kvs_calib_text *text;
	const kvs_reference *reference;
	const struct kvs_calib_progress *progress;
	float *full, *changed; /* [KVS_COMPARED_ROWS][vocab] each, one allocation at full */
	double nll, kl;
	size_t tokens, agreed;
};
int kvs_comparison_begin(kvs_engine *engine, const struct kvs_calib_text *text, const kvs_reference *reference,
	const struct kvs_calib_progress *progress, struct kvs_comparison *out);
/* The next `rows` tokens, whose logits the caller has put into `changed`. -ECANCELED when the progress says so. */
int kvs_comparison_add(struct kvs_comparison *comparison, int rows);
/* Frees it. `err` is what went wrong so far, and is handed on; with 0 the result goes to *out. */
int kvs_comparison_end(struct kvs_comparison *comparison, int err, struct kvs_quality *out);

#endif
