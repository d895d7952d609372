/*
 * tools/run/search/compensate_plan.c: `calibrate --compensate --plan FILE`: matrices for a plan that exists already.
 *
 * There is no search, so --resume is of the fit alone. The plan is written again, with its record of where it comes from, and the patch beside it.
 */
#include "calibrate.h"

#include <errno.h>
#include <stdlib.h>

static int save(const struct run_calibrate *env, kvs_plan *plan)
{
	char *text = NULL;
	int err = run_compensate_record(env, plan);

	if (!err)
		err = kvs_plan_text(plan, &text);
	if (!err)
		err = run_write_output(env->output, text);
	free(text);
	return run_compensate_settle(env, err);
}

static int print(const struct run_calibrate *env)
{
	json_t *object;

	if (!env->model.json) {
		run_compensate_print(env, stdout);
		return 0;
	}
	object = json_pack(
		"{s:f,s:i}", "full_nll", env->fit_full_nll, "nll_tokens", env->fit->windows * env->fit->window_tokens);
	json_object_set_new(object, "compensation", run_compensate_json(env));
	return run_print_json(object);
}

static int check_shares(const kvs_plan *plan, const char *path)
{
	for (int l = 0; l < kvs_plan_layers(plan); l++)
		if (kvs_plan_owner(plan, l, KVS_K) != l || kvs_plan_owner(plan, l, KVS_V) != l)
			return 0;
	return kvs_fail(-EINVAL, "%s: shares nothing: there is nothing to compensate", path);
}

/* A fit would take the refitted checkpoint for the original, and the new plan would no longer say that its weights are. */
static int check_original(const kvs_plan *plan, const char *path)
{
	char digest[KVS_PATCH_DIGEST];
	int err = run_patch_in_weights(plan, digest);

	if (err || !*digest)
		return err;
	return kvs_fail(-EINVAL,
		"%s: its refitted matrices are in this model's weights already: name the model that they were fitted "
		"to with -m, and a plan for it",
		path);
}

static int compensate(struct run_calibrate *env, struct run_session *session, kvs_plan *plan)
{
	int err = run_compensate(env, session, plan);

	if (!err && env->compensate_stopped)
		return run_compensate_stop(env, false);
	if (!err)
		err = save(env, plan);
	return err ? err : print(env);
}

int run_compensate_plan(struct run_calibrate *env, struct run_session *session)
{
	kvs_plan *plan;
	int err = kvs_plan_load(env->plan_path, &plan);

	if (err)
		return err;
	run_watch_signals();
	env->watch.quiet = env->model.quiet;
	env->search.progress = (struct kvs_calib_progress){run_watch_step, &env->watch};
	err = run_plan_check(plan, env->ckpt);
	if (!err)
		err = check_shares(plan, env->plan_path);
	if (!err)
		err = check_original(plan, env->plan_path);
	if (!err)
		err = compensate(env, session, plan);
	run_progress_clear();
	kvs_plan_free(plan);
	return err;
}
