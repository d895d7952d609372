/*
 * tools/run/search/compensate.c: `calibrate --compensate`: refits after the search, and what is written of them.
 *
 * They are applied only where they help on the held-back text. The patch is written before the plan that names it: if the
 * plan cannot be written, the old plan and the new patch do not fit, and are refused.
 */
#include "calibrate.h"

#include <errno.h>
#include <stdlib.h>
#include <unistd.h>

int run_compensate_check(const struct run_calibrate *env)
{
	char *path = NULL;
	int err = 0;

	if (env->compensate || env->search.sweep || run_is_stdout(env->output))
		return 0;
	err = run_patch_path(env->output, &path);
	if (!err && !access(path, F_OK))
		err = kvs_fail(-EEXIST,
			"%s: belongs to an earlier %s: remove it, or give --compensate, which replaces it", path,
			env->output);
	free(path);
	return err;
}

int run_compensate(struct run_calibrate *env, struct run_session *session, const struct kvs_search_result *result)
{
	kvs_plan *plan;
	int err;

	if (!env->compensate || result->end == KVS_SEARCH_STOPPED)
		return 0;
	err = kvs_search_plan(result, &result->best, &env->search, &env->text, &env->plan_model, false, &plan);
	if (err)
		return err;
	err = kvs_compensate(
		session->engine, &env->text, plan, KVS_COMPENSATE_RIDGE, &env->search.progress, &env->compensation);
	run_progress_clear();
	kvs_plan_free(plan);
	env->compensated = !err;
	env->compensate_stopped = err == -ECANCELED;
	return env->compensate_stopped ? 0 : err; /* the plan that was found is written all the same */
}

json_t *run_compensate_json(const struct run_calibrate *env)
{
	const struct kvs_compensation *c = &env->compensation;
	json_t *layers = json_array();

	for (size_t i = 0; i < c->count; i++)
		json_array_append_new(
			layers, json_pack("{s:i,s:s,s:f,s:f}", "layer", c->refits[i].layer, "matrix", "o_proj",
					"error_before", c->refits[i].before, "error_after", c->refits[i].after));
	return json_pack("{s:b,s:f,s:i,s:f,s:f,s:o}", "applied", c->applied, "ridge", c->ridge, "tokens", c->tokens,
		"plain_nll", c->plain_nll, "nll", c->nll, "layers", layers);
}

static int write_patch(const struct run_calibrate *env, const kvs_plan *plan, char digest[KVS_PATCH_DIGEST])
{
	const struct kvs_compensation *c = &env->compensation;
	struct kvs_patch_matrix *matrices = calloc(c->count, sizeof(*matrices));
	char *path = NULL;
	int err = matrices ? run_patch_path(env->output, &path) : kvs_fail(-ENOMEM, "no memory for a patch");

	for (size_t i = 0; i < c->count && matrices; i++)
		matrices[i] = (struct kvs_patch_matrix){.name = c->refits[i].name,
			.rows = c->refits[i].rows,
			.cols = c->refits[i].cols,
			.dtype = KVS_F32,
			.data = c->refits[i].values};
	if (!err)
		err = kvs_patch_write(
			path, plan, env->ckpt, kvs_checkpoint_config(env->ckpt)->dtype, matrices, c->count, digest);
	free(matrices);
	free(path);
	return err;
}

static int add_record(const struct run_calibrate *env, kvs_plan *plan, const char *digest)
{
	char *text;
	json_t *calibration, *record;
	int err = kvs_plan_calibration(plan, &text);

	if (err)
		return err;
	calibration = json_loads(text, 0, NULL);
	free(text);
	record = run_compensate_json(env);
	if (digest)
		json_object_set_new(record, "patch", json_string(digest));
	json_object_set_new(calibration, "compensation", record);
	text = json_dumps(calibration, 0);
	json_decref(calibration);
	err = text ? kvs_plan_set_calibration(plan, text) : kvs_fail(-ENOMEM, "no memory for a record");
	free(text);
	return err;
}

int run_compensate_save(const struct run_calibrate *env, kvs_plan *plan)
{
	char digest[KVS_PATCH_DIGEST];
	int err = 0;

	if (!env->compensated)
		return 0;
	if (env->compensation.applied)
		err = write_patch(env, plan, digest);
	return err ? err : add_record(env, plan, env->compensation.applied ? digest : NULL);
}

int run_compensate_remove(const struct run_calibrate *env)
{
	char *path = NULL;
	int err;

	if (!env->compensate || (env->compensated && env->compensation.applied))
		return 0;
	err = run_patch_path(env->output, &path);
	if (!err && unlink(path) && errno != ENOENT)
		err = kvs_fail(-errno, "%s: an earlier plan's matrices cannot be removed", path);
	free(path);
	return err;
}

void run_compensate_print(const struct run_calibrate *env, double full_nll, FILE *out)
{
	const struct kvs_compensation *c = &env->compensation;

	if (env->compensate_stopped)
		fprintf(stderr,
			"kvshare-run: stopped while compensating: the plan is written without; the same command "
			"with --resume does it\n");
	if (!env->compensated)
		return;
	if (c->applied)
		fprintf(out,
			"compensated: %zu output projections refitted on %d tokens: loss %.4f, %+.4f over no sharing "
			"(the plan alone %+.4f)\n",
			c->count, c->tokens, c->nll, c->nll - full_nll, c->plain_nll - full_nll);
	else
		fprintf(out,
			"not compensated: on the held-back text the loss would be %.4f, with the plan alone it is "
			"%.4f\n",
			c->nll, c->plain_nll);
}
