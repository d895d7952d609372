/*
 * model/skip_check.c: the names and shapes of a skip's matrices in a patch, and the layers that may have one (skip.c).
 */
#include "engine.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>

void kvs_skip_name(int layer, char which, char name[KVS_SKIP_NAME])
{
	snprintf(name, KVS_SKIP_NAME, "model.layers.%d.self_attn.skip_%c.weight", layer, which);
}

bool model_skip_parse(const char *name, int *layer, char *which)
{
	char again[KVS_SKIP_NAME];

	if (sscanf(name, "model.layers.%9d.self_attn.skip_%c.weight", layer, which) != 2)
		return false;
	kvs_skip_name(*layer, *which, again);
	return *layer >= 0 && (*which == 'a' || *which == 'b') && !strcmp(name, again);
}

static const struct kvs_patch_matrix *find(const struct kvs_patch_matrix *matrices, size_t count, int layer, char which)
{
	char name[KVS_SKIP_NAME];

	kvs_skip_name(layer, which, name);
	for (size_t i = 0; i < count; i++)
		if (!strcmp(matrices[i].name, name))
			return &matrices[i];
	return NULL;
}

int model_skip_check_shapes(
	const struct kvs_config *config, const struct kvs_patch_matrix *a, const struct kvs_patch_matrix *b)
{
	int hidden = config->hidden, most = config->ff < hidden ? config->ff : hidden;

	if (a->cols != hidden || a->rows < 1 || a->rows > most)
		return kvs_fail(-EINVAL, "%s is [%d][%d]: a skip of this model is [1 to %d][%d]", a->name, a->rows,
			a->cols, most, hidden);
	if (b->rows != hidden || b->cols != a->rows)
		return kvs_fail(-EINVAL, "%s is [%d][%d]: beside %s it must be [%d][%d]", b->name, b->rows, b->cols,
			a->name, hidden, a->rows);
	return 0;
}

int model_skip_find(const struct kvs_patch_matrix *matrices, size_t count, int layer, const struct kvs_config *config,
	struct kvs_patch_matrix *a, struct kvs_patch_matrix *b)
{
	const struct kvs_patch_matrix *down = find(matrices, count, layer, 'a'),
				      *up = find(matrices, count, layer, 'b');

	if (!down || !up)
		return kvs_fail(-EINVAL, "layer %d: its skip_%c.weight has no skip_%c.weight beside it", layer,
			down ? 'a' : 'b', down ? 'b' : 'a');
	*a = *down;
	*b = *up;
	return model_skip_check_shapes(config, a, b);
}

static bool shares_both(const kvs_plan *plan, int layer)
{
	return kvs_plan_owner(plan, layer, KVS_K) != layer && kvs_plan_owner(plan, layer, KVS_V) != layer;
}

int model_skip_check(
	const struct kvs_patch_matrix *matrices, size_t count, const kvs_plan *plan, const struct kvs_config *config)
{
	struct kvs_patch_matrix a, b;
	int layer, err = 0;
	char which;

	for (size_t i = 0; i < count && !err; i++) {
		if (!model_skip_parse(matrices[i].name, &layer, &which))
			continue;
		if (layer >= config->layers)
			err = kvs_fail(-EINVAL, "%s: the model has %d layers", matrices[i].name, config->layers);
		else if (!shares_both(plan, layer))
			err = kvs_fail(-EINVAL,
				"%s: this layer does not take both K and V from another, so it has no skip",
				matrices[i].name);
		else
			err = model_skip_find(matrices, count, layer, config, &a, &b);
	}
	return err;
}
