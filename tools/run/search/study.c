/*
 * tools/run/search/study.c: `kvshare-run study` compares ways to share on a model: their cost, and what it depends on.
 *
 * The options and the directory are here, the work is in calib/. The directory is the state: study.json in it holds every
 * finished row, and the same command continues from there.
 */
#include "../profile/profile.h"
#include "../../../calib/calib.h"
#include "../run.h"

#include <errno.h>
#include <fcntl.h>
#include <float.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <unistd.h>

enum {
	OPTION_TEXT = 512,
	OPTION_CALIB,
	OPTION_METHODS,
	OPTION_RATES,
	OPTION_SEEDS,
	OPTION_MAX_TOKENS,
	OPTION_THRESHOLD,
	OPTION_COMPENSATE,
	OPTION_VARY,
	OPTION_TRIALS,
	OPTION_PLAN,
	OPTION_ALSO,
	OPTION_ALSO_CTX,
	OPTION_PROMPT,
	OPTION_PROMPT_TOKENS,
	OPTION_FIT_SAMPLES
};

static const struct argp_option options[] = {
	{"text", OPTION_TEXT, "FILE", 0, "the text to measure plans on (required)", 0},
	{"calib", OPTION_CALIB, "FILE", 0,
		"a text to search with, other than --text (required); up to 4, to see how much the choice matters", 0},
	{"output", 'o', "DIR", 0, "directory of the results; a stopped study continues from it (required)", 0},
	{"methods", OPTION_METHODS, "LIST", 0,
		"some of dissimilar, similar, random, threshold, adjacent, merge, nll, dissimilar-split, nll-split, "
		"refit (default: all, but refit, which chooses layers for refitted matrices, only with --compensate)",
		0},
	{"compensate", OPTION_COMPENSATE, "LIST", 0,
		"also measure each plan with matrices refitted for it on the text of its search; some of o (W_o of the "
		"layers that share), qo (their W_q too), all (as calibrate --compensate), skip (all, with --skip "
		"auto), "
		"linear (all, but layers that share have a linear map of their input in place of attention)",
		0},
	{"fit-samples", OPTION_FIT_SAMPLES, "N[xLENGTH]", 0,
		"with --compensate: matrices are fitted on N samples of LENGTH tokens (1024), spread over the text of "
		"the search (default: on the search's own samples)",
		0},
	{"rates", OPTION_RATES, "LIST", 0, "fractions of layers that share (default 0.125,0.25,0.375)", 0},
	{"seeds", OPTION_SEEDS, "N", 0, "number of random orders (default 5)", 0},
	{"vary", OPTION_VARY, "LIST", 0,
		"methods that are tried on a third and five thirds of the samples too, and on each further --calib "
		"(default dissimilar,similar,nll); or none",
		0},
	{"max-tokens", OPTION_MAX_TOKENS, "N", 0,
		"tokens of --text to predict (default 2048), in windows of --ctx (default 256)", 0},
	{"plan", OPTION_PLAN, "FILE", 0,
		"also measure this plan, alone and with the refitted matrices that lie beside it; up to 8", 0},
	{"also", OPTION_ALSO, "FILE", 0, "a further text to measure each plan on; up to 3", 0},
	{"also-ctx", OPTION_ALSO_CTX, "N", 0, "measure on --text in windows of N tokens too, such as 1024", 0},
	{"prompt", OPTION_PROMPT, "TEXT", 0, "also show how each model goes on with this, by the likeliest token", 0},
	{"prompt-tokens", OPTION_PROMPT_TOKENS, "N", 0, "with --prompt: go on by N tokens at most (default 48)", 0},
	{NULL, 0, NULL, 0, "Details of the search:", 3},
	{"threshold", OPTION_THRESHOLD, "T", 0,
		"walks keep a pair while the cosine of the hidden states is above T (default 0.5)", 3},
	{"trials", OPTION_TRIALS, "PLAN", 0,
		"a plan of calibrate, with the same text and options as one of these searches: its trials are not run "
		"again; up to 4",
		3},
	{0},
};

struct env {
	struct run_model_options model;
	struct kvs_study_options study;
	const char *output;
	bool varied_set;
	struct run_watch watch;
};

/* ---- options ---- */

static unsigned parse_methods(struct argp_state *state, const char *option, char *list)
{
	const char *names[KVS_STUDY_METHODS + 1] = {0};
	unsigned methods = 0;

	for (int m = 0; m < KVS_STUDY_METHODS; m++)
		names[m] = kvs_study_method_name(m);
	for (char *name, *rest = list; (name = strsep(&rest, ","));)
		methods |= 1u << run_parse_word(state, option, name, names);
	return methods;
}

static void parse_varied(struct argp_state *state, struct env *env, char *list)
{
	env->varied_set = true;
	env->study.varied = strcmp(list, "none") ? parse_methods(state, "--vary", list) : 0;
}

static void add_trials(struct argp_state *state, struct kvs_study_options *study, const char *path)
{
	if (study->trials_count == KVS_STUDY_MOST_TRIALS)
		argp_error(state, "--trials: %d plans are the most", KVS_STUDY_MOST_TRIALS);
	study->trials[study->trials_count++].name = path;
}

static void add_plan(struct argp_state *state, struct kvs_study_options *study, const char *path)
{
	if (study->plan_count == KVS_STUDY_MOST_PLANS)
		argp_error(state, "--plan: %d plans are the most", KVS_STUDY_MOST_PLANS);
	study->plans[study->plan_count++].name = path;
}

static void parse_fits(struct argp_state *state, struct kvs_study_options *study, char *list)
{
	const char *names[KVS_STUDY_FITS] = {0}; /* without "alone" */

	for (int f = KVS_STUDY_ALONE + 1; f < KVS_STUDY_FITS; f++)
		names[f - 1] = kvs_study_fit_name(f);
	for (char *name, *rest = list; (name = strsep(&rest, ","));)
		study->fits |= 1u << (KVS_STUDY_ALONE + 1 + run_parse_word(state, "--compensate", name, names));
}

static void parse_rates(struct argp_state *state, struct kvs_study_options *study, char *list)
{
	for (char *rate, *rest = list; (rate = strsep(&rest, ","));) {
		double value = run_parse_real(state, "--rates", rate, DBL_MIN, 1 - DBL_EPSILON, "between 0 and 1");
		if (study->rate_count == KVS_STUDY_MOST_RATES)
			argp_error(state, "--rates: %d are the most", KVS_STUDY_MOST_RATES);
		study->rates[study->rate_count++] = value;
	}
}

static void add_calib(struct argp_state *state, struct kvs_study_options *study, const char *path)
{
	if (study->calib_count == KVS_STUDY_MOST_SOURCES)
		argp_error(state, "--calib: %d texts are the most", KVS_STUDY_MOST_SOURCES);
	study->calib[study->calib_count++].name = path;
}

static void add_also(struct argp_state *state, struct kvs_study_options *study, const char *path)
{
	if (study->also_count == KVS_STUDY_MOST_ALSO)
		argp_error(state, "--also: %d texts are the most", KVS_STUDY_MOST_ALSO);
	study->also[study->also_count++].name = path;
}

static void check(struct argp_state *state, const struct env *env)
{
	int from_stdin = env->study.text.name && !strcmp(env->study.text.name, "-");

	for (int i = 0; i < env->study.calib_count; i++)
		from_stdin += !strcmp(env->study.calib[i].name, "-");
	for (int i = 0; i < env->study.also_count; i++)
		from_stdin += !strcmp(env->study.also[i].name, "-");
	if (!env->study.text.name)
		argp_error(state, "which text to measure on? Name it with --text FILE");
	if (!env->study.calib_count)
		argp_error(state, "which text to search with? Name it with --calib FILE");
	if (env->varied_set && env->study.varied & ~kvs_study_methods(&env->study))
		argp_error(state, "--vary names a method that is not among --methods");
	if (env->study.fit.count && !env->study.fits)
		argp_error(state, "--fit-samples belongs to --compensate");
	if (env->study.fits && env->study.methods == 1u << KVS_STUDY_MERGE)
		argp_error(state, "--compensate refits matrices for plans, and merge makes none: name other --methods");
	if (from_stdin > 1)
		argp_error(state, "only one text can come from standard input");
	if (!env->output || !*env->output)
		argp_error(state, "where to? Name a directory with -o DIR");
	if (run_is_stdout(env->output))
		argp_error(state, "-o - is standard output: a study writes a directory");
}

static error_t parse(int key, char *text, struct argp_state *state)
{
	struct env *env = state->input;

	switch (key) {
	case ARGP_KEY_INIT:
		state->child_inputs[0] = &env->model;
		state->child_inputs[1] = &env->study.cut;
		return 0;
	case OPTION_TEXT:
		env->study.text.name = text;
		return 0;
	case OPTION_CALIB:
		add_calib(state, &env->study, text);
		return 0;
	case 'o':
		env->output = text;
		return 0;
	case OPTION_METHODS:
		env->study.methods |= parse_methods(state, "--methods", text);
		return 0;
	case OPTION_VARY:
		parse_varied(state, env, text);
		return 0;
	case OPTION_PROMPT:
		env->study.prompt = text;
		return 0;
	case OPTION_PROMPT_TOKENS:
		env->study.prompt_tokens = run_parse_number(state, "--prompt-tokens", text, 1, 1 << 16);
		return 0;
	case OPTION_ALSO:
		add_also(state, &env->study, text);
		return 0;
	case OPTION_ALSO_CTX:
		env->study.also_ctx = run_parse_number(state, "--also-ctx", text, 16, 1 << 20);
		return 0;
	case OPTION_TRIALS:
		add_trials(state, &env->study, text);
		return 0;
	case OPTION_PLAN:
		add_plan(state, &env->study, text);
		return 0;
	case OPTION_COMPENSATE:
		parse_fits(state, &env->study, text);
		return 0;
	case OPTION_FIT_SAMPLES:
		env->study.fit = run_parse_fit_samples(state, text);
		return 0;
	case OPTION_RATES:
		parse_rates(state, &env->study, text);
		return 0;
	case OPTION_SEEDS:
		env->study.seeds = run_parse_number(state, "--seeds", text, 1, 1000);
		return 0;
	case OPTION_MAX_TOKENS:
		env->study.text_tokens = run_parse_number(state, "--max-tokens", text, 16, 1 << 24);
		return 0;
	case OPTION_THRESHOLD:
		env->study.threshold =
			run_parse_real(state, "--threshold", text, -1, 1, "from -1 to 1, as a cosine is,");
		return 0;
	case ARGP_KEY_ARG:
		argp_error(state, "what is \"%s\"? The texts go behind --text and --calib", text);
		return 0;
	case ARGP_KEY_END:
		check(state, env);
		return 0;
	}
	return ARGP_ERR_UNKNOWN;
}

static const char doc[] =
	"Compare ways to share KV caches between a model's layers: KVSharer's walk from both ends, "
	"random plans with and without its filter, neighbours as in CLA, neighbours merged as in "
	"MiniCache, greedy by loss, K and V apart, and greedy by what refitted matrices leave. Each is "
	"searched on one text and measured on another.\v"
	"A third and five thirds of the samples, and other parts of the text, are tried too (--vary), to "
	"see what the result depends on.\n\n"
	"Writes DIR/study.md with tables and charts, and DIR/study.json with every plan and figure. "
	"Ctrl-C loses at most the row in progress, and exits with 130; the same command continues from "
	"there, and so does one that asks for more --methods or --seeds.\n\n"
	"Examples:\n"
	"  kvshare-run study -m DIR --calib book.txt --text other.txt -o study/\n"
	"  kvshare-run study -m DIR --calib a.txt --text b.txt -o dir/ --compensate all\n";

/* ---- running ---- */

static int read_source(struct kvs_source *source)
{
	char *text;
	int err = run_read_text(source->name, &text, &source->count);

	if (!err)
		source->bytes = text;
	return err;
}

static int read_sources(struct kvs_study_options *study)
{
	int err = read_source(&study->text);

	for (int i = 0; i < study->calib_count && !err; i++)
		err = read_source(&study->calib[i]);
	for (int i = 0; i < study->also_count && !err; i++)
		err = read_source(&study->also[i]);
	for (int i = 0; i < study->trials_count && !err; i++)
		err = kvs_plan_load(study->trials[i].name, &study->trials[i].plan);
	for (int i = 0; i < study->plan_count && !err; i++)
		err = kvs_plan_load(study->plans[i].name, &study->plans[i].plan);
	return err;
}

/* Those of this model, each with its refitted matrices. */
static int check_plans(struct kvs_study_options *study, const kvs_checkpoint *ckpt)
{
	int err = 0;

	for (int i = 0; i < study->plan_count && !err; i++) {
		struct kvs_study_plan *given = &study->plans[i];
		err = run_plan_check(given->plan, ckpt);
		if (!err)
			err = run_patch_load(given->name, given->plan, ckpt, &given->patch);
		if (err)
			kvs_fail(err, "%s: %s", given->name, kvs_error());
	}
	return err;
}

static void free_sources(struct kvs_study_options *study)
{
	free((char *)study->text.bytes);
	for (int i = 0; i < study->calib_count; i++)
		free((char *)study->calib[i].bytes);
	for (int i = 0; i < study->also_count; i++)
		free((char *)study->also[i].bytes);
	for (int i = 0; i < study->trials_count; i++)
		kvs_plan_free(study->trials[i].plan);
	for (int i = 0; i < study->plan_count; i++) {
		kvs_plan_free(study->plans[i].plan);
		kvs_patch_close(study->plans[i].patch);
	}
}

static int say(const struct env *env, const kvs_study *study)
{
	char *text;
	int err = env->model.json ? kvs_study_json(study, &text) : kvs_study_markdown(study, &text);

	if (err)
		return err;
	fputs(text, stdout);
	free(text);
	return run_flush_stdout();
}

/* A stopped run is written and printed too. */
static int finish(const struct env *env, const kvs_study *study, int run_err)
{
	size_t rows, left = kvs_study_left(study, &rows);
	int err;

	if (left == rows)
		return kvs_fail(run_err, "stopped before a row was done: there is nothing to write");
	err = kvs_study_write(study, env->output);
	if (!err)
		err = say(env, study);
	if (!err && !run_err && !env->model.quiet)
		fprintf(stderr, "%s/study.md holds these tables, with charts\n", env->output);
	if (!run_err)
		return err;
	if (err)
		run_complain();
	return kvs_fail(run_err,
		"stopped after %zu of %zu rows; %s/study.json holds those; the same command continues from here",
		rows - left, rows, env->output);
}

static int run_rows(struct env *env, struct run_session *session, kvs_study *study, const char *path)
{
	struct kvs_calib_progress progress = {run_watch_step, &env->watch};
	size_t rows;
	int err = kvs_study_resume(study, path);

	if (!err && kvs_study_left(study, &rows)) {
		err = kvs_study_open_engine(session->cu, session->ckpt, study, &session->engine);
		run_progress_clear();
		run_watch_signals();
		if (!err)
			err = kvs_study_run(study, session->engine, path, &progress);
		run_progress_clear();
	}
	return err && err != -ECANCELED ? err : finish(env, study, err);
}

/* Two studies in one directory would overwrite each other. */
static int lock_directory(const char *path, int *lock)
{
	int err = run_make_directory(path);

	if (err)
		return err;
	*lock = open(path, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	if (*lock < 0)
		return kvs_fail(-errno, "%s: %s", path, strerror(errno));
	if (!flock(*lock, LOCK_EX | LOCK_NB))
		return 0;
	err = errno == EWOULDBLOCK ? kvs_fail(-EBUSY, "%s: another study is running there", path)
				   : kvs_fail(-errno, "%s: cannot be locked: %s", path, strerror(errno));
	close(*lock);
	return err;
}

static int run_in_directory(struct env *env, struct run_session *session, kvs_study *study)
{
	char *path;
	int lock, err;

	if (asprintf(&path, "%s/study.json", env->output) < 0)
		return kvs_fail(-ENOMEM, "no memory for a path");
	err = lock_directory(env->output, &lock);
	if (!err) {
		err = run_rows(env, session, study, path);
		close(lock);
	}
	free(path);
	return err;
}

/* The directory is created last, so that bad input leaves nothing behind. */
static int run_in_session(struct env *env, struct run_session *session)
{
	kvs_study *study;
	int err;

	env->study.cut.window_tokens = env->model.ctx_tokens;
	env->study.cu = session->cu;
	env->study.engine = (struct kvs_engine_options){
		.kv_dtype = env->model.kv_dtype_set ? env->model.kv_dtype : kvs_checkpoint_config(session->ckpt)->dtype,
		.kv_dtype_set = true,
		.chunk_tokens = env->model.chunk_tokens,
		.no_premap = env->model.no_premap,
		.stop = run_watch_stopped,
		.progress = env->model.quiet ? NULL : run_show_load};
	run_profile_engine(session->profile, &env->study.engine);
	err = check_plans(&env->study, session->ckpt);
	if (!err)
		err = kvs_study_create(session->ckpt, session->tokenizer, &env->study, &study);
	if (err)
		return err;
	err = run_in_directory(env, session, study);
	kvs_study_free(study);
	return err;
}

static int run(struct env *env)
{
	struct run_session session;
	int err = read_sources(&env->study);

	if (!err)
		err = run_session_open_model(&env->model, &session);
	if (!err) {
		env->watch.quiet = env->model.quiet;
		err = run_in_session(env, &session);
		if (!run_watch_stopped()) /* closing would wait for the device */
			run_session_close(&session);
	}
	free_sources(&env->study);
	return err;
}

static const struct argp_child children[] = {{&run_model_argp, 0, NULL, 0}, {&run_text_argp, 0, NULL, 0}, {0}};
static const struct argp argp = {options, parse, NULL, doc, children, NULL, NULL};

static int run_command(int argc, char **argv)
{
	struct env env = {.study = {.threshold = KVS_THRESHOLD, .varied = KVS_STUDY_VARIED, .prompt_tokens = 48}};
	int err;

	argp_parse(&argp, argc, argv, 0, NULL, &env);
	err = run(&env);
	if (!err)
		return EXIT_SUCCESS;
	run_complain();
	return err == -ECANCELED ? RUN_EXIT_INTERRUPTED : EXIT_FAILURE;
}

const struct run_subcommand run_study_command = {
	"study", "compare ways to share on a model: loss against memory, tables and charts", &argp, run_command, NULL};
