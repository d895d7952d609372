/*
 * tools/run/text/eval.c: `kvshare-run eval` measures the loss of a model, and of a plan, on a text.
 *
 * The text's tokens are cut into windows of --ctx: window k predicts tokens k*ctx+1 .. k*ctx+ctx with an empty cache that
 * starts at token k*ctx. The loss is the mean over all predicted tokens, in nats.
 */
#include "../run.h"

#include <errno.h>
#include <limits.h>
#include <math.h>
#include <stdlib.h>

enum { OPTION_TEXT = 512, OPTION_MAX_TOKENS };

#define DEFAULT_WINDOW 1024

struct env {
	struct run_model_options model;
	const char *text;
	long max_tokens; /* 0: all */
};

struct result {
	double nll_sum;
	size_t predicted;
};

static const struct argp_option options[] = {
	{"text", OPTION_TEXT, "FILE", 0, "the text to predict (- for standard input; required)", 0},
	{"max-tokens", OPTION_MAX_TOKENS, "N", 0, "use only the first N tokens of the text", 0},
	{0},
};

static error_t parse(int key, char *text, struct argp_state *state)
{
	struct env *env = state->input;

	switch (key) {
	case ARGP_KEY_INIT:
		state->child_inputs[0] = state->child_inputs[1] = &env->model;
		return 0;
	case OPTION_TEXT:
		env->text = text;
		return 0;
	case OPTION_MAX_TOKENS:
		env->max_tokens = run_parse_number(state, "--max-tokens", text, 2, LONG_MAX);
		return 0;
	case ARGP_KEY_ARG:
		argp_error(state, "what is \"%s\"? The text goes behind --text", text);
		return 0;
	case ARGP_KEY_END:
		if (!env->text)
			argp_error(state, "which text? Name it with --text FILE");
		return 0;
	}
	return ARGP_ERR_UNKNOWN;
}

static const char doc[] =
	"Measure a model's mean next-token loss (nats) and perplexity on a text, with or without a sharing plan.\v"
	"The text is cut into windows of --ctx tokens (default 1024, or the model's "
	"context if that is less), each with an empty cache. The cost of a plan is the "
	"difference between two runs.\n\n"
	"Examples:\n"
	"  kvshare-run eval -m DIR --text heldout.txt --ctx 256\n"
	"  kvshare-run eval -m DIR --text heldout.txt --ctx 256 --owners 0,1,2,1\n";

static int score_windows(
	struct run_session *session, const int32_t *ids, size_t count, bool quiet, struct result *result)
{
	size_t ctx = kvs_engine_ctx(session->engine);
	float *nll = malloc(sizeof(*nll) * ctx);
	int err = nll ? 0 : kvs_fail(-ENOMEM, "no memory for a window of %zu tokens", ctx);

	for (size_t first = 0; first + 1 < count && !err; first += ctx) {
		size_t now = count - 1 - first < ctx ? count - 1 - first : ctx;
		err = kvs_engine_truncate(session->engine, 0, 0);
		if (!err)
			err = kvs_engine_score(session->engine, 0, ids + first, ids + first + 1, now, nll, NULL);
		for (size_t i = 0; i < now && !err; i++)
			result->nll_sum += nll[i];
		result->predicted += now;
		if (!quiet)
			run_progress_show("evaluating", first + now, count - 1);
	}
	run_progress_clear();
	free(nll);
	if (!err && !isfinite(result->nll_sum))
		err = kvs_fail(-EIO, "the loss is not a number: the model's weights may be damaged");
	return err;
}

static int report(const struct env *env, struct run_session *session, const struct result *result, double seconds)
{
	struct kvs_engine_memory memory;
	double nll = result->nll_sum / result->predicted;
	int err = kvs_engine_memory(session->engine, &memory);

	if (err)
		return err;
	if (env->model.json)
		return run_print_json(json_pack("{s:f,s:o,s:I,s:i,s:f,s:o,s:o,s:o}", "nll", nll, "ppl",
			run_json_number(exp(nll)), "tokens", (json_int_t)result->predicted, "ctx",
			kvs_engine_ctx(session->engine), "seconds", seconds, "device", run_json_device(session->cu),
			"model", run_json_model(kvs_engine_config(session->engine)), "memory",
			run_json_memory(&memory)));
	printf("nll %.6f  ppl %.4f  tokens %zu\n", nll, exp(nll), result->predicted);
	if (!env->model.quiet) {
		fprintf(stderr, "device    %s\n", session->cu->name);
		fprintf(stderr, "speed     %.1f tokens/s\n", result->predicted / seconds);
		run_print_memory_summary(&memory);
	}
	return 0;
}

static int evaluate(const struct env *env, struct run_session *session, const char *text, size_t bytes)
{
	int32_t *ids;
	size_t count;
	struct result result = {0};
	double start = run_now_s();
	int err = kvs_tokenizer_encode(session->tokenizer, text, bytes, true, &ids, &count);

	if (err)
		return err;
	if (env->max_tokens && (size_t)env->max_tokens < count)
		count = env->max_tokens;
	if (count < 2)
		err = kvs_fail(-EINVAL, "%s has %zu tokens: predicting takes at least 2", env->text, count);
	if (!err)
		err = score_windows(session, ids, count, env->model.quiet, &result);
	free(ids);
	return err ? err : report(env, session, &result, run_now_s() - start);
}

/* Without --ctx a window is the model's context, but no more than is common for comparing perplexities. */
static int default_window(struct run_model_options *model)
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

static int run_eval(struct env *env)
{
	struct run_session session;
	char *text;
	size_t bytes;
	int err = run_read_text(env->text, &text, &bytes);

	if (err)
		return err;
	err = default_window(&env->model);
	if (!err)
		err = run_session_open(&env->model, &session);
	if (!err) {
		err = evaluate(env, &session, text, bytes);
		run_session_close(&session);
	}
	free(text);
	return err;
}

static const struct argp_child children[] = {{&run_sharing_argp, 0, NULL, 0}, {&run_model_argp, 0, NULL, 0}, {0}};
static const struct argp argp = {options, parse, NULL, doc, children, NULL, NULL};

static int run_command(int argc, char **argv)
{
	struct env env = {0};

	argp_parse(&argp, argc, argv, 0, NULL, &env);
	return run_eval(&env) ? run_complain() : EXIT_SUCCESS;
}

const struct run_subcommand run_eval_command = {
	"eval", "mean next-token loss and perplexity on a text", &argp, run_command, NULL};
