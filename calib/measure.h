/*
 * calib/measure.h: what the measures have in common: progress, batches, a comparison with the unshared model. Private
 * to calib/.
 */
#ifndef CALIB_MEASURE_H
#define CALIB_MEASURE_H

#include "calib.h"

#define CALIB_COMPARED_ROWS                                                                                            \
	64 /* rows of logits that are held at a time: with 128 Ki tokens in the vocabulary, 2 x 32 MiB */

/* 0, or -ECANCELED if the callback asks to stop; `progress` may be NULL. */
int calib_tell(const struct kvs_calib_progress *progress, const char *what, size_t done, size_t total);
int calib_not_a_number(const char *what); /* fails with -EIO */
/* JSON has neither NaN nor infinity: null stands for both, and so for figures that were not measured. */
struct json_t *calib_json_number(double value);
#define CALIB_DIGEST 17
void calib_digest(const void *data, size_t bytes, char digest[CALIB_DIGEST]); /* FNV-1a 64 in hex */
void calib_digest_pieces(
	const struct iovec *pieces, size_t count, char digest[CALIB_DIGEST]); /* of all, one behind the other */
/* What was cut from which text, as an object. NULL: no memory. */
struct json_t *calib_text_settings(const struct kvs_calib_text *text);
/* What a plan says of its search, as `calibration`; NULL: nothing (or no memory). The caller's. */
struct json_t *calib_plan_record(const kvs_plan *plan);
/*
 * Whether all that is in `now` is the same in `then`. -EINVAL: "`what` cannot be resumed: its KEY is ..., `ours` is ...", as in "the
 * plan's search", "this search's".
 */
int calib_settings_check(const struct json_t *now, const struct json_t *then, const char *what, const char *ours);
/*
 * Whether the paper's walks keep the samples' state, to rerun upper layers only: where it is small. They run over the default
 * samples, 1,920 tokens, many times; a long text is there to be fitted on (compensate/), and has room for a batch at a time.
 */
#define CALIB_RERUN_SAMPLE_TOKENS 4096
static inline bool calib_samples_are_rerun(const struct kvs_calib_text *text)
{
	return (int64_t)text->samples * text->sample_tokens <= CALIB_RERUN_SAMPLE_TOKENS;
}
/* A batch of the windows from `first` on, as many as the engine takes at a time. */
struct kvs_batch calib_window_batch(const kvs_engine *engine, const struct kvs_calib_text *text, int first);

/* Of a row of logits: the log of the sum of their exponentials (quality.c). */
double calib_log_sum(const float *logits, int vocab);

/* A changed model compared with the unshared one, token by token over the windows (quality.c). */
struct calib_comparison {
	kvs_engine *engine;
	const struct kvs_calib_text *text;
	const kvs_reference *reference;
	const struct kvs_calib_progress *progress;
	float *full, *changed; /* [CALIB_COMPARED_ROWS][vocab] each, one allocation at `full` */
	double nll, kl;
	size_t tokens, agreed;
};
int calib_comparison_begin(kvs_engine *engine, const struct kvs_calib_text *text, const kvs_reference *reference,
	const struct kvs_calib_progress *progress, struct calib_comparison *out);
/*
 * Takes the next `rows` tokens, whose logits the caller has put into `changed`. -ECANCELED if `progress` asks to stop.
 */
int calib_comparison_add(struct calib_comparison *comparison, int rows);
/* Frees the comparison. An `err` of the caller's is handed on; if it is 0, the result goes to *out. */
int calib_comparison_end(struct calib_comparison *comparison, int err, struct kvs_quality *out);

#endif
