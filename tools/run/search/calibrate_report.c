/*
 * tools/run/search/calibrate_report.c: the files that `kvshare-run calibrate` writes, and its output.
 */
#include "calibrate.h"

#include <errno.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

#define NOTABLE_NATS 0.05 /* a perplexity of 5 % more, of which text shows something */

/* ---- files ---- */

static int save_point(const struct run_calibrate *env, const struct kvs_search_result *result,
	const struct kvs_search_point *point, bool with_trials, const char *path)
{
	kvs_plan *plan;
	char *text;
	int err = kvs_search_plan(result, point, &env->search, &env->text, &env->plan_model, with_trials, &plan);

	if (err)
		return err;
	if (point == &result->best)
		err = run_compensate_record(env, plan);
	if (!err)
		err = kvs_plan_text(plan, &text);
	kvs_plan_free(plan);
	if (err)
		return err;
	err = run_write_output(path, text);
	free(text);
	return err;
}

static int in_directory(const char *dir, const char *name, char **path)
{
	return asprintf(path, "%s/%s", dir, name) < 0 ? kvs_fail(-ENOMEM, "no memory for a path") : 0;
}

static int save_sweep_plan(const struct run_calibrate *env, const struct kvs_search_result *result, size_t i)
{
	char name[32], *path;
	int err;

	snprintf(name, sizeof(name), "plan-%02d.json", result->sweep[i].tensors / 2);
	err = in_directory(env->output, name, &path);
	if (err)
		return err;
	err = save_point(env, result, &result->sweep[i], false, path);
	free(path);
	return err;
}

static int save_sweep(const struct run_calibrate *env, const struct kvs_search_result *result)
{
	char *plan = NULL, *json = NULL, *svg = NULL;
	int err = in_directory(env->output, RUN_SWEEP_PLAN, &plan);

	if (!err)
		err = in_directory(env->output, "sweep.json", &json);
	if (!err)
		err = in_directory(env->output, "sweep.svg", &svg);
	if (!err)
		err = save_point(env, result, &result->best, true, plan);
	for (size_t i = 0; i < result->sweep_count && !err; i++)
		err = save_sweep_plan(env, result, i);
	if (!err)
		err = kvs_search_write_sweep(result, json, svg);
	free(plan);
	free(json);
	free(svg);
	return err;
}

/* ---- JSON ---- */

static json_t *ints_json(const int *values, int count)
{
	json_t *array = json_array();

	for (int i = 0; i < count; i++)
		json_array_append_new(array, json_integer(values[i]));
	return array;
}

static json_t *walks_json(const struct kvs_search_result *result)
{
	json_t *object = json_object();

	for (int walk = 0; walk < KVS_WALK_COUNT; walk++)
		if (result->walks[walk].k_owners)
			json_object_set_new(object, kvs_walk_name(walk),
				json_pack("{s:i,s:o}", "shared_tensors", result->walks[walk].tensors, "nll",
					run_json_number(result->walks[walk].nll)));
	return object;
}

/* The trials, from the plan's own record: they read the same here as in the file. */
static int trials_json(const struct run_calibrate *env, const struct kvs_search_result *result, json_t **out)
{
	kvs_plan *plan;
	json_t *calibration;
	char *json = NULL;
	int err = kvs_search_plan(result, &result->best, &env->search, &env->text, &env->plan_model, true, &plan);

	if (err)
		return err;
	err = kvs_plan_calibration(plan, &json);
	calibration = err ? NULL : json_loads(json, 0, NULL);
	*out = json_incref(json_object_get(calibration, "trials"));
	json_decref(calibration);
	free(json);
	kvs_plan_free(plan);
	return err;
}

static int print_result(const struct run_calibrate *env, const struct run_session *session,
	const struct kvs_search_result *result, double seconds)
{
	static const char *const ends[] = {"complete", "exhausted", "stopped"};
	const struct kvs_search_point *best = &result->best;
	bool same = !memcmp(best->k_owners, best->v_owners, sizeof(*best->k_owners) * result->layers);
	json_t *trials, *object;
	int err = trials_json(env, result, &trials);

	if (err)
		return err;
	object = json_pack("{s:o,s:o,s:o,s:o,s:o,s:f,s:s,s:s,s:i,s:i,s:o,s:o,s:i,s:b,s:i,s:I,s:o,s:f,s:f,s:o,s:o}",
		"owners", same ? ints_json(best->k_owners, result->layers) : json_null(), "k_owners",
		ints_json(best->k_owners, result->layers), "v_owners", ints_json(best->v_owners, result->layers),
		"cosine", run_json_number(result->cosine), "trials", trials, "seconds", seconds, "end",
		ends[result->end], "walk", kvs_walk_name(best->walk), "wanted_tensors", 2 * env->search.share,
		"shared_tensors", best->tensors, "nll", run_json_number(best->nll), "full_nll",
		run_json_number(result->full_nll), "nll_tokens", env->text.windows * env->text.window_tokens,
		"held_back", env->text.held_back, "skipped_lines", env->text.skipped_lines, "replayed",
		(json_int_t)result->replayed, "walks", walks_json(result), "search_s", result->search_s, "measure_s",
		result->measure_s, "device", run_json_device(session->cu), "model",
		run_json_model(kvs_engine_config(session->engine)));
	json_object_set_new(object, "policy", json_string(run_policy_name(env->search.policy)));
	if (env->compensated)
		json_object_set_new(object, "compensation", run_compensate_json(env));
	return run_print_json(object);
}

/* ---- words ---- */

static void print_loss(FILE *out, const struct run_calibrate *env, const struct kvs_search_result *result)
{
	double full = result->full_nll, shared = result->best.nll;

	if (isnan(shared)) {
		fprintf(out, "loss not measured, without sharing %.4f nats a token\n", full);
		return;
	}
	fprintf(out,
		"loss %.4f, without sharing %.4f: %+.4f nats a token (perplexity %.4g, was %.4g), on %d tokens %s%s\n",
		shared, full, shared - full, exp(shared), exp(full), env->text.windows * env->text.window_tokens,
		env->text.held_back ? "after the samples" : "of the samples themselves: the text has no others",
		env->search.policy == KVS_POLICY_LAST ? ", with the policy last" : "");
}

static void print_choice(FILE *out, const struct kvs_search_result *result)
{
	fprintf(out, "auto: %s is best", kvs_walk_name(result->best.walk));
	for (int walk = 0; walk < KVS_WALK_COUNT; walk++) {
		const struct kvs_search_point *point = &result->walks[walk];
		if (!point->k_owners || point->walk == result->best.walk || isnan(point->nll))
			continue;
		if (point->tensors == result->best.tensors)
			fprintf(out, "; %s loses %.4f nats more", kvs_walk_name(walk), point->nll - result->best.nll);
		else
			fprintf(out, "; %s only reached %g layers", kvs_walk_name(walk), point->tensors / 2.0);
	}
	fputc('\n', out);
}

static void print_sweep(FILE *out, const struct kvs_search_result *result)
{
	fprintf(out, "%6s  %9s  %8s  %s\n", "layers", "KV memory", "loss", "found by");
	fprintf(out, "%6d  %7.1f %%  %8.4f  (no sharing)\n", 0, 100.0, result->full_nll);
	for (size_t i = 0; i < result->sweep_count; i++)
		fprintf(out, "%6d  %7.1f %%  %8.4f  %s\n", result->sweep[i].tensors / 2,
			100 * (1 - result->sweep[i].tensors / (2.0 * result->layers)), result->sweep[i].nll,
			kvs_walk_name(result->sweep[i].walk));
}

/* Most that read this do not know of --compensate: it is no default, and undoes what deters them. */
static void print_hint(const struct run_calibrate *env, const struct kvs_search_result *result)
{
	double added = result->best.nll - result->full_nll;

	if (env->compensate || env->search.sweep || env->search.policy == KVS_POLICY_LAST ||
		run_is_stdout(env->output) || result->end == KVS_SEARCH_STOPPED || !(added >= NOTABLE_NATS) ||
		!env->may_fit)
		return;
	fprintf(stderr,
		"kvshare-run: refitted matrices can undo most of the %+.4f nats: calibrate -m %s --text %s "
		"--compensate "
		"--plan %s -o NEW.json\n",
		added, env->model.dir, env->text_path, env->output);
}

static void print_summary(const struct run_calibrate *env, const struct kvs_search_result *result, double seconds)
{
	FILE *out = run_is_stdout(env->output) ? stderr : stdout; /* stdout holds the plan and nothing else */

	if (out == stderr && env->model.quiet)
		return;
	fprintf(out, "%s: %g of %d layers share, %.1f %% less KV memory\n", env->output, result->best.tensors / 2.0,
		result->layers, 100 * result->best.tensors / (2.0 * result->layers));
	print_loss(out, env, result);
	run_compensate_print(env, out);
	if (env->search.method == KVS_METHOD_AUTO && result->end != KVS_SEARCH_STOPPED)
		print_choice(out, result);
	if (env->search.sweep)
		print_sweep(out, result);
	if (env->model.quiet)
		return;
	fprintf(stderr, "%zu trials in %.1f s", result->trial_count, seconds);
	if (result->replayed)
		fprintf(stderr, ", %zu of them from an earlier search", result->replayed);
	if (env->text.skipped_lines)
		fprintf(stderr, "; %d lines shorter than a sample were skipped", env->text.skipped_lines);
	fputc('\n', stderr);
	print_hint(env, result);
}

static const char *layers_share(double count)
{
	return count == 1 ? "layer shares" : "layers share";
}

static void print_end(const struct run_calibrate *env, const struct kvs_search_result *result)
{
	const char *where = run_is_stdout(env->output) ? "the plan" : env->output;
	double share = result->best.tensors / 2.0;

	if (result->end == KVS_SEARCH_EXHAUSTED && !env->search.sweep)
		fprintf(stderr,
			"kvshare-run: the pairs ran out: %g %s, %d were asked for; %s holds those (try a "
			"lower "
			"--threshold, a smaller --share or --method nll)\n",
			share, layers_share(share), env->search.share, where);
	if (env->compensate_stopped) {
		run_compensate_stop(env, true);
		run_complain();
	}
	if (result->end == KVS_SEARCH_STOPPED)
		fprintf(stderr,
			"kvshare-run: stopped after %zu trial%s: %g %s, %d were asked for; %s holds those; "
			"the same command with --resume continues from here\n",
			result->trial_count, result->trial_count == 1 ? "" : "s", share, layers_share(share),
			env->search.share, where);
}

int run_calibrate_save(struct run_calibrate *env, const struct kvs_search_result *result)
{
	int err;

	if (env->as_it_was)
		return 0;
	err = env->search.sweep ? save_sweep(env, result) : save_point(env, result, &result->best, true, env->output);
	return run_compensate_settle(env, err);
}

int run_calibrate_report(struct run_calibrate *env, const struct run_session *session,
	const struct kvs_search_result *result, double seconds)
{
	int err = run_calibrate_save(env, result);

	if (err)
		return err;
	if (env->model.json)
		err = print_result(env, session, result, seconds);
	else
		print_summary(env, result, seconds);
	print_end(env, result);
	env->end = env->compensate_stopped ? KVS_SEARCH_STOPPED : result->end;
	if (env->search.sweep && env->end == KVS_SEARCH_EXHAUSTED && !env->share && env->rate <= 0)
		env->end = KVS_SEARCH_COMPLETE; /* a sweep without a limit is asked to go as far as it can */
	return err;
}
