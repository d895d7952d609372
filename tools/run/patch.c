/*
 * tools/run/patch.c: the refitted matrices that belong to a plan's file.
 *
 * `calibrate --compensate` writes them beside the plan, PLAN.json and PLAN.patch.safetensors, and their digest into the
 * plan. A command that takes the plan takes them too. It never runs with one of the two alone: their losses have
 * nothing to do with each other's.
 */
#include "run.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#define ENDING ".json"

/* The length of a plan's name without its .json, or of all of it. */
static size_t stem(const char *plan_path)
{
	size_t length = strlen(plan_path), ending = strlen(ENDING);

	return length > ending && !strcmp(plan_path + length - ending, ENDING) ? length - ending : length;
}

/* `name` in place of the plan's .json, or behind all of its name: a plan may have been given another one. */
static int beside(const char *plan_path, const char *name, char **path)
{
	size_t length = stem(plan_path);

	return asprintf(path, "%.*s%s", (int)length, plan_path, name) < 0 ? kvs_fail(-ENOMEM, "no memory for a path")
									  : 0;
}

int run_patch_path(const char *plan_path, char **path)
{
	return beside(plan_path, ".patch.safetensors", path);
}

bool run_patch_is_named(const char *plan_path)
{
	return plan_path[stem(plan_path)];
}

int run_patch_check_name(const char *plan_path)
{
	struct stat info;

	if (!run_patch_is_named(plan_path))
		return kvs_fail(-EINVAL,
			"%s: a plan with refitted matrices must be named .json: they lie beside it under its name, and "
			"would be taken for those of %s.json",
			plan_path, plan_path);
	if (!lstat(plan_path, &info) && S_ISLNK(info.st_mode))
		return kvs_fail(-EINVAL,
			"%s: is a symbolic link: refitted matrices would lie beside the link, and the plan where it "
			"leads to: name that file",
			plan_path);
	return 0;
}

int run_patch_new_path(const char *plan_path, char **path)
{
	return beside(plan_path, ".patch.new", path);
}

int run_stopped_path(const char *plan_path, char **path)
{
	return beside(plan_path, ".patch.part", path);
}

/* What a plan says of its refitted matrices. */
struct record {
	char patch[KVS_PATCH_DIGEST]; /* of the file beside it; "": none */
	char in_weights
		[KVS_PATCH_DIGEST]; /* they are in the weights of the model that it is for, and were this file's; "": no */
	bool skip;                  /* layers have one */
};

static bool take_digest(const json_t *record, const char *key, char digest[KVS_PATCH_DIGEST])
{
	const char *found = json_string_value(json_object_get(record, key));

	if (!found)
		return !json_object_get(record, key);
	if (strlen(found) != KVS_PATCH_DIGEST - 1 || strspn(found, "0123456789abcdef") != KVS_PATCH_DIGEST - 1)
		return false;
	strcpy(digest, found);
	return true;
}

/* -EINVAL: the plan has matrices, and does not say which. */
static int record_in(const kvs_plan *plan, struct record *out)
{
	char *text;
	json_t *calibration, *record;
	bool whole;
	int err = kvs_plan_calibration(plan, &text);

	*out = (struct record){0};
	if (err)
		return err == -ENOENT ? 0 : err;
	calibration = json_loads(text, 0, NULL);
	record = json_object_get(calibration, "compensation");
	whole = take_digest(record, "patch", out->patch) && take_digest(record, "in_weights", out->in_weights) &&
		(*out->patch || *out->in_weights || !json_is_true(json_object_get(record, "applied")));
	out->skip = json_object_get(record, "skip_rank");
	json_decref(calibration);
	free(text);
	return whole ? 0
		     : kvs_fail(-EINVAL,
			       "the plan goes with refitted matrices, and its calibration.compensation.%s is no digest "
			       "of "
			       "theirs: it is damaged",
			       *out->patch ? "in_weights" : "patch");
}

int run_patch_in_weights(const kvs_plan *plan, char digest[KVS_PATCH_DIGEST])
{
	struct record record;
	int err = record_in(plan, &record);

	strcpy(digest, record.in_weights);
	return err;
}

int run_plan_check(const kvs_plan *plan, const kvs_checkpoint *ckpt)
{
	const struct kvs_plan_model model = kvs_checkpoint_plan_model(ckpt);
	struct record record;
	int err = kvs_plan_check(plan, &model);
	char *message = err ? strdup(kvs_error()) : NULL;

	if (err && !record_in(plan, &record) && *record.in_weights)
		err = kvs_fail(err,
			"the plan's refitted matrices are in the weights of the checkpoint that `plan convert --to "
			"checkpoint` made, and this model is another: name that directory with -m (%s)",
			message ? message : "no memory");
	else if (err)
		err = kvs_fail(err, "%s", message ? message : "no memory");
	free(message);
	return err;
}

void run_patch_warn_left_out(const char *plan_path, const kvs_plan *plan)
{
	struct record record;

	if (plan_path &&
		(record_in(plan, &record) == -EINVAL || *record.patch)) /* a damaged record tells of some, too */
		fprintf(stderr,
			"kvshare-run: warning: %s goes with refitted matrices%s, which are left out here: the plan "
			"alone "
			"loses more\n",
			plan_path, record.skip ? " and a skip, which only kvshare knows" : "");
}

/* `own`: what lies at `path` can be no other plan's. */
static int load(const char *path, bool own, const char *digest, const kvs_plan *plan, const kvs_checkpoint *ckpt,
	kvs_patch **out)
{
	int err;

	if (!*digest && (!own || access(path, F_OK)))
		return 0;
	if (!*digest)
		return kvs_fail(-EINVAL,
			"%s: lies beside a plan that does not name it: it is another plan's; remove it, or calibrate "
			"again with --compensate",
			path);
	if (access(path, F_OK))
		return kvs_fail(-ENOENT,
			"%s: no such file: the plan goes with refitted matrices, and they belong beside it", path);
	err = kvs_patch_open(path, out);
	if (!err)
		err = kvs_patch_check(*out, digest, plan, ckpt);
	return err;
}

int run_patch_load(const char *plan_path, const kvs_plan *plan, const kvs_checkpoint *ckpt, kvs_patch **out)
{
	struct record record;
	char *path = NULL;
	int err;

	*out = NULL;
	if (!plan_path)
		return 0;
	err = record_in(plan, &record);
	if (!err && *record.in_weights)
		err = run_plan_check(plan, ckpt);
	if (!err)
		err = run_patch_path(plan_path, &path);
	if (!err)
		err = load(path, run_patch_is_named(plan_path), record.patch, plan, ckpt, out);
	free(path);
	if (err) {
		kvs_patch_close(*out);
		*out = NULL;
	}
	return err;
}
