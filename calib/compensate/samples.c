/*
 * calib/compensate/samples.c: the samples that matrices are fitted on where a search's are not what a fit needs.
 *
 * A search is content with a few short samples; matrices learn the text that they are fitted on, so they take more of it, in longer
 * runs, from all places.
 */
#include "../calib.h"

#include <errno.h>

/* A fit of a quarter of SmolLM2's layers to 16,384 tokens takes less than five minutes on two cores. */
#define SAMPLES 64
#define LEAST_SAMPLES 4
#define SAMPLE_TOKENS 256

int kvs_compensate_cut(const kvs_tokenizer *tok, const struct kvs_config *config, const char *bytes, size_t count,
	const struct kvs_calib_text_options *options, int samples, struct kvs_calib_text *out)
{
	struct kvs_calib_text_options cut = *options;
	int least = samples ? samples : LEAST_SAMPLES, err = -EINVAL;

	cut.by = KVS_SAMPLE_SPREAD;
	cut.sample_tokens = config->max_positions < SAMPLE_TOKENS ? config->max_positions : SAMPLE_TOKENS;
	cut.need_held = true;
	for (cut.samples = samples ? samples : SAMPLES; cut.samples >= least && err == -EINVAL; cut.samples /= 2)
		err = kvs_calib_text_cut(tok, bytes, count, &cut, out);
	if (err == -EINVAL && samples)
		return kvs_fail(-EINVAL,
			"the text has no room for %d samples of %d tokens to fit on, and for text between them to "
			"measure on: "
			"give more text, or fewer --fit-samples",
			samples, cut.sample_tokens);
	return err;
}
