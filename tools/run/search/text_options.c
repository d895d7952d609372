/*
 * tools/run/search/text_options.c: the options of calibrate and study for cutting a text into samples.
 */
#include "../../../calib/calib.h"
#include "../run.h"

#include <stdio.h>

enum { OPTION_SAMPLES = 768, OPTION_SAMPLE_TOKENS, OPTION_SAMPLE_BY, OPTION_HELD_TOKENS, OPTION_PLAN, OPTION_OWNERS };

static const struct argp_option options[] = {
	{NULL, 0, NULL, 0, "Cutting the text:", 2},
	{"samples", OPTION_SAMPLES, "N", 0,
		"number of samples that the search uses (default 30; of --method refit, without any of these three "
		"options, 8 of 256 tokens, spread)",
		2},
	{"sample-tokens", OPTION_SAMPLE_TOKENS, "N", 0, "length of a sample (default 64)", 2},
	{"sample-by", OPTION_SAMPLE_BY, "run|line|spread", 0,
		"run (default): consecutive tokens; line: lines cut to that length, shorter ones skipped; spread: runs "
		"at even distances over the whole text, with those on which loss is measured between them",
		2},
	{"held-tokens", OPTION_HELD_TOKENS, "N", 0,
		"tokens after the samples on which loss is measured (default 1024), in windows of --ctx (256)", 2},
	{"plan", OPTION_PLAN, "FILE", OPTION_HIDDEN, NULL, 0}, /* refused, with a reason */
	{"owners", OPTION_OWNERS, "LIST", OPTION_HIDDEN, NULL, 0},
	{0},
};

struct kvs_fit_samples run_parse_fit_samples(struct argp_state *state, const char *text)
{
	struct kvs_fit_samples fit = {0};
	char end, x;
	int found = sscanf(text, "%9d%c%9d%c", &fit.count, &x, &fit.tokens, &end);

	if ((found != 1 && (found != 3 || x != 'x' || fit.tokens < 2)) || fit.count < 2 || fit.count > 1 << 16 ||
		fit.tokens > 1 << 16)
		argp_error(state,
			"--fit-samples is \"%s\": a number from 2 to 65536 is expected, as in 16, or with a length, as "
			"in 64x256",
			text);
	return fit;
}

static error_t parse(int key, char *text, struct argp_state *state)
{
	static const char *const units[] = {"run", "line", "spread", NULL};
	struct kvs_calib_text_options *cut = state->input;

	switch (key) {
	case OPTION_SAMPLES:
		cut->samples = run_parse_number(state, "--samples", text, 1, 1 << 20);
		return 0;
	case OPTION_SAMPLE_TOKENS:
		cut->sample_tokens = run_parse_number(state, "--sample-tokens", text, 2, 1 << 16);
		return 0;
	case OPTION_SAMPLE_BY:
		cut->by = run_parse_word(state, "--sample-by", text, units);
		if (!cut->samples) /* a fit cuts its text otherwise where nobody says how */
			cut->samples = KVS_CALIB_SAMPLES;
		return 0;
	case OPTION_PLAN:
	case OPTION_OWNERS:
		argp_error(state, "plans are found here, not given: --plan and --owners belong to generate and eval");
		return 0;
	case OPTION_HELD_TOKENS:
		cut->held_tokens = run_parse_number(state, "--held-tokens", text, 16, 1 << 24);
		return 0;
	}
	return ARGP_ERR_UNKNOWN;
}

const struct argp run_text_argp = {options, parse, NULL, NULL, NULL, NULL, NULL};
