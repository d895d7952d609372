/*
 * vmm/plan.c: sharing plans: for each layer, the layers whose K and whose V it reads, itself or a lower one.
 *
 * The owner of a layer is that layer or a lower one, and owns its own tensor. So a plan can be carried out from the
 * first layer up, and there are no chains.
 */
#include "plan.h"

#include <ctype.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>

int vmm_plan_check_owners(const char *name, int layers, const int *owners)
{
	for (int layer = 0; layer < layers; layer++) {
		int owner = owners[layer];

		if (owner < 0)
			return kvs_fail(-EINVAL, "%s[%d] is %d: layers count from 0", name, layer, owner);
		if (owner > layer)
			return kvs_fail(-EINVAL, "%s[%d] is %d: an owner may not lie above its layer (%d)", name, layer,
				owner, layer);
		if (owners[owner] != owner)
			return kvs_fail(-EINVAL, "%s[%d] is %d: layer %d itself borrows, from layer %d", name, layer,
				owner, owner, owners[owner]);
	}
	return 0;
}

static int check_layers(int layers)
{
	if (layers < 1 || layers > KVS_PLAN_MAX_LAYERS)
		return kvs_fail(-EINVAL, "a plan of %d layers; it can have 1 to %d", layers, KVS_PLAN_MAX_LAYERS);
	return 0;
}

static int plan_alloc(int layers, kvs_plan **out)
{
	kvs_plan *plan = calloc(1, sizeof(*plan));

	if (plan) {
		plan->layers = layers;
		plan->k_owners = calloc((size_t)layers, sizeof(*plan->k_owners));
		plan->v_owners = calloc((size_t)layers, sizeof(*plan->v_owners));
	}
	if (!plan || !plan->k_owners || !plan->v_owners) {
		kvs_plan_free(plan);
		return kvs_fail(-ENOMEM, "no host memory for a plan of %d layers", layers);
	}
	*out = plan;
	return 0;
}

int kvs_plan_create(int layers, const int *k_owners, const int *v_owners, kvs_plan **out)
{
	int err = check_layers(layers);

	if (!err)
		err = vmm_plan_check_owners("k_owners", layers, k_owners);
	if (!err)
		err = vmm_plan_check_owners("v_owners", layers, v_owners);
	if (!err)
		err = plan_alloc(layers, out);
	if (err)
		return err;
	memcpy((*out)->k_owners, k_owners, (size_t)layers * sizeof(*k_owners));
	memcpy((*out)->v_owners, v_owners, (size_t)layers * sizeof(*v_owners));
	return 0;
}

int kvs_plan_identity(int layers, kvs_plan **out)
{
	int err = check_layers(layers);

	if (!err)
		err = plan_alloc(layers, out);
	for (int layer = 0; layer < layers && !err; layer++)
		(*out)->k_owners[layer] = (*out)->v_owners[layer] = layer;
	return err;
}

/* A number with spaces around it. Moves `cursor` past all of it; -1 for no number, or one that no layer can have. */
static int parse_number(const char **cursor)
{
	int number = -1;

	while (isspace((unsigned char)**cursor))
		++*cursor;
	for (; isdigit((unsigned char)**cursor); ++*cursor) {
		number = (number < 0 ? 0 : number) * 10 + (**cursor - '0');
		if (number >= KVS_PLAN_MAX_LAYERS)
			return -1;
	}
	if (number >= 0)
		while (isspace((unsigned char)**cursor))
			++*cursor;
	return number;
}

/* Fills `owners` with up to KVS_PLAN_MAX_LAYERS numbers. */
static int parse_owners(const char *text, int *owners, int *layers)
{
	const char *cursor = text;

	for (*layers = 0; *layers < KVS_PLAN_MAX_LAYERS; cursor++) {
		int number = parse_number(&cursor);

		if (number < 0)
			return kvs_fail(-EINVAL, "owners: character %td: expected a layer number from 0 to %d",
				cursor - text + 1, KVS_PLAN_MAX_LAYERS - 1);
		owners[(*layers)++] = number;
		if (!*cursor)
			return 0;
		if (*cursor != ',')
			return kvs_fail(
				-EINVAL, "owners: character %td: expected a comma or the end", cursor - text + 1);
	}
	return kvs_fail(-EINVAL, "owners: more than %d layers", KVS_PLAN_MAX_LAYERS);
}

int kvs_plan_parse(const char *owners, kvs_plan **out)
{
	int *map = calloc(KVS_PLAN_MAX_LAYERS, sizeof(*map));
	int layers, err;

	if (!map)
		return kvs_fail(-ENOMEM, "no host memory for a plan");
	err = parse_owners(owners, map, &layers);
	if (!err)
		err = vmm_plan_check_owners("owners", layers, map);
	if (!err)
		err = kvs_plan_create(layers, map, map, out);
	free(map);
	return err;
}

static void model_clear(struct kvs_plan_model *model)
{
	free((char *)model->architecture);
	free((char *)model->fingerprint);
	*model = (struct kvs_plan_model){NULL, 0, 0, 0, NULL};
}

void kvs_plan_free(kvs_plan *plan)
{
	if (!plan)
		return;
	model_clear(&plan->model);
	json_decref(plan->document);
	free(plan->k_owners);
	free(plan->v_owners);
	free(plan);
}

int kvs_plan_layers(const kvs_plan *plan)
{
	return plan->layers;
}

int kvs_plan_owner(const kvs_plan *plan, int layer, enum kvs_k_or_v which)
{
	if (layer < 0 || layer >= plan->layers)
		return kvs_fail(-EINVAL, "layer %d of a plan of %d", layer, plan->layers);
	return which == KVS_K ? plan->k_owners[layer] : plan->v_owners[layer];
}

int kvs_plan_set_model(kvs_plan *plan, const struct kvs_plan_model *model)
{
	struct kvs_plan_model copy = *model;

	if (model->layers != plan->layers)
		return kvs_fail(-EINVAL, "plan has %d layers, model has %d", plan->layers, model->layers);
	copy.architecture = model->architecture ? strdup(model->architecture) : NULL;
	copy.fingerprint = model->fingerprint ? strdup(model->fingerprint) : NULL;
	if ((model->architecture && !copy.architecture) || (model->fingerprint && !copy.fingerprint)) {
		model_clear(&copy);
		return kvs_fail(-ENOMEM, "no host memory for a plan's model");
	}
	model_clear(&plan->model);
	plan->model = copy;
	return 0;
}

int kvs_plan_copy(const kvs_plan *plan, kvs_plan **out)
{
	kvs_plan *copy = NULL;
	int err = kvs_plan_create(plan->layers, plan->k_owners, plan->v_owners, &copy);

	if (!err && plan->model.architecture)
		err = kvs_plan_set_model(copy, &plan->model);
	if (!err && plan->document) {
		copy->document = json_deep_copy(plan->document);
		err = copy->document ? 0 : kvs_fail(-ENOMEM, "no host memory for a copy of a plan");
	}
	if (!err)
		*out = copy;
	else
		kvs_plan_free(copy);
	return err;
}

static int check_number(const char *what, int plan, int model)
{
	return plan == model ? 0
			     : kvs_fail(-EINVAL, "plan is for a model of %d %s, this model has %d", plan, what, model);
}

static int check_text(const char *what, const char *plan, const char *model)
{
	if (!plan || !model || !strcmp(plan, model))
		return 0;
	return kvs_fail(-EINVAL, "plan is for a model of %s %s, this one has %s", what, plan, model);
}

int kvs_plan_check(const kvs_plan *plan, const struct kvs_plan_model *model)
{
	int err;

	if (plan->layers != model->layers)
		return kvs_fail(-EINVAL, "plan has %d layers, model has %d", plan->layers, model->layers);
	if (!plan->model.architecture)
		return 0;
	err = check_text("architecture", plan->model.architecture, model->architecture);
	if (!err)
		err = check_number("KV heads", plan->model.kv_heads, model->kv_heads);
	if (!err)
		err = check_number("dimensions a head", plan->model.head_dim, model->head_dim);
	if (!err)
		err = check_text("fingerprint", plan->model.fingerprint, model->fingerprint);
	return err;
}
