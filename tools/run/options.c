/*
 * tools/run/options.c: the options that commands with a model share, and parsers for values.
 */
#include "run.h"

#include <errno.h>
#include <limits.h>
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
	OPTION_NO_PREMAP,
	OPTION_THREADS,
	OPTION_PROFILE
};

/* In help, a command's own options come first. */
enum { SHARING_GROUP = 10, MODEL_GROUP };

static const struct argp_option options[] = {
	{NULL, 0, NULL, 0, "Model and device:", MODEL_GROUP},
	{"model", 'm', "DIR", 0, "Hugging Face checkpoint directory, or a GGUF file (required)", MODEL_GROUP},
	{"device", OPTION_DEVICE, RUN_DEVICE_WORDS, 0, RUN_DEVICE_HELP, MODEL_GROUP},
	{"ctx", OPTION_CTX, "TOKENS", 0,
		"size of the context (default: the model's, at most 4096; eval and compare: 1024; calibrate and study: "
		"256)",
		MODEL_GROUP},
	{"kv-dtype", OPTION_KV_DTYPE, "f16|bf16|f32", 0, "type of K and V (default: the checkpoint's)", MODEL_GROUP},
	{"chunk", OPTION_CHUNK, "TOKENS", 0,
		"run texts in chunks of this size (default 512; calibrate and study: 1024; eval and calibrate with "
		"--policy last: 1)",
		MODEL_GROUP},
	{"no-premap", OPTION_NO_PREMAP, NULL, 0, "map memory only when it is needed, not ahead of time", MODEL_GROUP},
	{"threads", OPTION_THREADS, "N", 0, "on the host device: work on N threads (default: one for each processor)",
		MODEL_GROUP},
	{"profile", OPTION_PROFILE, "TRACE", 0,
		"record every driver call and the use of memory; `kvshare-run report TRACE` explains it", MODEL_GROUP},
	{"json", OPTION_JSON, NULL, 0, "print one JSON object to stdout, and nothing else", MODEL_GROUP},
	{"quiet", 'q', NULL, 0, "show no progress and no summary", MODEL_GROUP},
	{0},
};

static const struct argp_option sharing_options[] = {
	{NULL, 0, NULL, 0, "Sharing:", SHARING_GROUP},
	{"plan", OPTION_PLAN, "FILE", 0, "share layers as this plan describes", SHARING_GROUP},
	{"owners", OPTION_OWNERS, "LIST", 0, "share layers as listed: the owner of each layer's K and V, as in 0,1,2,1",
		SHARING_GROUP},
	{0},
};

long run_parse_number(struct argp_state *state, const char *option, const char *text, long low, long high)
{
	char *end;
	long value;

	errno = 0;
	value = strtol(text, &end, 10);
	if (errno || end == text || *end || value < low || value > high)
		argp_error(state, "%s is \"%s\": a whole number from %ld to %ld is expected", option, text, low, high);
	return value;
}

double run_parse_real(
	struct argp_state *state, const char *option, const char *text, double low, double high, const char *legal)
{
	char *end;
	double value = strtod(text, &end);

	if (end == text || *end || !(value >= low && value <= high))
		argp_error(state, "%s is \"%s\": a number %s is expected", option, text, legal);
	return value;
}

/* "f16, bf16 or f32" */
static void list_words(const char *const *words, char *out, size_t bytes)
{
	size_t used = 0;

	*out = 0;
	for (int i = 0; words[i] && used < bytes; i++)
		used += snprintf(out + used, bytes - used, "%s%s", !i ? "" : words[i + 1] ? ", " : " or ", words[i]);
}

int run_parse_word(struct argp_state *state, const char *option, const char *text, const char *const *words)
{
	char list[256];
	int i = 0;

	while (words[i] && strcmp(words[i], text))
		i++;
	list_words(words, list, sizeof(list));
	if (!words[i])
		argp_error(state, "%s is \"%s\": %s is expected", option, text, list);
	return i;
}

const char *run_parse_device(struct argp_state *state, const char *text)
{
	const char *number = text + strlen("cuda:");

	if (strcmp(text, "auto") && strcmp(text, "cuda") && strcmp(text, "host") &&
		(strncmp(text, "cuda:", strlen("cuda:")) || !*number || number[strspn(number, "0123456789")]))
		argp_error(state, "--device is \"%s\": auto, cuda, cuda:N or host is expected", text);
	return text;
}

const char *run_parse_owners(struct argp_state *state, const char *text)
{
	kvs_plan *plan;
	int err = kvs_plan_parse(text, &plan);

	if (err == -EINVAL)
		argp_error(state, "--%s", kvs_error()); /* "owners: character 3 ..." */
	if (!err)
		kvs_plan_free(plan);
	return text; /* out of memory: reported when the list is used */
}

enum kvs_dtype run_parse_dtype(struct argp_state *state, const char *option, const char *text)
{
	static const char *const words[] = {"f16", "bf16", "f32", NULL};
	enum kvs_dtype dtype = KVS_F32;

	run_parse_word(state, option, text, words);
	kvs_dtype_parse(text, &dtype);
	return dtype;
}

static void parse_kv_dtype(struct argp_state *state, struct run_model_options *model, const char *text)
{
	model->kv_dtype = run_parse_dtype(state, "--kv-dtype", text);
	model->kv_dtype_set = true;
}

static error_t parse(int key, char *text, struct argp_state *state)
{
	struct run_model_options *model = state->input;

	switch (key) {
	case 'm':
		model->dir = text;
		return 0;
	case 'q':
		model->quiet = true;
		return 0;
	case OPTION_DEVICE:
		model->device = run_parse_device(state, text);
		return 0;
	case OPTION_CTX:
		model->ctx_tokens = run_parse_number(state, "--ctx", text, 1, INT_MAX / 1024);
		return 0;
	case OPTION_CHUNK:
		model->chunk_tokens = run_parse_number(state, "--chunk", text, 1, 1 << 16);
		return 0;
	case OPTION_KV_DTYPE:
		parse_kv_dtype(state, model, text);
		return 0;
	case OPTION_NO_PREMAP:
		model->no_premap = true;
		return 0;
	case OPTION_THREADS:
		model->threads = run_parse_number(state, "--threads", text, 1, RUN_THREADS_MAX);
		return 0;
	case OPTION_PROFILE:
		model->profile_path = text;
		return 0;
	case OPTION_JSON:
		model->json = true;
		return 0;
	case ARGP_KEY_END:
		if (!model->dir)
			argp_error(state, "which model? Name its directory with -m DIR");
		return 0;
	}
	return ARGP_ERR_UNKNOWN;
}

const struct argp run_model_argp = {options, parse, NULL, NULL, NULL, NULL, NULL};

static error_t parse_sharing(int key, char *text, struct argp_state *state)
{
	struct run_model_options *model = state->input;

	switch (key) {
	case OPTION_PLAN:
		model->plan_path = text;
		return 0;
	case OPTION_OWNERS:
		model->owners = run_parse_owners(state, text);
		return 0;
	case ARGP_KEY_END:
		if (model->plan_path && model->owners)
			argp_error(state, "--plan and --owners both say who shares: give one of them");
		return 0;
	}
	return ARGP_ERR_UNKNOWN;
}

const struct argp run_sharing_argp = {sharing_options, parse_sharing, NULL, NULL, NULL, NULL, NULL};
