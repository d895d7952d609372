/*
 * calib/neighbours.c: layers that share with the layer below them, as others have proposed: baselines for a search.
 *
 * Neighbours are consecutive among the layers of one attention window; if all have the same window, they are layers l
 * and l - 1. Here the layers are lined up in a row, first all of one window, then all of the next.
 */
#include "calib.h"

#include <errno.h>
#include <math.h>
#include <stdlib.h>

/* Fills `row` with all layers; returns the number of layers that have a neighbour below. */
static int line_up(const struct kvs_config *config, int *row)
{
	int placed = 0, kinds = 0;

	for (int first = 0; first < config->layers; first++) {
		int earlier = 0;
		while (config->window[earlier] != config->window[first])
			earlier++;
		if (earlier < first)
			continue;
		kinds++;
		for (int l = first; l < config->layers; l++)
			if (config->window[l] == config->window[first])
				row[placed++] = l;
	}
	return config->layers - kinds;
}

static bool has_neighbour(const struct kvs_config *config, const int *row, int at)
{
	return at > 0 && config->window[row[at]] == config->window[row[at - 1]];
}

static int too_many(int share, int most, const char *how)
{
	return kvs_fail(-ERANGE, "%d layers should share, %d can %s", share, most, how);
}

static void every_layer_its_own(int *owners, int layers)
{
	for (int l = 0; l < layers; l++)
		owners[l] = l;
}

int kvs_neighbours_spread(const struct kvs_config *config, int share, int *owners)
{
	int *row = malloc(sizeof(*row) * config->layers), most, seen = 0, taken = 0;

	if (!row)
		return kvs_fail(-ENOMEM, "no memory for %d layers", config->layers);
	most = line_up(config, row);
	every_layer_its_own(owners, config->layers);
	for (int at = 0; at < config->layers && share <= most; at++) {
		if (!has_neighbour(config, row, at))
			continue;
		/* The candidates in the middle of `share` equal parts of all of them. */
		if (taken < share && seen++ == (2 * taken + 1) * most / (2 * share)) {
			kvs_owners_remap(owners, config->layers, row[at], row[at - 1]);
			taken++;
		}
	}
	free(row);
	return share <= most ? 0 : too_many(share, most, "with the layer below them");
}

/* ---- pairs by similarity ---- */

/* Mean angle between the vectors of two layers, over positions, KV heads, and mean K and V. */
static double angle_between(const struct kvs_capture *c, int a, int b)
{
	size_t vectors = (size_t)c->tokens * c->kv_heads, size = vectors * c->head_dim;
	double sum = 0;

	for (int is_v = 0; is_v < 2; is_v++) {
		const double *x = (is_v ? c->v : c->k) + a * size, *y = (is_v ? c->v : c->k) + b * size;
		for (size_t n = 0; n < vectors; n++) {
			double xy = 0, xx = 0, yy = 0;
			for (int d = 0; d < c->head_dim; d++, x++, y++) {
				xy += *x * *y;
				xx += *x * *x;
				yy += *y * *y;
			}
			sum += xx > 0 && yy > 0 ? acos(fmax(-1, fmin(1, xy / sqrt(xx * yy)))) : 0;
		}
	}
	return sum / (2 * vectors);
}

/*
 * least[at * (share + 1) + n]: the least sum of angles of n disjoint pairs among the first `at` layers of the row. The
 * pairs themselves are not stored: collect_pairs() finds them again by comparing sums.
 */
static void fill_least(const struct kvs_capture *c, const struct kvs_config *config, const int *row, int share,
	double *angle, double *least)
{
	size_t width = share + 1;

	for (int at = 0; at <= config->layers; at++) {
		for (int n = 0; n <= share; n++)
			least[at * width + n] = n ? (at ? least[(at - 1) * width + n] : INFINITY) : 0;
		if (at < 2 || !has_neighbour(config, row, at - 1))
			continue;
		angle[at] = angle_between(c, row[at - 1], row[at - 2]);
		for (int n = 1; n <= share; n++)
			least[at * width + n] =
				fmin(least[at * width + n], least[(at - 2) * width + n - 1] + angle[at]);
	}
}

static void collect_pairs(const int *row, int layers, int share, const double *least, int *owners)
{
	size_t width = share + 1;

	for (int at = layers, n = share; n > 0;) {
		if (least[at * width + n] == least[(at - 1) * width + n]) {
			at--;
			continue;
		}
		owners[row[at - 1]] = row[at - 2];
		at -= 2;
		n--;
	}
}

int kvs_neighbours_similar(const struct kvs_capture *capture, const struct kvs_config *config, int share, int *owners)
{
	int *row = malloc(sizeof(*row) * config->layers), most = 0;
	double *least = malloc(sizeof(*least) * (config->layers + 1) * (share + 2)), *angle;
	int err = 0;

	if (!row || !least) {
		err = kvs_fail(-ENOMEM, "no memory for the pairs of %d layers", config->layers);
		goto out;
	}
	angle = least + (size_t)(config->layers + 1) * (share + 1);
	line_up(config, row);
	every_layer_its_own(owners, config->layers);
	fill_least(capture, config, row, share, angle, least);
	while (most < share && isfinite(least[(size_t)config->layers * (share + 1) + most + 1]))
		most++;
	if (most < share)
		err = too_many(share, most, "in pairs of neighbours");
	else
		collect_pairs(row, config->layers, share, least, owners);
out:
	free(least);
	free(row);
	return err;
}
