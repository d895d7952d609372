/*
 * tools/run/search/calibrate.c: `kvshare-run calibrate` finds a sharing plan for a model with the help of a text.
 *
 * The options are here, the search is in calib/, the output in calibrate_report.c. Ctrl-C stops the search, not the
 * program: the plan so far is written with its trials, and --resume continues from it.
 */
#include "../profile/profile.h"
#include "calibrate.h"

#include <errno.h>
#include <float.h>
#include <limits.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#define SKIP_AUTO -1
#define PAIR_SAMPLES 8 /* as many tokens as a pair is fitted on */
#define PAIR_SAMPLE_TOKENS 256
#define DEFAULT_RATE 0.125 /* 4 of 32 layers, SHARE_LAYERS of the reference code */

enum {
	OPTION_TEXT = 512,
	OPTION_SHARE,
	OPTION_RATE,
	OPTION_METHOD,
	OPTION_DISTANCE,
	OPTION_ORDER,
	OPTION_THRESHOLD,
	OPTION_COSINE,
	OPTION_SPLIT_KV,
	OPTION_PROTECT_LAST,
	OPTION_SWEEP,
	OPTION_RESUME,
	OPTION_BATCH,
	OPTION_COMPENSATE,
	OPTION_POLICY,
	OPTION_REFIT,
	OPTION_SKIP,
	OPTION_FIT_SAMPLES,
	OPTION_PLAN
};

static const struct argp_option options[] = {
	{"text", OPTION_TEXT, "FILE", 0, "the text to search with (- for standard input; required)", 0},
	{"output", 'o', "PLAN", 0, "the plan to write (-: standard output); with --sweep, a directory (required)", 0},
	{"share", OPTION_SHARE, "N", 0, "number of layers that share", 0},
	{"rate", OPTION_RATE, "R", 0,
		"in place of --share: the fraction of layers that share, as in 0.25 (default 0.125)", 0},
	{"method", OPTION_METHOD, "kvsharer|nll|auto|refit", 0,
		"kvsharer: the paper's walk; nll: greedy by measured loss; auto (default): the walk from both ends and "
		"nll, then the best of the three; refit (default with --compensate): greedy by what refitted matrices "
		"leave",
		0},
	{"sweep", OPTION_SWEEP, NULL, 0,
		"one search that gives a plan for every number of layers (up to --share, if given), and loss against "
		"memory as JSON and SVG",
		0},
	{"split-kv", OPTION_SPLIT_KV, NULL, 0, "K and V may have different owners; 2 N tensors share", 0},
	{"protect-last", OPTION_PROTECT_LAST, "P", 0, "the last P layers never share (default 0)", 0},
	{"compensate", OPTION_COMPENSATE, NULL, 0,
		"refit matrices of the model for the plan (W_q, W_o, W_down), and keep them beside it if the held-back "
		"text says that they help",
		0},
	{"policy", OPTION_POLICY, RUN_POLICY_WORDS, 0,
		"owner (default): layers that share read their owner's K and V; last: each stores its own there, and "
		"all read "
		"what was stored last, token by token (or --chunk tokens at a time), as under `exec --policy last`",
		0},
	{"plan", OPTION_PLAN, "FILE", 0, "with --compensate: for this plan, without a search", 0},
	{"refit", OPTION_REFIT, "all|qo|o", 0,
		"with --compensate: only W_q and W_o of the layers that share, or W_o alone (default: all)", 0},
	{"skip", OPTION_SKIP, "RANK|auto", 0,
		"with --compensate: layers that share also get a linear map of their input, of this rank, in place of "
		"their "
		"K and V projections (auto: as many numbers as those had); only kvshare runs it",
		0},
	{"fit-samples", OPTION_FIT_SAMPLES, "N[xLENGTH]", 0,
		"with --compensate: matrices are fitted on N samples of LENGTH tokens (1024), spread over the text, "
		"whatever the search has (default: 16, or as many as the text has room for; those of the search where "
		"--samples, --sample-tokens or --sample-by is given)",
		0},
	{"resume", OPTION_RESUME, NULL, 0,
		"continue from the trials in the plan of a stopped search, and from the matrices that a stopped fit "
		"left",
		0},
	{NULL, 0, NULL, 0, "Details of the search:", 3},
	{"batch", OPTION_BATCH, "N", 0, "samples to run through the model together (default: 1024 tokens' worth)", 3},
	{"order", OPTION_ORDER, "dissimilar|similar|random|random:SEED", 0,
		"kvsharer: the pairs to try first (default: dissimilar)", 3},
	{"distance", OPTION_DISTANCE, "code|paper", 0,
		"code (default): mean of the norms of each head and position; paper: norm of the flattened tensor", 3},
	{"threshold", OPTION_THRESHOLD, "T", 0,
		"kvsharer: keep a pair while the cosine of the hidden states is above T (default 0.5; -1: always)", 3},
	{"cosine", OPTION_COSINE, "code|paper", 0,
		"code (default): mean of the samples' cosines; paper: cosine of the samples' mean", 3},
	{0},
};

static void parse_order(struct argp_state *state, struct kvs_pair_options *pairs, const char *text)
{
	static const char *const orders[] = {"dissimilar", "similar", "random", NULL};
	char *end;

	if (strncmp(text, "random:", 7)) {
		pairs->order = run_parse_word(state, "--order", text, orders);
		return;
	}
	errno = 0;
	pairs->order = KVS_ORDER_RANDOM;
	pairs->seed = strtoull(text + 7, &end, 10);
	if (errno || *end || text[7] < '0' || text[7] > '9')
		argp_error(state, "--order is \"%s\": a seed is a whole number, as in random:7", text);
}

/* Matrices suit other pairs than those that lose least alone. Not where something else was asked of the search. */
static bool suits_refit(const struct run_calibrate *env)
{
	return env->compensate && !env->search_set && !env->order_set && !env->threshold_set &&
	       !env->search.pairs.split && env->compensate_options.matrices != KVS_REFIT_OUTPUTS && !env->plan_path;
}

static void check(struct argp_state *state, struct run_calibrate *env)
{
	if (suits_refit(env))
		env->search.method = KVS_METHOD_REFIT;
	if (!env->text_path)
		argp_error(state, "which text? Name it with --text FILE");
	if (!env->output)
		argp_error(state, "where to? Name the plan to write with -o PLAN");
	if (run_is_stdout(env->output) && (env->search.sweep || env->resume))
		argp_error(state, "-o - is standard output: --sweep writes a directory, --resume reads a plan's file");
	if (run_is_stdout(env->output) && env->model.json)
		argp_error(state, "-o - and --json both write to standard output: name a file with -o");
	if (env->compensate && (env->search.sweep || run_is_stdout(env->output)))
		argp_error(state, "--compensate writes matrices beside one plan's file: not with --sweep or -o -");
	if (env->compensate && env->search.policy == KVS_POLICY_LAST)
		argp_error(state, "--compensate fits matrices to the policy owner: not with --policy last");
	if (!env->compensate &&
		(env->plan_path || env->compensate_options.matrices || env->skip || env->fit_samples.count))
		argp_error(state, "--plan, --refit, --skip and --fit-samples belong to --compensate");
	if (env->plan_path && env->fit_samples.count && (env->text_options.samples || env->text_options.sample_tokens))
		argp_error(state,
			"with --plan both --fit-samples and --samples, --sample-tokens or --sample-by say what "
			"the fit takes: give one of them");
	if (env->search.method == KVS_METHOD_REFIT && (!env->compensate || env->search.pairs.split))
		argp_error(state, "--method refit chooses layers for --compensate, with one owner for K and V: give "
				  "it, and no --split-kv");
	if (env->search.method == KVS_METHOD_REFIT && env->compensate_options.matrices == KVS_REFIT_OUTPUTS)
		argp_error(state, "--method refit chooses by what W_q and W_o leave together: not with --refit o");
	if (env->plan_path && (env->share || env->rate > 0))
		argp_error(state, "--plan says which layers share: there is no search for --share or --rate");
	if (env->plan_path && (env->search_set || env->protect_set || env->order_set || env->threshold_set ||
				      env->search.pairs.split))
		argp_error(state, "--plan says which layers share: there is no search for --method, --order, "
				  "--threshold, --distance, --cosine, --split-kv or --protect-last");
	if (env->share && env->rate > 0)
		argp_error(state, "--share and --rate both say how many: give one of them");
	if (env->order_set && env->search.method != KVS_METHOD_KVSHARER)
		argp_error(state, "--order belongs to --method kvsharer: the other methods choose by themselves");
	if (env->threshold_set && (env->search.method == KVS_METHOD_NLL || env->search.method == KVS_METHOD_REFIT))
		argp_error(state, "--threshold belongs to kvsharer and auto: nll and refit take the least loss");
}

static error_t parse_search(int key, char *text, struct argp_state *state, struct run_calibrate *env)
{
	static const char *const methods[] = {"kvsharer", "nll", "auto", "refit", NULL}, *const kinds[] = {
												 "code", "paper", NULL};

	switch (key) {
	case OPTION_METHOD:
		env->search.method = run_parse_word(state, "--method", text, methods);
		env->search_set = true;
		return 0;
	case OPTION_DISTANCE:
		env->search.pairs.distance = run_parse_word(state, "--distance", text, kinds);
		env->search_set = true;
		return 0;
	case OPTION_COSINE:
		env->search.cosine = run_parse_word(state, "--cosine", text, kinds);
		env->search_set = true;
		return 0;
	case OPTION_ORDER:
		parse_order(state, &env->search.pairs, text);
		env->order_set = true;
		return 0;
	case OPTION_THRESHOLD:
		env->search.threshold =
			run_parse_real(state, "--threshold", text, -1, 1, "from -1 to 1, as a cosine is,");
		env->threshold_set = true;
		return 0;
	case OPTION_SPLIT_KV:
		env->search.pairs.split = true;
		return 0;
	case OPTION_PROTECT_LAST:
		env->search.pairs.protect_last =
			run_parse_number(state, "--protect-last", text, 0, KVS_PLAN_MAX_LAYERS);
		env->protect_set = true;
		return 0;
	case OPTION_SWEEP:
		env->search.sweep = true;
		return 0;
	}
	return ARGP_ERR_UNKNOWN;
}

static void parse_refit(struct argp_state *state, struct run_calibrate *env, const char *text)
{
	static const char *const words[] = {"all", "qo", "o", NULL};
	static const unsigned matrices[] = {KVS_REFIT_ALL, KVS_REFIT_QUERIES | KVS_REFIT_OUTPUTS, KVS_REFIT_OUTPUTS};

	env->compensate_options.matrices = matrices[run_parse_word(state, "--refit", text, words)];
}

static error_t parse(int key, char *text, struct argp_state *state)
{
	struct run_calibrate *env = state->input;

	switch (key) {
	case ARGP_KEY_INIT:
		state->child_inputs[0] = &env->model;
		state->child_inputs[1] = &env->text_options;
		return 0;
	case OPTION_TEXT:
		env->text_path = text;
		return 0;
	case 'o':
		env->output = text;
		return 0;
	case OPTION_SHARE:
		env->share = run_parse_number(state, "--share", text, 1, KVS_PLAN_MAX_LAYERS);
		return 0;
	case OPTION_RATE:
		env->rate = run_parse_real(state, "--rate", text, DBL_MIN, 1 - DBL_EPSILON, "between 0 and 1");
		return 0;
	case OPTION_BATCH:
		env->batch = run_parse_number(state, "--batch", text, 1, 1 << 12);
		return 0;
	case OPTION_POLICY:
		env->search.policy = run_parse_policy(state, text);
		return 0;
	case OPTION_COMPENSATE:
		env->compensate = true;
		return 0;
	case OPTION_REFIT:
		parse_refit(state, env, text);
		return 0;
	case OPTION_SKIP:
		env->skip = strcmp(text, "auto") ? run_parse_number(state, "--skip", text, 1, INT_MAX) : SKIP_AUTO;
		return 0;
	case OPTION_FIT_SAMPLES:
		env->fit_samples = run_parse_fit_samples(state, text);
		return 0;
	case OPTION_PLAN:
		env->plan_path = text;
		return 0;
	case OPTION_RESUME:
		env->resume = true;
		return 0;
	case ARGP_KEY_ARG:
		argp_error(state, "what is \"%s\"? The text goes behind --text", text);
		return 0;
	case ARGP_KEY_END:
		check(state, env);
		return 0;
	}
	return parse_search(key, text, state, env);
}

static const char doc[] =
	"Find out which layers of a model can share the KV cache of which others.\v"
	"The search uses the first --samples of the text; plans are measured on the text after them, against the model "
	"without sharing. A plan file records that figure, and every trial that led to it.\n\n"
	"Exits with 3 if the pairs ran out before enough layers shared (the plan is written all the same). Ctrl-C "
	"stops the search and writes the plan so far.\n\n"
	"Examples:\n"
	"  kvshare-run calibrate -m DIR --text book.txt --rate 0.25 -o plan.json\n"
	"  kvshare-run calibrate -m DIR --text book.txt --compensate -o plan.json\n"
	"  kvshare-run calibrate -m DIR --text T --compensate --plan a.json -o b.json\n"
	"  kvshare-run calibrate -m DIR --text book.txt --sweep -o plans/\n"
	"  kvshare-run calibrate -m DIR --text book.txt --method kvsharer -o plan.json\n"
	"  kvshare-run calibrate -m DIR --text book.txt --policy last -o plan.json\n"
	"  kvshare-run generate -m DIR -p 'Once upon a time' --plan plan.json\n";

/* ---- running ---- */

/* A file must be writable if it exists, otherwise its directory. */
static int check_writable(const char *path)
{
	const char *slash = strrchr(path, '/');
	struct stat info;
	bool exists = !stat(path, &info);
	char *dir;
	int err = 0;

	if (!exists && errno != ENOENT)
		return kvs_fail(-errno, "%s: cannot write there: %s", path, strerror(errno));
	if (exists && S_ISDIR(info.st_mode))
		return kvs_fail(-EISDIR, "%s: is a directory, where a file is to be written", path);
	dir = exists ? strdup(path) : slash ? strndup(path, slash - path + 1) : strdup(".");
	if (!dir)
		return kvs_fail(-ENOMEM, "no memory for a path");
	if (access(dir, W_OK))
		err = kvs_fail(-errno, "%s: cannot write there: %s", path, strerror(errno));
	free(dir);
	return err;
}

/* All that may be written beside the plan: names that are longer, and may be taken, in a folder that may take no new file. */
static int check_patch_writable(const char *plan)
{
	int (*const names[])(const char *, char **) = {run_patch_path, run_patch_new_path, run_stopped_path};
	int err = 0;

	for (size_t i = 0; i < sizeof(names) / sizeof(*names) && !err; i++) {
		char *path = NULL;
		err = names[i](plan, &path);
		if (!err)
			err = check_writable(path);
		free(path);
	}
	return err;
}

/* Before the search, so that hours of it are not lost to a bad path. */
static int check_output(const struct run_calibrate *env)
{
	int err;

	if (env->search.sweep)
		return run_make_directory(env->output);
	if (run_is_stdout(env->output))
		return 0;
	err = check_writable(env->output);
	return err || !env->compensate ? err : check_patch_writable(env->output);
}

static int set_share(struct run_calibrate *env, const struct kvs_config *config)
{
	double rate = env->rate > 0 ? env->rate : DEFAULT_RATE;

	if (env->share)
		env->search.share = env->share;
	else if (env->search.sweep && env->rate <= 0)
		env->search.share = kvs_pairs_most_shared(config, env->search.pairs.protect_last);
	else
		env->search.share = (int)lround(rate * config->layers);
	if (env->search.share < 1 && env->rate > 0)
		return kvs_fail(-EINVAL, "--rate %g of %d layers is less than one layer", rate, config->layers);
	if (env->search.share < 1)
		env->search.share = 1; /* with few layers the default rate rounds to none */
	return 0;
}

/* Whether the matrices of the plan at `output` lie beside it. */
static bool has_matrices(const struct run_calibrate *env, const kvs_plan *plan)
{
	kvs_patch *patch = NULL;
	bool has = env->compensate && !run_patch_load(env->output, plan, env->ckpt, &patch) && patch;

	kvs_patch_close(patch);
	return has;
}

static int load_replay(struct run_calibrate *env)
{
	char *path = NULL;
	kvs_plan *plan;
	int err;

	if (!env->resume)
		return 0;
	if (asprintf(&path, env->search.sweep ? "%s/" RUN_SWEEP_PLAN : "%s", env->output) < 0)
		return kvs_fail(-ENOMEM, "no memory for a path");
	err = kvs_plan_load(path, &plan);
	free(path);
	if (err)
		return err;
	err = kvs_plan_check(plan, &env->plan_model);
	if (!err)
		err = kvs_search_replay(plan, &env->search, &env->text, &env->replay, &env->search.replay_count);
	env->search.replay = env->replay;
	if (!err)
		env->search.replay_full_nll = kvs_search_full_nll(plan);
	if (!err && has_matrices(env, plan))
		env->earlier = plan;
	else
		kvs_plan_free(plan);
	return err;
}

static int open_engine(struct run_calibrate *env, struct run_session *session)
{
	int rows = env->search.policy == KVS_POLICY_LAST ? 0 : env->model.chunk_tokens;
	struct kvs_engine_options engine = {.kv_dtype = env->model.kv_dtype,
		.kv_dtype_set = env->model.kv_dtype_set,
		.chunk_tokens =
			env->batch ? env->batch * (env->plan_path ? env->fit : &env->text)->sample_tokens : rows,
		.policy = env->search.policy,
		.pass_tokens = env->search.pass_tokens,
		.no_premap = env->model.no_premap,
		.stop = run_watch_stopped,
		.progress = env->model.quiet ? NULL : run_show_load};
	const struct kvs_calib_text texts[] = {env->text, env->own};
	int err;

	run_profile_engine(session->profile, &engine);
	err = kvs_calib_open_engine(session->cu, session->ckpt, &engine, texts, 2, &session->engine);

	run_progress_clear();
	return err;
}

static int tokens_of(const struct kvs_calib_text *text)
{
	return text->samples * text->sample_tokens;
}

/*
 * A fit needs more text than a search, from all places of it: it has samples of its own where nobody says otherwise. Of a short text
 * the search's may be more.
 */
static int cut_for_fit(struct run_calibrate *env, const struct run_session *session, const char *text, size_t bytes)
{
	bool chosen = env->text_options.samples || env->text_options.sample_tokens;
	int err = -EINVAL;

	if (env->fit_samples.count || !chosen)
		err = kvs_compensate_cut(session->tokenizer, kvs_checkpoint_config(session->ckpt), text, bytes,
			&env->text_options, env->fit_samples, &env->own);
	if (!env->fit_samples.count && !err && tokens_of(&env->own) < tokens_of(&env->text)) {
		kvs_calib_text_clear(&env->own);
		err = -EINVAL;
	}
	env->fit = err ? &env->text : &env->own;
	if (env->fit_samples.count || err != -EINVAL)
		return err;
	return env->plan_path ? kvs_calib_text_cut(session->tokenizer, text, bytes, &env->text_options, &env->text) : 0;
}

/* Whether --compensate could fit on this text: `text` is the search's. */
static bool may_fit(const struct run_calibrate *env, const struct run_session *session, const char *text, size_t bytes)
{
	const struct kvs_config *config = kvs_checkpoint_config(session->ckpt);
	const struct kvs_fit_samples usual = {0};
	struct kvs_calib_text own = {0};
	bool enough = !kvs_compensate_check(config, &env->text, &env->compensate_options);

	if (!enough && !kvs_compensate_cut(session->tokenizer, config, text, bytes, &env->text_options, usual, &own))
		enough = !kvs_compensate_check(config, &own, &env->compensate_options);
	kvs_calib_text_clear(&own);
	return enough;
}

/* A search that fits each pair takes these from all over the text too; of a short one, what the other searches take. */
static int cut_for_search(struct run_calibrate *env, const struct run_session *session, const char *text, size_t bytes)
{
	const struct kvs_fit_samples pairs = {PAIR_SAMPLES, PAIR_SAMPLE_TOKENS};
	int err = -EINVAL;

	if (env->search.method == KVS_METHOD_REFIT && !env->text_options.samples && !env->text_options.sample_tokens)
		err = kvs_compensate_cut(session->tokenizer, kvs_checkpoint_config(session->ckpt), text, bytes,
			&env->text_options, pairs, &env->text);
	return err == -EINVAL ? kvs_calib_text_cut(session->tokenizer, text, bytes, &env->text_options, &env->text)
			      : err;
}

static int cut_text(struct run_calibrate *env, const struct run_session *session)
{
	char *text;
	size_t bytes;
	int err = run_read_text(env->text_path, &text, &bytes);

	if (err)
		return err;
	env->text_options.need_held = env->search.method != KVS_METHOD_KVSHARER && !env->plan_path;
	env->text_options.window_tokens = env->model.ctx_tokens;
	if (!env->plan_path)
		err = cut_for_search(env, session, text, bytes);
	if (!err && env->compensate)
		err = cut_for_fit(env, session, text, bytes);
	env->may_fit = !err && !env->compensate && may_fit(env, session, text, bytes);
	free(text);
	if (!err && env->compensate)
		err = kvs_compensate_check(kvs_checkpoint_config(session->ckpt), env->fit, &env->compensate_options);
	if (!err && env->compensate)
		err = kvs_compensate_check_weights(session->ckpt);
	return err;
}

/* A text that goes through in one pass ends before anything of another layer is read. */
static int set_pass(struct run_calibrate *env)
{
	const struct kvs_calib_text *text = &env->text;
	int least = text->sample_tokens < text->window_tokens ? text->sample_tokens : text->window_tokens;

	if (env->search.policy == KVS_POLICY_OWNER)
		return 0;
	env->search.pass_tokens = env->model.chunk_tokens ? env->model.chunk_tokens : 1;
	if (env->search.pass_tokens < least)
		return 0;
	return kvs_fail(-EINVAL,
		"--chunk %d with samples of %d and windows of %d tokens: what the policy last costs shows in later "
		"passes only, "
		"so a chunk must be shorter than both (--sample-tokens, --ctx)",
		env->search.pass_tokens, text->sample_tokens, text->window_tokens);
}

static double search_cost(const struct run_calibrate *env)
{
	return kvs_search_cost(&env->search, &env->text, kvs_checkpoint_config(env->ckpt)->layers);
}

static double fit_cost(const struct run_calibrate *env)
{
	return env->compensate ? kvs_compensate_cost(env->fit) : 0;
}

/* The time that is told is of all that follows, a fit included. */
static void plan_watch(struct run_calibrate *env, bool captured)
{
	double capture = captured ? kvs_capture_cost(&env->text) : 0;

	env->watch.whole = capture + search_cost(env) + fit_cost(env);
	run_watch_part(&env->watch, capture);
}

static int search(struct run_calibrate *env, struct run_session *session, struct kvs_search_result *result)
{
	struct kvs_capture capture = {0};
	bool captured = env->search.method != KVS_METHOD_REFIT; /* which asks for neither distances nor cosines */
	int err = 0;

	run_watch_signals();
	env->watch.quiet = env->model.quiet;
	env->search.progress = (struct kvs_calib_progress){run_watch_step, &env->watch};
	plan_watch(env, captured);
	if (captured)
		err = kvs_capture_run(session->engine, &env->text, &env->search.progress, &capture);
	run_watch_part(&env->watch, search_cost(env));
	if (!err)
		err = kvs_search_run(session->engine, &env->text, captured ? &capture : NULL, &env->search, result);
	run_watch_part(&env->watch, fit_cost(env));
	run_progress_clear();
	kvs_capture_clear(&capture);
	return err;
}

static int compensate(struct run_calibrate *env, struct run_session *session, const struct kvs_search_result *result)
{
	kvs_plan *plan;
	int err;

	if (!env->compensate || result->end == KVS_SEARCH_STOPPED)
		return 0;
	err = kvs_search_plan(result, &result->best, &env->search, &env->text, &env->plan_model, false, &plan);
	if (err)
		return err;
	err = run_compensate(env, session, plan);
	kvs_plan_free(plan);
	return err;
}

/* Whether the search found what it went on from, and so an earlier plan's matrices would be lost for nothing. */
static bool found_the_earlier(const struct run_calibrate *env, const struct kvs_search_result *result)
{
	if (!env->earlier || result->replayed < result->trial_count)
		return false;
	for (int l = 0; l < result->layers; l++)
		if (kvs_plan_owner(env->earlier, l, KVS_K) != result->best.k_owners[l] ||
			kvs_plan_owner(env->earlier, l, KVS_V) != result->best.v_owners[l])
			return false;
	return true;
}

/* The search is the long part: if the fit fails, its plan is written all the same, and then the failure is told. */
static int finish(
	struct run_calibrate *env, struct run_session *session, const struct kvs_search_result *result, double start)
{
	int failed = compensate(env, session, result), err;
	char *message = failed ? strdup(kvs_error()) : NULL;

	env->as_it_was = (failed || env->compensate_stopped) && found_the_earlier(env, result);
	err = run_calibrate_report(env, session, result, run_now_s() - start);
	if (!err && failed)
		err = kvs_fail(failed, "%s; %s %s", message ? message : "no memory", env->output,
			env->as_it_was ? "and its matrices are as they were" : "is written, without matrices");
	free(message);
	return err;
}

/* A search that failed after its first trial leaves them, as Ctrl-C does. Standard output gets whole plans alone. */
static int keep_trials(struct run_calibrate *env, const struct kvs_search_result *result, int failed)
{
	char *message;

	if (!result->trial_count || run_is_stdout(env->output))
		return failed;
	message = strdup(kvs_error());
	if (!run_calibrate_save(env, result))
		kvs_fail(failed, "%s; %s keeps the %zu trials before it: the same command with --resume goes on",
			message ? message : "no memory", env->output, result->trial_count);
	else
		kvs_fail(failed, "%s; nor could its trials be kept: %s", message ? message : "no memory", kvs_error());
	free(message);
	return failed;
}

static int search_and_finish(struct run_calibrate *env, struct run_session *session)
{
	struct kvs_search_result result = {0};
	double start = run_now_s();
	int err = load_replay(env);

	if (!err)
		err = open_engine(env, session);
	if (!err)
		err = search(env, session, &result);
	err = err ? keep_trials(env, &result, err) : finish(env, session, &result, start);
	kvs_search_result_clear(&result);
	return err;
}

static int run_in_session(struct run_calibrate *env, struct run_session *session)
{
	const struct kvs_config *config = kvs_checkpoint_config(session->ckpt);
	int err = 0;

	env->ckpt = env->search.ckpt = session->ckpt;
	env->compensate_options.skip = env->skip == SKIP_AUTO ? kvs_skip_rank(config) : env->skip;
	env->plan_model = kvs_checkpoint_plan_model(session->ckpt);
	if (!env->plan_path)
		err = set_share(env, config);
	if (!err && !env->plan_path)
		err = kvs_search_check(&env->search, config);
	if (!err)
		err = cut_text(env, session);
	if (!err)
		err = set_pass(env);
	if (!err && env->plan_path)
		err = open_engine(env, session);
	if (!err)
		err = env->plan_path ? run_compensate_plan(env, session) : search_and_finish(env, session);
	kvs_compensation_clear(&env->compensation);
	kvs_plan_free(env->earlier);
	free(env->stopped_path);
	return err;
}

static int calibrate(struct run_calibrate *env)
{
	struct run_session session;
	int err = check_output(env);

	if (!err)
		err = run_compensate_check(env);
	if (!err)
		err = run_session_open_model(&env->model, &session);
	if (err)
		return err;
	err = run_in_session(env, &session);
	if (!run_watch_stopped()) /* closing would wait for the device */
		run_session_close(&session);
	kvs_calib_text_clear(&env->text);
	kvs_calib_text_clear(&env->own);
	free(env->replay);
	return err;
}

static const struct argp_child children[] = {{&run_model_argp, 0, NULL, 0}, {&run_text_argp, 0, NULL, 0}, {0}};
static const struct argp argp = {options, parse, NULL, doc, children, NULL, NULL};

static int run_command(int argc, char **argv)
{
	struct run_calibrate env = {
		.search = {.method = KVS_METHOD_AUTO, .threshold = KVS_THRESHOLD, .drop_means = true}};
	int err;

	argp_parse(&argp, argc, argv, 0, NULL, &env);
	err = calibrate(&env);
	if (err) {
		run_complain();
		return err == -ECANCELED ? RUN_EXIT_INTERRUPTED : EXIT_FAILURE;
	}
	return env.end == KVS_SEARCH_EXHAUSTED ? RUN_EXIT_EXHAUSTED
	       : env.end == KVS_SEARCH_STOPPED ? RUN_EXIT_INTERRUPTED
					       : 0;
}

const struct run_subcommand run_calibrate_command = {
	"calibrate", "find a plan: which layers can share, and what it costs", &argp, run_command, NULL};
