/*
 * calib/compensate/samples.c: the samples that matrices are fitted on where a search's are not what a fit needs.
 *
 * A search is content with a few short samples; matrices learn the text that they are fitted on, so they take more of it, in longer
 * runs, from all places.
 */
#include "../calib.h"

#include <errno.h>

#define SAMPLE_TOKENS 1024 /* where a number is asked for, and no length */

/*
 * The first for which there is room. Long samples are better than many: what is far back is in them too, and on windows of 256
 * tokens of SmolLM2 they leave less loss as well. With the first a quarter of its layers takes less than five minutes on two cores.
 */
static const struct {
	int samples, tokens;
} usual[] = {{16, SAMPLE_TOKENS}, {8, SAMPLE_TOKENS}, {4, SAMPLE_TOKENS}, {8, 256}, {4, 256}};

static int that_fit(const struct kvs_config *config, int tokens)
{
	return config->max_positions < tokens ? config->max_positions : tokens;
}

static int cut(const kvs_tokenizer *tok, const struct kvs_config *config, const char *bytes, size_t count,
	const struct kvs_calib_text_options *options, int samples, int tokens, struct kvs_calib_text *out)
{
	struct kvs_calib_text_options spread = *options;

	spread.by = KVS_SAMPLE_SPREAD;
	spread.samples = samples;
	spread.sample_tokens = that_fit(config, tokens);
	spread.need_held = true;
	return kvs_calib_text_cut(tok, bytes, count, &spread, out);
}

int kvs_compensate_cut(const kvs_tokenizer *tok, const struct kvs_config *config, const char *bytes, size_t count,
	const struct kvs_calib_text_options *options, struct kvs_fit_samples fit, struct kvs_calib_text *out)
{
	int tokens = fit.tokens ? fit.tokens : SAMPLE_TOKENS, err = -EINVAL;

	if (fit.count)
		err = cut(tok, config, bytes, count, options, fit.count, tokens, out);
	for (size_t i = 0; !fit.count && i < sizeof(usual) / sizeof(*usual) && err == -EINVAL; i++)
		err = cut(tok, config, bytes, count, options, usual[i].samples, usual[i].tokens, out);
	if (err == -EINVAL && fit.count)
		return kvs_fail(-EINVAL,
			"the text has no room for %d samples of %d tokens to fit on, and for text between them to "
			"measure on: give more text, or fewer or shorter --fit-samples",
			fit.count, that_fit(config, tokens));
	return err;
}
