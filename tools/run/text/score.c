/*
 * tools/run/text/score.c: the loss on a text, as eval and compare measure it: in windows of a context, each from a fresh cache.
 */
#include "../run.h"

#include <errno.h>
#include <math.h>
#include <stdlib.h>

#define DEFAULT_WINDOW 1024

int run_score_windows(
	kvs_engine *engine, const int32_t *ids, size_t count, bool quiet, double *nll_sum, size_t *predicted)
{
	size_t ctx = kvs_engine_ctx(engine);
	float *nll = malloc(sizeof(*nll) * ctx);
	int err = nll ? 0 : kvs_fail(-ENOMEM, "no memory for a window of %zu tokens", ctx);

	*nll_sum = 0;
	*predicted = 0;
	for (size_t first = 0; first + 1 < count && !err; first += ctx) {
		size_t now = count - 1 - first < ctx ? count - 1 - first : ctx;
		err = kvs_engine_truncate(engine, 0, 0);
		if (!err)
			err = kvs_engine_score(engine, 0, ids + first, ids + first + 1, now, nll, NULL);
		for (size_t i = 0; i < now && !err; i++)
			*nll_sum += nll[i];
		*predicted += now;
		if (!quiet)
			run_progress_show("evaluating", "", first + now, count - 1);
	}
	run_progress_clear();
	free(nll);
	if (!err && !isfinite(*nll_sum))
		err = kvs_fail(-EIO, "the loss is not a number: the model's weights may be damaged");
	return err;
}

int run_default_window(struct run_model_options *model)
{
	kvs_checkpoint *ckpt;
	int err;

	if (model->ctx_tokens)
		return 0;
	err = kvs_checkpoint_open(model->dir, &ckpt);
	if (err)
		return err;
	model->ctx_tokens = kvs_checkpoint_config(ckpt)->max_positions;
	if (model->ctx_tokens > DEFAULT_WINDOW)
		model->ctx_tokens = DEFAULT_WINDOW;
	kvs_checkpoint_close(ckpt);
	return 0;
}
