/*
 * tools/run/policy.c: --policy: what becomes of the K and V that layers without memory of their own compute.
 *
 * A plan that was found under one policy says little about its loss under the other, so a command that runs it under the
 * other says so.
 */
#include "run.h"

#include <stdlib.h>
#include <string.h>

static const char *const words[] = {"owner", "last", NULL}; /* by enum kvs_policy */

enum kvs_policy run_parse_policy(struct argp_state *state, const char *text)
{
	return run_parse_word(state, "--policy", text, words);
}

const char *run_policy_name(enum kvs_policy policy)
{
	return words[policy];
}

/* The policy that a plan was found under; NULL: it does not say how it was found. The caller frees *root. */
static const char *policy_of(const kvs_plan *plan, json_t **root)
{
	char *text;
	const json_t *policy;

	*root = NULL;
	if (kvs_plan_calibration(plan, &text))
		return NULL;
	*root = json_loads(text, 0, NULL);
	free(text);
	if (!json_object_get(*root, "method"))
		return NULL; /* made by something other than calibrate */
	policy = json_object_get(*root, "policy");
	return policy ? json_string_value(policy) : words[KVS_POLICY_OWNER]; /* earlier plans do not have the key */
}

void run_policy_warn(const char *plan_path, const kvs_plan *plan, enum kvs_policy policy)
{
	json_t *root;
	const char *found = plan_path ? policy_of(plan, &root) : NULL;
	char shown[64];

	if (!plan_path)
		return;
	if (found && strcmp(found, words[policy]))
		fprintf(stderr,
			"kvshare-run: warning: %s was found under the policy %s, and runs under %s: its loss is not "
			"the one that "
			"it names\n",
			plan_path, kvs_visible(found, shown, sizeof(shown)), words[policy]);
	json_decref(root);
}
