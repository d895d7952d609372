/*
 * tools/run/text/compare.c: `kvshare-run compare` runs a model with its own caches and with a plan's, in turn.
 *
 * Machines drift, so what is compared lies close together: a round measures both, in the other order each time, and a ratio is
 * taken within it. What is shown is the median of the rounds and the least and the largest. One engine holds the weights; only
 * its cache is made anew. The page is of one more run of each, which is traced and opens its own engine (compare_page.c).
 */
#include "../run.h"
#include "compare.h"

#include <errno.h>
#include <limits.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

enum { OPTION_TEXT = 512, OPTION_MAX_TOKENS, OPTION_ROUNDS, OPTION_PROMPT, OPTION_HTML };

#define DEFAULT_PROMPT 256
#define MOST_ROUNDS 1000

enum speed { PREFILL, DECODE, SPEEDS };

struct env {
	struct run_model_options model;
	const char *text, *html; /* paths; NULL: none */
	long max_tokens;         /* of the text, for the loss; 0: all */
	int rounds, prompt_tokens, decode_tokens;
};

struct measured {
	struct kvs_engine_memory memory;
	double *rates[SPEEDS]; /* [rounds] tokens a second */
	double nll;            /* NaN: no text */
};

struct comparison {
	const struct env *env;
	struct run_session session;
	int32_t *ids; /* of the text, or made up; at least prompt_tokens + decode_tokens */
	size_t count;
	int prompt, decode;
	struct measured sides[RUN_SIDES];
};

static const struct argp_option options[] = {
	{"text", OPTION_TEXT, "FILE", 0, "take the prompt from FILE and measure the loss on it (- for standard input)",
		0},
	{"max-tokens", OPTION_MAX_TOKENS, "N", 0, "measure the loss on the first N tokens of the text", 0},
	{"prompt-tokens", OPTION_PROMPT, "N", 0, "length of the prompt (default 256)", 0},
	{"tokens", 'n', "N", 0, "decode N tokens behind the prompt (default 64)", 0},
	{"rounds", OPTION_ROUNDS, "N", 0, "measure speed N times in turn (default 5)", 0},
	{"html", OPTION_HTML, "FILE", 0,
		"one more run of each, traced, as one HTML file: memory, KV maps, kernels, calls (- for standard "
		"output)",
		0},
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
	case OPTION_PROMPT:
		env->prompt_tokens = run_parse_number(state, "--prompt-tokens", text, 1, INT_MAX / 64);
		return 0;
	case 'n':
		env->decode_tokens = run_parse_number(state, "-n", text, 1, INT_MAX / 64);
		return 0;
	case OPTION_ROUNDS:
		env->rounds = run_parse_number(state, "--rounds", text, 1, MOST_ROUNDS);
		return 0;
	case OPTION_HTML:
		env->html = text;
		return 0;
	case ARGP_KEY_ARG:
		argp_error(state, "what is \"%s\"? The plan goes behind --plan, a text behind --text", text);
		return 0;
	case ARGP_KEY_END:
		if (!env->model.plan_path && !env->model.owners)
			argp_error(state, "compare with what? Give --plan FILE or --owners LIST");
		if (env->html && run_is_stdout(env->html) && env->model.json)
			argp_error(state, "standard output takes one of --json and --html -");
		return 0;
	}
	return ARGP_ERR_UNKNOWN;
}

static const char doc[] = "Run a model with and without sharing, in turn, and compare memory, speed and loss.\v"
			  "Each round measures both, in the other order each time; what is shown is the median of the "
			  "ratios within the rounds, and the least and the largest. The loss is measured as eval does, "
			  "once for each.\n\n"
			  "Examples:\n"
			  "  kvshare-run compare -m DIR --plan plan.json --text heldout.txt\n"
			  "  kvshare-run compare -m DIR --owners 0,1,2,1 --rounds 9\n"
			  "  kvshare-run compare -m DIR --plan plan.json --html both.html\n";

/* ---- the text ---- */

/* Without a text: numbers all over the vocabulary. Speed does not depend on what they are. */
static int make_ids(struct comparison *c, size_t count)
{
	int vocab = kvs_engine_config(c->session.engine)->vocab;

	c->ids = malloc(sizeof(*c->ids) * count);
	if (!c->ids)
		return kvs_fail(-ENOMEM, "no memory for a prompt of %zu tokens", count);
	for (size_t i = 0; i < count; i++)
		c->ids[i] = (int32_t)(i * 7919 % vocab);
	c->count = count;
	return 0;
}

static int read_ids(struct comparison *c, size_t least)
{
	char *text;
	size_t bytes;
	int err = run_read_text(c->env->text, &text, &bytes);

	if (err)
		return err;
	err = kvs_tokenizer_encode(c->session.tokenizer, text, bytes, true, &c->ids, &c->count);
	free(text);
	if (!err && c->count < least)
		err = kvs_fail(-EINVAL,
			"%s has %zu tokens: a prompt of %d and %d behind it take %zu (--prompt-tokens, -n)",
			c->env->text, c->count, c->prompt, c->decode, least);
	return err;
}

/* ---- measuring ---- */

static int take_side(struct comparison *c, enum run_side side)
{
	int err = kvs_engine_set_plan(c->session.engine, side == RUN_SHARED ? c->session.plan : NULL);

	if (err || !c->session.patch)
		return err;
	return kvs_engine_set_patch(c->session.engine, c->session.patch, side == RUN_SHARED ? NULL : c->session.ckpt);
}

int run_compare_prefill(kvs_engine *engine, const int32_t *ids, int prompt)
{
	int err = kvs_engine_append(engine, 0, ids, prompt);

	return err ? err : kvs_engine_wait(engine);
}

/* The tokens are given, so that both sides run the same; the likeliest is asked for all the same, as a user would. */
int run_compare_decode(kvs_engine *engine, const int32_t *ids, int count)
{
	int err = 0;

	for (int i = 0; i < count && !err; i++) {
		int32_t likeliest;
		err = kvs_engine_argmax(engine, &likeliest);
		if (!err)
			err = kvs_engine_append(engine, 0, ids + i, 1);
	}
	return err ? err : kvs_engine_wait(engine);
}

/* `round` -1: to warm up. */
static int measure_speed(struct comparison *c, enum run_side side, int round)
{
	struct measured *m = &c->sides[side];
	int err = take_side(c, side);
	double start = run_now_s(), middle; /* the side's matrices are in place by now */

	if (!err)
		err = run_compare_prefill(c->session.engine, c->ids, c->prompt);
	middle = run_now_s();
	if (!err)
		err = run_compare_decode(c->session.engine, c->ids + c->prompt, c->decode);
	if (!err && round >= 0) {
		m->rates[PREFILL][round] = c->prompt / (middle - start);
		m->rates[DECODE][round] = c->decode / (run_now_s() - middle);
	}
	if (!err && round < 0)
		err = kvs_engine_memory(c->session.engine, &m->memory);
	return err;
}

static int measure_loss(struct comparison *c, enum run_side side)
{
	size_t count =
		c->env->max_tokens && (size_t)c->env->max_tokens < c->count ? (size_t)c->env->max_tokens : c->count;
	double sum;
	size_t predicted;
	int err = take_side(c, side);

	if (!err)
		err = run_score_windows(c->session.engine, c->ids, count, c->env->model.quiet, &sum, &predicted);
	if (!err)
		c->sides[side].nll = sum / predicted;
	return err;
}

static int measure(struct comparison *c)
{
	int err = 0;

	for (int round = -1; round < c->env->rounds && !err; round++) {
		enum run_side first = round & 1 ? RUN_SHARED : RUN_FULL;
		err = measure_speed(c, first, round);
		if (!err)
			err = measure_speed(c, 1 - first, round);
		if (!c->env->model.quiet)
			run_progress_show("measuring", "", round + 2, c->env->rounds + 1);
	}
	run_progress_clear();
	for (enum run_side side = RUN_FULL; side < RUN_SIDES && c->env->text && !err; side++)
		err = measure_loss(c, side);
	return err;
}

/* ---- what came out ---- */

struct ratio {
	double median, least, largest;
};

static int ascending(const void *a, const void *b)
{
	double x = *(const double *)a, y = *(const double *)b;

	return (x > y) - (x < y);
}

static double median_of(const double *sorted, int count)
{
	return (sorted[(count - 1) / 2] + sorted[count / 2]) / 2;
}

static struct ratio ratio_of(const struct comparison *c, enum speed speed)
{
	double ratios[MOST_ROUNDS];
	int rounds = c->env->rounds;

	for (int i = 0; i < rounds; i++)
		ratios[i] = c->sides[RUN_SHARED].rates[speed][i] / c->sides[RUN_FULL].rates[speed][i];
	qsort(ratios, rounds, sizeof(*ratios), ascending);
	return (struct ratio){median_of(ratios, rounds), ratios[0], ratios[rounds - 1]};
}

static double rate_of(const struct comparison *c, enum run_side side, enum speed speed)
{
	double rates[MOST_ROUNDS];

	memcpy(rates, c->sides[side].rates[speed], sizeof(*rates) * c->env->rounds);
	qsort(rates, c->env->rounds, sizeof(*rates), ascending);
	return median_of(rates, c->env->rounds);
}

static double kv_ratio(const struct comparison *c)
{
	return (double)c->sides[RUN_SHARED].memory.kv_physical_bytes / c->sides[RUN_FULL].memory.kv_physical_bytes;
}

static json_t *json_side(const struct comparison *c, enum run_side side)
{
	return json_pack("{s:o,s:f,s:f,s:o}", "memory", run_json_memory(&c->sides[side].memory), "prefill_tokens_per_s",
		rate_of(c, side, PREFILL), "decode_tokens_per_s", rate_of(c, side, DECODE), "nll",
		run_json_number(c->sides[side].nll));
}

static int print_json(const struct comparison *c)
{
	struct ratio prefill = ratio_of(c, PREFILL), decoding = ratio_of(c, DECODE);
	json_t *ratio = json_pack("{s:f,s:f,s:[f,f],s:f,s:[f,f],s:o}", "kv_bytes", kv_ratio(c), "prefill_tokens_per_s",
		prefill.median, "prefill_tokens_per_s_range", prefill.least, prefill.largest, "decode_tokens_per_s",
		decoding.median, "decode_tokens_per_s_range", decoding.least, decoding.largest, "nll_delta",
		run_json_number(c->sides[RUN_SHARED].nll - c->sides[RUN_FULL].nll));

	return run_print_json(json_pack("{s:o,s:o,s:i,s:i,s:i,s:o,s:o,s:o}", "device", run_json_device(c->session.cu),
		"model", run_json_model(kvs_engine_config(c->session.engine)), "prompt_tokens", c->prompt,
		"decode_tokens", c->decode, "rounds", c->env->rounds, "full", json_side(c, RUN_FULL), "shared",
		json_side(c, RUN_SHARED), "ratio", ratio));
}

static void print_speed(const struct comparison *c, const char *name, enum speed speed)
{
	struct ratio ratio = ratio_of(c, speed);

	printf("%-10s %10.1f tokens/s %10.1f tokens/s   %.3f (%.3f to %.3f)\n", name, rate_of(c, RUN_FULL, speed),
		rate_of(c, RUN_SHARED, speed), ratio.median, ratio.least, ratio.largest);
}

static int print_table(const struct comparison *c)
{
	const struct measured *full = &c->sides[RUN_FULL], *shared = &c->sides[RUN_SHARED];

	printf("%-10s %10s          %10s            ratio%s\n", "", "full", "shared",
		c->env->rounds > 1 ? " (range of the rounds)" : "");
	printf("%-10s %10.1f MiB      %10.1f MiB        %.3f\n", "KV cache", full->memory.kv_physical_bytes / 1048576.0,
		shared->memory.kv_physical_bytes / 1048576.0, kv_ratio(c));
	print_speed(c, "prefill", PREFILL);
	print_speed(c, "decode", DECODE);
	if (c->env->text)
		printf("%-10s %10.4f nats     %10.4f nats       %+.4f\n", "loss", full->nll, shared->nll,
			shared->nll - full->nll);
	return run_flush_stdout();
}

/* ---- the page ---- */

static struct kvs_measured measured_speed(const struct comparison *c, const char *name, enum speed speed)
{
	struct ratio ratio = ratio_of(c, speed);

	return (struct kvs_measured){name, "tokens/s", 1, {rate_of(c, RUN_FULL, speed), rate_of(c, RUN_SHARED, speed)},
		ratio.median, ratio.least, ratio.largest};
}

/* The engine goes first: each traced run has one of its own. */
static int write_page(struct comparison *c)
{
	struct kvs_measured measured[] = {measured_speed(c, "prefill", PREFILL), measured_speed(c, "decode", DECODE),
		{"loss", "nats", 4, {c->sides[RUN_FULL].nll, c->sides[RUN_SHARED].nll}, NAN, NAN, NAN}};
	struct kvs_diff_page page = {.names = {"full", "shared"},
		.measured = measured,
		.measured_count = c->env->text ? 3 : 2,
		.rounds = c->env->rounds};

	run_session_close(&c->session);
	return run_compare_page(&c->env->model, c->ids, c->prompt, c->decode, &page, c->env->html);
}

/* ---- the command ---- */

static int allocate_rates(struct comparison *c)
{
	for (enum run_side side = RUN_FULL; side < RUN_SIDES; side++) {
		c->sides[side].nll = NAN;
		for (enum speed speed = PREFILL; speed < SPEEDS; speed++) {
			c->sides[side].rates[speed] = malloc(sizeof(double) * c->env->rounds);
			if (!c->sides[side].rates[speed])
				return kvs_fail(-ENOMEM, "no memory for %d rounds", c->env->rounds);
		}
	}
	return 0;
}

static int compare(struct comparison *c)
{
	size_t least;
	int err, ctx;

	err = run_session_open(&c->env->model, &c->session);
	if (err)
		return err;
	ctx = kvs_engine_ctx(c->session.engine);
	c->decode = c->env->decode_tokens;
	c->prompt = c->env->prompt_tokens ? c->env->prompt_tokens : DEFAULT_PROMPT;
	if (!c->env->prompt_tokens && c->prompt + c->decode > ctx && c->decode < ctx)
		c->prompt = ctx - c->decode; /* nobody asked for more */
	least = (size_t)c->prompt + c->decode;
	if (least > (size_t)ctx)
		return kvs_fail(-EINVAL, "a prompt of %d tokens and %d behind it: the context has room for %d (--ctx)",
			c->prompt, c->decode, ctx);
	err = c->env->text ? read_ids(c, least) : make_ids(c, least);
	if (!err)
		err = allocate_rates(c);
	if (!err)
		err = measure(c);
	if (!err)
		err = c->env->model.json                            ? print_json(c)
		      : c->env->html && run_is_stdout(c->env->html) ? 0
								    : print_table(c);
	if (!err && c->env->html)
		err = write_page(c);
	return err;
}

static const struct argp_child children[] = {{&run_sharing_argp, 0, NULL, 0}, {&run_model_argp, 0, NULL, 0}, {0}};
static const struct argp argp = {options, parse, NULL, doc, children, NULL, NULL};

static int run_command(int argc, char **argv)
{
	struct env env = {.model = {.keep_patch = true}, .rounds = 5, .decode_tokens = 64};
	struct comparison c = {.env = &env};
	int err;

	argp_parse(&argp, argc, argv, 0, NULL, &env);
	err = run_default_window(&env.model);
	if (!err)
		err = compare(&c);
	if (err)
		run_complain();
	run_session_close(&c.session);
	free(c.ids);
	for (enum run_side side = RUN_FULL; side < RUN_SIDES; side++)
		for (enum speed speed = PREFILL; speed < SPEEDS; speed++)
			free(c.sides[side].rates[speed]);
	return err ? EXIT_FAILURE : EXIT_SUCCESS;
}

const struct run_subcommand run_compare_command = {
	"compare", "memory, speed and loss with and without sharing", &argp, run_command, NULL};
