/*
 * calib/maps.c: the two owner maps, for K and for V, that a search changes step by step.
 *
 * A step copies the maps and changes the copy, so a step that is rejected needs no undoing.
 */
#include "search.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

int calib_maps_create(int layers, struct calib_maps *out)
{
	int *owners = malloc(sizeof(*owners) * 2 * layers);

	if (!owners)
		return kvs_fail(-ENOMEM, "no memory for the owners of %d layers", layers);
	*out = (struct calib_maps){.layers = layers, .k = owners, .v = owners + layers};
	for (int l = 0; l < layers; l++)
		out->k[l] = out->v[l] = l;
	return 0;
}

void calib_maps_clear(struct calib_maps *maps)
{
	free(maps->k);
	*maps = (struct calib_maps){0};
}

void calib_maps_apply(const struct calib_maps *from, const struct kvs_pair *pair, struct calib_maps *to)
{
	memcpy(to->k, from->k, sizeof(*to->k) * 2 * from->layers);
	if (pair->what != KVS_SHARE_V)
		kvs_owners_remap(to->k, to->layers, pair->layer, pair->owner);
	if (pair->what != KVS_SHARE_K)
		kvs_owners_remap(to->v, to->layers, pair->layer, pair->owner);
	to->tensors = from->tensors + (pair->what == KVS_SHARE_KV ? 2 : 1);
}

bool calib_maps_borrows(const struct calib_maps *maps, const struct kvs_pair *pair)
{
	return (pair->what == KVS_SHARE_V ? maps->v : maps->k)[pair->layer] != pair->layer;
}

void calib_maps_swap(struct calib_maps *a, struct calib_maps *b)
{
	struct calib_maps swapped = *a;

	*a = *b;
	*b = swapped;
}

int calib_maps_plan(const struct calib_maps *maps, kvs_plan **out)
{
	return kvs_plan_create(maps->layers, maps->k, maps->v, out);
}
