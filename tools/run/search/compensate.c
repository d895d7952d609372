/*
 * tools/run/search/compensate.c: `calibrate --compensate`: refits after the search, and what is written of them.
 *
 * They are applied only where they help on the held-back text. The patch is written before the plan that names it, as
 * PLAN.patch.new, and takes its name when the plan is there: if the patch cannot be written, the plan is written without it; if
 * the plan cannot, an old plan keeps its old patch.
 */
#include "calibrate.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

int run_compensate_check(const struct run_calibrate *env)
{
	char *path = NULL;
	int err = 0;

	if (env->search.sweep || run_is_stdout(env->output))
		return 0;
	if (env->compensate)
		return run_patch_check_name(env->output);
	if (!run_patch_is_named(env->output))
		return 0;
	err = run_patch_path(env->output, &path);
	if (!err && !access(path, F_OK))
		err = kvs_fail(-EEXIST,
			"%s: belongs to an earlier %s: remove it, or give --compensate, which replaces it", path,
			env->output);
	free(path);
	return err;
}

/*
 * With --resume and a plan's file, there must be a stopped fit: nothing else is to be resumed. After a search, which may have been
 * stopped before its plan was fitted, there may be none.
 */
static int find_stopped(struct run_calibrate *env)
{
	int err = run_stopped_path(env->output, &env->stopped_path);
	bool exists = !err && !access(env->stopped_path, F_OK);

	if (err)
		return err;
	env->compensate_options.stopped = env->stopped_path;
	env->compensate_options.resume = env->resume && (exists || env->plan_path);
	if (exists && !env->resume && !env->model.quiet)
		fprintf(stderr, "kvshare-run: %s, of a fit that was stopped, is not used: --resume goes on from it\n",
			env->stopped_path);
	return 0;
}

static int write_patch(struct run_calibrate *env, const kvs_plan *plan)
{
	const struct kvs_compensation *c = &env->compensation;
	struct kvs_patch_matrix *matrices = calloc(c->count, sizeof(*matrices));
	char *path = NULL;
	int err = matrices ? run_patch_new_path(env->output, &path) : kvs_fail(-ENOMEM, "no memory for a patch");

	for (size_t i = 0; i < c->count && matrices; i++)
		matrices[i] = (struct kvs_patch_matrix){.name = c->refits[i].name,
			.rows = c->refits[i].rows,
			.cols = c->refits[i].cols,
			.dtype = c->refits[i].dtype,
			.data = c->refits[i].values};
	if (!err)
		err = kvs_patch_write(path, plan, env->ckpt, matrices, c->count, env->patch_digest);
	free(matrices);
	free(path);
	return err;
}

int run_compensate(struct run_calibrate *env, struct run_session *session, const kvs_plan *plan)
{
	int err = find_stopped(env);

	if (!err)
		err = kvs_measure_nll(session->engine, env->fit, NULL, NULL, &env->fit_full_nll);
	if (!err)
		err = kvs_compensate(session->engine, session->ckpt, env->fit, plan, &env->compensate_options,
			&env->search.progress, &env->compensation);
	run_progress_clear();
	env->compensate_stopped = err == -ECANCELED;
	if (env->compensate_stopped)
		return 0; /* the plan that was found is written all the same */
	if (!err && env->compensation.applied)
		err = write_patch(env, plan);
	env->compensated = !err;
	return err;
}

static const char *matrix_name(enum kvs_refit_kind kind)
{
	switch (kind) {
	case KVS_REFIT_QUERIES:
		return "q_proj";
	case KVS_REFIT_DOWN:
		return "down_proj";
	case KVS_REFIT_SKIP_A:
		return "skip_a";
	case KVS_REFIT_SKIP_B:
		return "skip_b";
	default:
		return "o_proj";
	}
}

static bool has_skip(const struct kvs_compensation *c)
{
	for (size_t i = 0; i < c->count; i++)
		if (c->refits[i].kind == KVS_REFIT_SKIP_A)
			return true;
	return false;
}

json_t *run_compensate_json(const struct run_calibrate *env)
{
	const struct kvs_compensation *c = &env->compensation;
	json_t *layers = json_array(), *record;

	for (size_t i = 0; i < c->count; i++) {
		const struct kvs_refit *refit = &c->refits[i];
		json_array_append_new(
			layers, json_pack("{s:i,s:s,s:o,s:f,s:f}", "layer", refit->layer, "matrix",
					matrix_name(refit->kind), "ridge", run_json_number(refit->strength),
					"error_before", refit->before, "error_after", refit->after));
	}
	record = json_pack("{s:b,s:s,s:i,s:f,s:f,s:f,s:b,s:o}", "applied", c->applied, "text", env->fit->digest,
		"tokens", c->tokens, "full_nll", env->fit_full_nll, "plain_nll", c->plain_nll, "nll", c->nll,
		"queries_left", c->queries_normalised, "layers", layers);
	if (has_skip(c)) /* exports warn of it */
		json_object_set_new(record, "skip_rank", json_integer(c->skip));
	return record;
}

int run_compensate_record(const struct run_calibrate *env, kvs_plan *plan)
{
	char *text;
	json_t *calibration, *record;
	int err;

	if (!env->compensated)
		return 0;
	err = kvs_plan_calibration(plan, &text);
	if (err == -ENOENT)
		text = strdup("{}"); /* a plan that was made by hand */
	else if (err)
		return err;
	calibration = text ? json_loads(text, 0, NULL) : NULL;
	free(text);
	record = run_compensate_json(env);
	if (env->compensation.applied)
		json_object_set_new(record, "patch", json_string(env->patch_digest));
	json_object_set_new(calibration, "compensation", record);
	text = json_dumps(calibration, 0);
	json_decref(calibration);
	err = text ? kvs_plan_set_calibration(plan, text) : kvs_fail(-ENOMEM, "no memory for a record");
	free(text);
	return err;
}

static int remove_file(const char *path, const char *what)
{
	if (unlink(path) && errno != ENOENT)
		return kvs_fail(-errno, "%s: %s cannot be removed: %s", path, what, strerror(errno));
	return 0;
}

/* The new patch gets its name. A link there is replaced: it may lead to another plan's. */
static int name_patch(const char *from, const char *to)
{
	int err;

	if (!rename(from, to))
		return 0;
	err = kvs_fail(-errno, "%s: cannot be named %s: %s", from, to, strerror(errno));
	unlink(from);
	return err;
}

static int settle_patch(const struct run_calibrate *env, int failed)
{
	bool made = env->compensated && env->compensation.applied;
	char *from = NULL, *to = NULL;
	int err = run_patch_new_path(env->output, &from);

	if (!err)
		err = run_patch_path(env->output, &to);
	if (!err && made && failed)
		unlink(from);
	else if (!err && made)
		err = name_patch(from, to);
	else if (!err && !failed)
		err = remove_file(to, "an earlier plan's matrices");
	free(from);
	free(to);
	return failed ? failed : err;
}

int run_compensate_settle(const struct run_calibrate *env, int failed)
{
	int err = env->compensate ? settle_patch(env, failed) : failed;

	return err || !env->compensated ? err : remove_file(env->stopped_path, "what a stopped fit left");
}

int run_compensate_stop(const struct run_calibrate *env, bool plan_written)
{
	const char *plan = env->as_it_was ? "and its matrices are as they were"
			   : plan_written ? "is written without matrices"
					  : "is not written";
	bool kept = !access(env->stopped_path, F_OK); /* of an earlier stop */

	if (env->compensation.layers)
		return kvs_fail(-ECANCELED,
			"stopped while compensating: %s %s; %s keeps the matrices of the first %d of %d layers; the "
			"same command with --resume continues from there",
			env->output, plan, env->stopped_path, env->compensation.layers,
			kvs_checkpoint_config(env->ckpt)->layers);
	if (kept)
		return kvs_fail(-ECANCELED,
			"stopped while compensating, before a layer was fitted: %s %s; %s, of an earlier stop, is kept "
			"as it was: --resume goes on from it",
			env->output, plan, env->stopped_path);
	return kvs_fail(-ECANCELED, "stopped while compensating, before a layer was fitted: %s %s%s", env->output, plan,
		plan_written ? "; the same command with --resume fits it without another search" : "");
}

void run_compensate_print(const struct run_calibrate *env, FILE *out)
{
	const struct kvs_compensation *c = &env->compensation;
	const char *own = env->fit == &env->own && !env->plan_path ? ", on tokens between these" : "";
	double full = env->fit_full_nll;
	int counts[KVS_REFIT_SKIP_B + 1] = {0};

	if (!env->compensated)
		return;
	for (size_t i = 0; i < c->count; i++)
		counts[c->refits[i].kind]++;
	if (c->applied)
		fprintf(out,
			"compensated: %d W_q, %d W_o and %d W_down refitted on %d tokens: loss %.4f, %+.4f over no "
			"sharing (the plan alone %+.4f)%s\n",
			counts[KVS_REFIT_QUERIES], counts[KVS_REFIT_OUTPUTS] + counts[KVS_REFIT_ABOVE],
			counts[KVS_REFIT_DOWN], c->tokens, c->nll, c->nll - full, c->plain_nll - full, own);
	else
		fprintf(out,
			"not compensated: on the held-back text the loss would be %.4f, with the plan alone it is "
			"%.4f\n",
			c->nll, c->plain_nll);
	if (c->applied && counts[KVS_REFIT_SKIP_A])
		fprintf(out, "%d layers have a skip of rank %d, which only kvshare runs\n", counts[KVS_REFIT_SKIP_A],
			c->skip);
	if (c->skip && !counts[KVS_REFIT_SKIP_A])
		fprintf(out, "no layer has a skip: none takes K and V both from others, or it did not help\n");
	if (c->queries_normalised)
		fprintf(out, "queries were left as they are: this model normalises them behind W_q\n");
}
