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

enum { OPTION_TEXT = 512, OPTION_MAX_TOKENS, OPTION_POLICY };

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
	{"policy", OPTION_POLICY, RUN_POLICY_WORDS, 0,
		"owner (default): layers that share read their owner's K and V; last: each stores its own there, and "
		"all read "
		"what was stored last, token by token (or --chunk tokens at a time), as under `exec --policy last`",
		0},
	{0},
};

static error_t parse(int key, char *text, struct argp_state *state)
{
	struct env *env = state->input;

	switch (key) {
	case OPTION_POLICY:
		env->model.policy = run_parse_policy(state, text);
		return 0;
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
		if (env->model.policy == KVS_POLICY_LAST && !env->model.plan_path && !env->model.owners)
			argp_error(state, "--policy last says how layers share: name a plan with --plan or --owners");
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
	"  kvshare-run eval -m DIR --text heldout.txt --ctx 256 --owners 0,1,2,1\n"
	"  kvshare-run eval -m DIR --text heldout.txt --plan plan.json --policy last\n";

static int report(const struct env *env, struct run_session *session, const struct result *result, double seconds)
{
	struct kvs_engine_memory memory;
	double nll = result->nll_sum / result->predicted;
	int err = kvs_engine_memory(session->engine, &memory);

	if (err)
		return err;
	if (env->model.json)
		return run_print_json(json_pack("{s:f,s:o,s:I,s:i,s:s,s:f,s:o,s:o,s:o}", "nll", nll, "ppl",
			run_json_number(exp(nll)), "tokens", (json_int_t)result->predicted, "ctx",
			kvs_engine_ctx(session->engine), "policy", run_policy_name(env->model.policy), "seconds",
			seconds, "device", run_json_device(session->cu), "model",
			run_json_model(kvs_engine_config(session->engine)), "memory", run_json_memory(&memory)));
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
		err = run_score_windows(
			session->engine, ids, count, env->model.quiet, &result.nll_sum, &result.predicted);
	free(ids);
	return err ? err : report(env, session, &result, run_now_s() - start);
}

/* A window that goes through in one pass ends before anything of another layer is read. */
static int set_pass(struct run_model_options *model)
{
	if (!model->chunk_tokens)
		model->chunk_tokens = 1;
	if (model->chunk_tokens < model->ctx_tokens)
		return 0;
	return kvs_fail(-EINVAL,
		"--chunk %d with windows of %d tokens (--ctx): what the policy last costs shows in later passes only, "
		"so a chunk "
		"must be shorter than a window",
		model->chunk_tokens, model->ctx_tokens);
}

static int run_eval(struct env *env)
{
	struct run_session session;
	char *text;
	size_t bytes;
	int err = run_read_text(env->text, &text, &bytes);

	if (err)
		return err;
	err = run_default_window(&env->model);
	if (!err && env->model.policy == KVS_POLICY_LAST)
		err = set_pass(&env->model);
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
