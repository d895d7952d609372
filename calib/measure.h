/* calib/measure.h: what the measures share. Private to calib/. */
#ifndef CALIB_MEASURE_H
#define CALIB_MEASURE_H

#include "calib.h"

#define CALIB_COMPARED_ROWS 64 /* rows of logits that are held at a time */

/* 0, or -ECANCELED when the callback wants to stop; `progress` may be NULL. */
int calib_tell(const struct kvs_calib_progress *progress, const char *what, size_t done, size_t total);
int calib_not_a_number(const char *what); /* fails with -EIO */
/* JSON has neither NaN nor infinity: null stands for both, and for what was not measured. */
struct json_t *calib_json_number(double value);
/* Windows `first` and on as a batch of as many as go through together. */
struct kvs_batch calib_window_batch(const kvs_engine *engine, const struct kvs_calib_text *text, int first);

/* A changed model against the unshared one, token by token over the windows (quality.c). */
struct calib_comparison {
	kvs_engine *engine;
	const struct kvs_calib_text *text;
	const kvs_reference *reference;
	const struct kvs_calib_progress *progress;
	float *full, *changed; /* [CALIB_COMPARED_ROWS][vocab] each, one allocation at full */
	double nll, kl;
	size_t tokens, agreed;
};
int calib_comparison_begin(kvs_engine *engine, const struct kvs_calib_text *text, const kvs_reference *reference,
	const struct kvs_calib_progress *progress, struct calib_comparison *out);
/* The next `rows` tokens, whose logits the caller has put into `changed`. -ECANCELED when the progress says so. */
int calib_comparison_add(struct calib_comparison *comparison, int rows);
/* Frees it. `err` is what went wrong so far, and is handed on; with 0 the result goes to *out. */
int calib_comparison_end(struct calib_comparison *comparison, int err, struct kvs_quality *out);

#endif
