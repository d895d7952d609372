/*
 * calib/pairs.c: pairs of layers in the order in which a search tries them, and owner maps.
 *
 * Every order is total, with ties broken by place, and random ones come from a generator of our own: so that the same
 * capture gives the same list with every libc.
 */
#include "calib.h"

#include <errno.h>
#include <stdlib.h>

void kvs_owners_remap(int *owner, int layers, int layer, int to)
{
	owner[layer] = to;
	for (int l = 0; l < layers; l++)
		if (owner[l] != l)
			owner[l] = owner[owner[l]];
}

static bool may_share(const struct kvs_config *config, int layer, int owner, int protect_last)
{
	return layer < config->layers - protect_last && config->window[layer] == config->window[owner];
}

int kvs_pairs_most_shared(const struct kvs_config *config, int protect_last)
{
	int most = 0;

	for (int layer = 1; layer < config->layers; layer++) {
		int owner = 0;
		while (owner < layer && !may_share(config, layer, owner, protect_last))
			owner++;
		most += owner < layer;
	}
	return most;
}

/* ---- order ---- */

static int by_place(const struct kvs_pair *a, const struct kvs_pair *b)
{
	if (a->layer != b->layer)
		return a->layer < b->layer ? -1 : 1;
	if (a->owner != b->owner)
		return a->owner < b->owner ? -1 : 1;
	return (a->what > b->what) - (a->what < b->what);
}

static int similar_first(const void *a, const void *b)
{
	const struct kvs_pair *x = a, *y = b;

	return x->distance < y->distance ? -1 : x->distance > y->distance ? 1 : by_place(x, y);
}

static int dissimilar_first(const void *a, const void *b)
{
	const struct kvs_pair *x = a, *y = b;

	return x->distance > y->distance ? -1 : x->distance < y->distance ? 1 : by_place(x, y);
}

/*
 * Steele, Lea and Flood, "Fast splittable pseudorandom number generators", OOPSLA 2014; constants as in Vigna's
 * version.
 */
static uint64_t splitmix64(uint64_t *state)
{
	uint64_t z = *state += 0x9e3779b97f4a7c15u;

	z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9u;
	z = (z ^ (z >> 27)) * 0x94d049bb133111ebu;
	return z ^ (z >> 31);
}

static void shuffle(struct kvs_pair *pairs, size_t count, uint64_t seed)
{
	for (size_t i = count; i-- > 1;) {
		size_t j = splitmix64(&seed) % (i + 1);
		struct kvs_pair swapped = pairs[i];
		pairs[i] = pairs[j];
		pairs[j] = swapped;
	}
}

static void order_pairs(struct kvs_pair *pairs, size_t count, const struct kvs_pair_options *options)
{
	if (options->order == KVS_ORDER_RANDOM)
		shuffle(pairs, count, options->seed);
	else
		qsort(pairs, count, sizeof(*pairs),
			options->order == KVS_ORDER_SIMILAR ? similar_first : dissimilar_first);
}

/* ---- list ---- */

/* Divides distances by their mean over all pairs, so that those of K and of V can be ordered in one list. */
static void make_comparable(double *distances, int layers)
{
	double sum = 0, pairs = layers * (layers - 1) / 2.0;

	for (int layer = 1; layer < layers; layer++)
		for (int owner = 0; owner < layer; owner++)
			sum += distances[layer * layers + owner];
	for (int i = 0; i < layers * layers && sum > 0; i++)
		distances[i] *= pairs / sum;
}

static size_t fill(const double *k, const double *v, const struct kvs_config *config, bool split, int protect_last,
	struct kvs_pair *pairs)
{
	size_t count = 0;

	for (int layer = 1; layer < config->layers; layer++) {
		for (int owner = 0; owner < layer; owner++) {
			size_t at = (size_t)layer * config->layers + owner;
			if (!may_share(config, layer, owner, protect_last))
				continue;
			if (split) {
				pairs[count++] = (struct kvs_pair){KVS_SHARE_K, layer, owner, k[at]};
				pairs[count++] = (struct kvs_pair){KVS_SHARE_V, layer, owner, v[at]};
			} else {
				pairs[count++] = (struct kvs_pair){KVS_SHARE_KV, layer, owner, (k[at] + v[at]) / 2};
			}
		}
	}
	return count;
}

int kvs_pairs_list(const struct kvs_capture *capture, const struct kvs_config *config,
	const struct kvs_pair_options *options, struct kvs_pair **out, size_t *count)
{
	size_t square = (size_t)config->layers * config->layers;
	double *k = malloc(sizeof(*k) * 2 * square), *v;
	struct kvs_pair *pairs = malloc(sizeof(*pairs) * square + 1);

	if (!k || !pairs) {
		free(k);
		free(pairs);
		return kvs_fail(-ENOMEM, "no memory for the pairs of %d layers", config->layers);
	}
	v = k + square;
	kvs_capture_distances(capture, options->distance, k, v);
	if (options->split) {
		make_comparable(k, config->layers);
		make_comparable(v, config->layers);
	}
	*count = fill(k, v, config, options->split, options->protect_last, pairs);
	order_pairs(pairs, *count, options);
	free(k);
	*out = pairs;
	return 0;
}
