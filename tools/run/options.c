/*
 * tools/run/options.c: the options that every command with a model takes.
 */
#include "run.h"

#include <errno.h>
#include <limits.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

enum {
	OPTION_DEVICE = 256,
	OPTION_CTX,
	OPTION_KV_DTYPE,
	OPTION_PLAN,
	OPTION_OWNERS,
	OPTION_JSON,
	OPTION_CHUNK,
	OPTION_NO_PREMAP
};

static const struct argp_option options[] = {
	{"model", 'm', "DIR", 0, "Hugging Face checkpoint directory (required)", 1},
	{"plan", OPTION_PLAN, "FILE", 0, "share layers as this plan says", 1},
	{"owners", OPTION_OWNERS, "LIST", 0, "share layers as listed: the owner of each layer's K and V, as in 0,1,2,1",
		1},
	{"device", OPTION_DEVICE, "DEVICE", 0,
		"auto (default), cuda, cuda:N or host; host runs the same kernels on the CPU", 1},
	{"ctx", OPTION_CTX, "TOKENS", 0, "room of the context (default: the model's, at most 4096)", 1},
	{"kv-dtype", OPTION_KV_DTYPE, "TYPE", 0, "type of K and V: f16, bf16 or f32 (default: the checkpoint's)", 1},
	{"chunk", OPTION_CHUNK, "TOKENS", 0,
		"run texts in pieces of this size (default 512; calibrate and study: 1024)", 1},
	{"no-premap", OPTION_NO_PREMAP, NULL, 0, "map memory only when it is needed, never ahead", 1},
	{"json", OPTION_JSON, NULL, 0, "print one JSON object on stdout, and nothing else there", 1},
	{"quiet", 'q', NULL, 0, "no progress, no summary", 1},
	{0},
};

long parse_number(struct argp_state *state, const char *option, const char *text, long low, long high)
{
	char *end;
	long value;

	errno = 0;
	value = strtol(text, &end, 10);
	if (errno || end == text || *end || value < low || value > high)
		argp_error(state, "%s is \"%s\": a whole number from %ld to %ld is wanted", option, text, low, high);
	return value;
}

double parse_real(struct argp_state *state, const char *option, const char *text)
{
	char *end;
	double value = strtod(text, &end);

	if (end == text || *end || !isfinite(value))
		argp_error(state, "%s is \"%s\": a number is wanted", option, text);
	return value;
}

int parse_word(struct argp_state *state, const char *option, const char *text, const char *const *words)
{
	int i = 0;

	while (words[i] && strcmp(words[i], text))
		i++;
	if (!words[i])
		argp_error(state, "%s is \"%s\": `%s --help` lists what it can be", option, text, state->name);
	return i;
}

static void parse_kv_dtype(struct argp_state *state, struct model_options *model, const char *text)
{
	if (kvs_dtype_parse(text, &model->kv_dtype) || model->kv_dtype == KVS_I32)
		argp_error(state, "--kv-dtype is \"%s\": f16, bf16 or f32 is wanted", text);
	model->kv_dtype_set = true;
}

static void check_options(struct argp_state *state, const struct model_options *model)
{
	if (!model->dir)
		argp_error(state, "which model? Name its directory with -m DIR");
	if (model->plan_path && model->owners)
		argp_error(state, "--plan and --owners both say who shares: give one of them");
}

static error_t parse(int key, char *text, struct argp_state *state)
{
	struct model_options *model = state->input;

	switch (key) {
	case 'm':
		model->dir = text;
		return 0;
	case 'q':
		model->quiet = true;
		return 0;
	case OPTION_PLAN:
		model->plan_path = text;
		return 0;
	case OPTION_OWNERS:
		model->owners = text;
		return 0;
	case OPTION_DEVICE:
		model->device = text;
		return 0;
	case OPTION_CTX:
		model->ctx_tokens = parse_number(state, "--ctx", text, 1, INT_MAX / 1024);
		return 0;
	case OPTION_CHUNK:
		model->chunk_tokens = parse_number(state, "--chunk", text, 1, 1 << 16);
		return 0;
	case OPTION_KV_DTYPE:
		parse_kv_dtype(state, model, text);
		return 0;
	case OPTION_NO_PREMAP:
		model->no_premap = true;
		return 0;
	case OPTION_JSON:
		model->json = true;
		return 0;
	case ARGP_KEY_END:
		check_options(state, model);
		return 0;
	}
	return ARGP_ERR_UNKNOWN;
}

const struct argp model_argp = {options, parse, NULL, NULL, NULL, NULL, NULL};
