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
#include <unistd.h>

#define ENDING ".json"

/* `name` in place of the plan's .json, or behind all of its name. */
static int beside(const char *plan_path, const char *name, char **path)
{
	size_t length = strlen(plan_path), ending = strlen(ENDING);

	if (length > ending && !strcmp(plan_path + length - ending, ENDING))
		length -= ending;
	return asprintf(path, "%.*s%s", (int)length, plan_path, name) < 0 ? kvs_fail(-ENOMEM, "no memory for a path")
									  : 0;
}

int run_patch_path(const char *plan_path, char **path)
{
	return beside(plan_path, ".patch.safetensors", path);
}

int run_stopped_path(const char *plan_path, char **path)
{
	return beside(plan_path, ".patch.part", path);
}

/* The digest that the plan names, or "", and whether layers have a skip. -EINVAL: it has matrices, and does not say which. */
static int record_in(const kvs_plan *plan, char digest[KVS_PATCH_DIGEST], bool *skip)
{
	char *text;
	json_t *calibration, *record;
	const char *found;
	bool damaged;
	int err = kvs_plan_calibration(plan, &text);

	*digest = 0;
	*skip = false;
	if (err)
		return err == -ENOENT ? 0 : err;
	calibration = json_loads(text, 0, NULL);
	record = json_object_get(calibration, "compensation");
	found = json_string_value(json_object_get(record, "patch"));
	*skip = json_object_get(record, "skip_rank");
	damaged = found ? strlen(found) != KVS_PATCH_DIGEST - 1
			: json_is_true(json_object_get(record, "applied")) &&
				  !json_is_string(json_object_get(record, "in_weights"));
	if (found && !damaged)
		strcpy(digest, found);
	json_decref(calibration);
	free(text);
	return damaged ? kvs_fail(-EINVAL,
				 "the plan goes with refitted matrices, and its calibration.compensation.patch "
				 "is no digest of theirs: it is damaged")
		       : 0;
}

void run_patch_warn_left_out(const char *plan_path, const kvs_plan *plan)
{
	char digest[KVS_PATCH_DIGEST];
	bool skip;

	if (plan_path &&
		(record_in(plan, digest, &skip) == -EINVAL || *digest)) /* a damaged record tells of some, too */
		fprintf(stderr,
			"kvshare-run: warning: %s goes with refitted matrices%s, which are left out here: the plan "
			"alone "
			"loses more\n",
			plan_path, skip ? " and a skip, which only kvshare knows" : "");
}

static int load(const char *path, const char *digest, const kvs_plan *plan, const kvs_checkpoint *ckpt, kvs_patch **out)
{
	int err;

	if (!*digest && access(path, F_OK))
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
	char digest[KVS_PATCH_DIGEST], *path = NULL;
	bool skip;
	int err;

	*out = NULL;
	if (!plan_path)
		return 0;
	err = record_in(plan, digest, &skip);
	if (!err)
		err = run_patch_path(plan_path, &path);
	if (!err)
		err = load(path, digest, plan, ckpt, out);
	free(path);
	if (err) {
		kvs_patch_close(*out);
		*out = NULL;
	}
	return err;
}
