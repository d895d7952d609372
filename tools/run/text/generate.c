/*
 * tools/run/text/generate.c: `kvshare-run generate` continues a text.
 */
#include "../run.h"

#include <errno.h>
#include <float.h>
#include <limits.h>
#include <stdlib.h>
#include <string.h>

enum {
	OPTION_TEMPERATURE = 512,
	OPTION_TOP_K,
	OPTION_TOP_P,
	OPTION_SEED,
	OPTION_IGNORE_EOS,
	OPTION_CHAT,
	OPTION_SYSTEM
};

struct env {
	struct run_model_options model;
	const char *prompt, *prompt_file, *system;
	bool chat;
	int count; /* tokens to generate at most */
	bool ignore_eos;
	struct kvs_sampling sampling;
};

/* One run: its ids, their text, and its times. */
struct run {
	const struct env *env;
	struct run_session session;
	kvs_chat *chat;   /* NULL: the prompt is text to continue */
	int32_t chat_end; /* the token that ends an answer; -1: none but those of the checkpoint */
	int32_t *prompt;
	size_t prompt_count;
	int32_t *ids; /* [env->count] */
	int count;
	char *text;
	size_t text_bytes;
	double *token_s; /* [env->count] time between one token and the next */
	double prefill_s, decode_s;
	enum stop { STOP_LENGTH, STOP_EOS, STOP_CONTEXT } stop; /* the reason for the end */
};

static const struct argp_option options[] = {
	{"prompt", 'p', "TEXT", 0, "the text to continue", 0},
	{"file", 'f', "FILE", 0, "read the prompt from FILE (- for standard input)", 0},
	{"tokens", 'n', "N", 0, "generate at most N tokens (default 128)", 0},
	{"chat", OPTION_CHAT, NULL, 0, "the prompt is a message to answer: apply the checkpoint's chat template", 0},
	{"system", OPTION_SYSTEM, "TEXT", 0, "with --chat, a system message (default: the template's, if it has one)",
		0},
	{NULL, 0, NULL, 0, "Sampling:", 2},
	{"temperature", OPTION_TEMPERATURE, "T", 0, "sample at temperature T (default 0: the likeliest token)", 2},
	{"top-k", OPTION_TOP_K, "K", 0, "sample from the K likeliest tokens (default 0: all)", 2},
	{"top-p", OPTION_TOP_P, "P", 0,
		"sample from the likeliest tokens whose probabilities add up to P (default 1: all)", 2},
	{"seed", OPTION_SEED, "N", 0, "seed of the sampling (default 0)", 2},
	{"ignore-eos", OPTION_IGNORE_EOS, NULL, 0, "continue after an end-of-text token", 2},
	{0},
};

static error_t parse(int key, char *text, struct argp_state *state)
{
	struct env *env = state->input;

	switch (key) {
	case ARGP_KEY_INIT:
		state->child_inputs[0] = state->child_inputs[1] = &env->model;
		return 0;
	case 'p':
		env->prompt = text;
		return 0;
	case 'f':
		env->prompt_file = text;
		return 0;
	case 'n':
		env->count = run_parse_number(state, "-n", text, 0, INT_MAX / 64);
		return 0;
	case OPTION_TEMPERATURE:
		env->sampling.temperature =
			run_parse_real(state, "--temperature", text, 0, 1000, "from 0 (the likeliest token) to 1000");
		return 0;
	case OPTION_TOP_K:
		env->sampling.top_k = run_parse_number(state, "--top-k", text, 0, INT_MAX);
		return 0;
	case OPTION_TOP_P:
		env->sampling.top_p =
			run_parse_real(state, "--top-p", text, DBL_MIN, 1, "above 0 and at most 1 (all tokens)");
		return 0;
	case OPTION_SEED:
		env->sampling.seed = run_parse_number(state, "--seed", text, 0, LONG_MAX);
		return 0;
	case OPTION_CHAT:
		env->chat = true;
		return 0;
	case OPTION_SYSTEM:
		env->system = text;
		return 0;
	case OPTION_IGNORE_EOS:
		env->ignore_eos = true;
		return 0;
	case ARGP_KEY_ARG:
		argp_error(state, "what is \"%s\"? A prompt goes behind -p, in quotes", text);
		return 0;
	case ARGP_KEY_END:
		if (!env->prompt == !env->prompt_file)
			argp_error(state, "give the prompt with -p TEXT or with -f FILE");
		if (env->system && !env->chat)
			argp_error(state, "--system is a part of a conversation: give --chat too");
		return 0;
	}
	return ARGP_ERR_UNKNOWN;
}

static const char doc[] =
	"Continue a text with a Llama-family checkpoint whose layers share KV memory as a plan describes.\v"
	"Text streams to stdout; a summary of speed and memory goes to stderr.\n\n"
	"With --owners 0,1,2,1, layer 3 reads layer 1's cache.\n\n"
	"Examples:\n"
	"  kvshare-run generate -m DIR -p 'Once upon a time'\n"
	"  kvshare-run generate -m DIR -p 'Once upon a time' --owners 0,1,2,1\n"
	"  kvshare-run generate -m DIR -f story.txt -n 500 --plan plan.json --json\n"
	"  kvshare-run generate -m DIR -p 'Dear Anna' --temperature 0.8 --seed 7\n"
	"  kvshare-run generate -m DIR --chat -p 'What is the capital of France?'\n";

/* The text becomes what the chat template prints for it; its special tokens are in the text then. */
static int apply_chat(struct run *run, char **text, size_t *bytes)
{
	char *message = *text;
	int err = kvs_chat_check(run->chat, run->session.tokenizer);

	if (!err && !*bytes)
		err = kvs_fail(-EINVAL, "the prompt is empty: there is nothing to answer");
	if (err)
		return err;
	err = kvs_chat_render(run->chat, run->env->system, message, *bytes, time(NULL), text, bytes);
	free(message);
	if (!err && kvs_chat_end(run->chat))
		run->chat_end = kvs_tokenizer_id(run->session.tokenizer, kvs_chat_end(run->chat));
	return err;
}

static int encode_prompt(struct run *run)
{
	const struct env *env = run->env;
	char *text = env->prompt_file ? NULL : strdup(env->prompt);
	size_t bytes = text ? strlen(text) : 0;
	int err = 0;

	if (env->prompt_file)
		err = run_read_text(env->prompt_file, &text, &bytes);
	else if (!text)
		err = kvs_fail(-ENOMEM, "no memory for the prompt");
	if (!err && run->chat)
		err = apply_chat(run, &text, &bytes);
	if (!err)
		err = kvs_tokenizer_encode(
			run->session.tokenizer, text, bytes, !run->chat, &run->prompt, &run->prompt_count);
	free(text);
	if (!err && !run->prompt_count)
		err = kvs_fail(-EINVAL, "the prompt is empty, and this model has no token to start from");
	return err;
}

static int check_room(const struct run *run)
{
	int ctx = kvs_engine_ctx(run->session.engine);

	if (run->prompt_count > (size_t)ctx)
		return kvs_fail(-EINVAL,
			"the prompt has %zu tokens, the context has room for %d: raise --ctx or shorten the prompt",
			run->prompt_count, ctx);
	return 0;
}

static bool is_eos(const struct run *run, int32_t id)
{
	const struct kvs_config *config = kvs_engine_config(run->session.engine);

	return (id == run->chat_end || kvs_config_ends(config, id)) && !run->env->ignore_eos;
}

static int keep_text(struct run *run, const char *text, size_t bytes)
{
	char *longer = realloc(run->text, run->text_bytes + bytes + 1);

	if (!longer)
		return kvs_fail(-ENOMEM, "no memory for the text");
	memcpy(longer + run->text_bytes, text, bytes);
	run->text = longer;
	run->text_bytes += bytes;
	longer[run->text_bytes] = 0;
	if (run->env->model.json || !bytes)
		return 0;
	fwrite(text, 1, bytes, stdout);
	return run_flush_stdout();
}

/* One token after another, up to the count, an end-of-text token or the end of the context. */
static int decode(struct run *run, kvs_sampler *sampler, kvs_text_stream *stream)
{
	kvs_engine *engine = run->session.engine;
	const char *text;
	size_t bytes;
	double last = run_now_s();
	int err = 0;

	while (!err && run->count < run->env->count) {
		int32_t id;
		err = kvs_sampler_next(sampler, engine, &id);
		if (!err && is_eos(run, id))
			run->stop = STOP_EOS;
		if (err || run->stop == STOP_EOS)
			break;
		run->ids[run->count] = id;
		run->token_s[run->count++] = run_now_s() - last;
		last = run_now_s();
		err = kvs_text_stream_push(stream, id, &text, &bytes);
		if (!err)
			err = keep_text(run, text, bytes);
		if (run->count == run->env->count)
			break;
		if (kvs_engine_length(engine, 0) == kvs_engine_ctx(engine)) {
			run->stop = STOP_CONTEXT;
			break;
		}
		if (!err)
			err = kvs_engine_append(engine, 0, &id, 1);
	}
	if (!err)
		err = kvs_text_stream_finish(stream, &text, &bytes);
	return err ? err : keep_text(run, text, bytes);
}

static int generate(struct run *run)
{
	kvs_sampler *sampler = NULL;
	kvs_text_stream *stream = NULL;
	double start = run_now_s();
	int err = kvs_sampler_create(&run->env->sampling, kvs_engine_config(run->session.engine)->vocab, &sampler);

	if (!err)
		err = kvs_text_stream_create(run->session.tokenizer, true, &stream);
	if (!err)
		err = kvs_engine_append(run->session.engine, 0, run->prompt, run->prompt_count);
	if (!err)
		err = kvs_engine_wait(run->session.engine);
	run->prefill_s = run_now_s() - start;
	start = run_now_s();
	if (!err)
		err = decode(run, sampler, stream);
	run->decode_s = run_now_s() - start;
	kvs_text_stream_free(stream);
	kvs_sampler_free(sampler);
	return err;
}

static int compare_times(const void *a, const void *b)
{
	double x = *(const double *)a, y = *(const double *)b;

	return (x > y) - (x < y);
}

/* In milliseconds, by nearest rank; `sorted` has `count` entries in ascending order. */
static double percentile_ms(const double *sorted, int count, double share)
{
	int rank = (int)(share * count);

	return count ? 1000 * sorted[rank < count ? rank : count - 1] : 0;
}

static double rate(double count, double seconds)
{
	return seconds > 0 ? count / seconds : 0;
}

static json_t *json_latency(struct run *run)
{
	qsort(run->token_s, run->count, sizeof(*run->token_s), compare_times);
	return json_pack("{s:f,s:f,s:f,s:f,s:f,s:{s:f,s:f,s:f}}", "load_s", run->session.load_s, "prefill_s",
		run->prefill_s, "decode_s", run->decode_s, "prefill_tokens_per_s",
		rate(run->prompt_count, run->prefill_s), "decode_tokens_per_s", rate(run->count, run->decode_s),
		"inter_token_ms", "p50", percentile_ms(run->token_s, run->count, 0.5), "p90",
		percentile_ms(run->token_s, run->count, 0.9), "p99", percentile_ms(run->token_s, run->count, 0.99));
}

static int report_json(struct run *run, const struct kvs_engine_memory *memory)
{
	static const char *const stops[] = {"length", "eos", "context"};
	json_t *tokens = json_array();

	for (int i = 0; i < run->count; i++)
		json_array_append_new(tokens, json_integer(run->ids[i]));
	return run_print_json(json_pack("{s:o,s:o,s:I,s:o,s:s%,s:s,s:o,s:o}", "device",
		run_json_device(run->session.cu), "model", run_json_model(kvs_engine_config(run->session.engine)),
		"prompt_tokens", (json_int_t)run->prompt_count, "tokens", tokens, "text", run->text, run->text_bytes,
		"stop", stops[run->stop], "memory", run_json_memory(memory), "latency", json_latency(run)));
}

static void report_summary(const struct run *run, const struct kvs_engine_memory *memory)
{
	static const char *const stops[] = {
		"as many as -n asked for", "the model ended the text", "the context is full (--ctx)"};

	fprintf(stderr, "\ndevice    %s\n", run->session.cu->name);
	fprintf(stderr, "prompt    %zu token%s, %.1f tokens/s\n", run->prompt_count, run->prompt_count == 1 ? "" : "s",
		rate(run->prompt_count, run->prefill_s));
	fprintf(stderr, "decode    %d token%s, %.1f tokens/s; %s\n", run->count, run->count == 1 ? "" : "s",
		rate(run->count, run->decode_s), stops[run->stop]);
	run_print_memory_summary(memory);
}

static int report(struct run *run)
{
	struct kvs_engine_memory memory;
	int err = kvs_engine_memory(run->session.engine, &memory);

	if (err)
		return err;
	if (run->env->model.json)
		return report_json(run, &memory);
	putchar('\n');
	err = run_flush_stdout();
	if (!err && !run->env->model.quiet)
		report_summary(run, &memory);
	return err;
}

static int run_generate(struct run *run)
{
	int err = run->env->chat ? kvs_chat_open(run->env->model.dir, &run->chat) : 0;

	if (!err)
		err = run_session_open(&run->env->model, &run->session);
	if (!err)
		err = encode_prompt(run);
	if (!err)
		err = check_room(run);
	if (err)
		return err;
	run->ids = malloc(sizeof(*run->ids) * (run->env->count + 1));
	run->token_s = malloc(sizeof(*run->token_s) * (run->env->count + 1));
	if (!run->ids || !run->token_s)
		return kvs_fail(-ENOMEM, "no memory for %d tokens", run->env->count);
	err = generate(run);
	return err ? err : report(run);
}

static const struct argp_child children[] = {{&run_sharing_argp, 0, NULL, 0}, {&run_model_argp, 0, NULL, 0}, {0}};
static const struct argp argp = {options, parse, NULL, doc, children, NULL, NULL};

static int run_command(int argc, char **argv)
{
	struct env env = {.count = 128, .sampling = {.top_p = 1}};
	struct run run = {.env = &env, .chat_end = -1};
	int err;

	argp_parse(&argp, argc, argv, 0, NULL, &env);
	env.model.score_rows = 2; /* nothing is scored: the logits and the probabilities of one token */
	err = run_generate(&run);
	if (err)
		run_complain();
	run_session_close(&run.session);
	kvs_chat_free(run.chat);
	free(run.prompt);
	free(run.ids);
	free(run.token_s);
	free(run.text);
	return err ? EXIT_FAILURE : EXIT_SUCCESS;
}

const struct run_subcommand run_generate_command = {
	"generate", "continue a text with a model whose layers share KV memory", &argp, run_command, NULL};
