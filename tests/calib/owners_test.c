/*
 * tests/calib/owners_test.c: owner maps under random sequences of accepted pairs, and the order of pairs.
 */
#include "../../calib/calib.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#define MOST_LAYERS 40
#define ROUNDS 4000

static unsigned seed;

static int below(int limit)
{
	return rand_r(&seed) % limit;
}

/* The layer whose K and V layer l reads if every accepted pair is followed literally, one link after the other. */
static int follow(const int *read_from, int l)
{
	while (read_from[l] != l)
		l = read_from[l];
	return l;
}

static void check_map(const int *owner, const int *read_from, int layers, int accepted)
{
	int owners = 0;

	for (int l = 0; l < layers; l++) {
		assert_true(owner[l] >= 0 && owner[l] <= l);
		assert_int_equal(owner[owner[l]], owner[l]);
		assert_int_equal(owner[l], follow(read_from, l));
		owners += owner[l] == l;
	}
	assert_int_equal(owners, layers - accepted);
}

/* Any pair may come whose layer does not share yet: its owner may share, and the layer may itself be an owner. */
static void random_acceptances_leave_a_map(void **state)
{
	(void)state;
	for (int round = 0; round < ROUNDS; round++) {
		int layers = 2 + below(MOST_LAYERS - 1), wanted = below(layers), owner[MOST_LAYERS],
		    read_from[MOST_LAYERS];
		for (int l = 0; l < layers; l++)
			owner[l] = read_from[l] = l;
		for (int accepted = 0; accepted < wanted;) {
			int layer = 1 + below(layers - 1), to = below(layer);
			if (owner[layer] != layer)
				continue;
			kvs_owners_remap(owner, layers, layer, to);
			read_from[layer] = to;
			check_map(owner, read_from, layers, ++accepted);
		}
	}
}

/* Layer 5 reads 3; then 3 itself shares with 1: both read 1 (the reference code's re_map). */
static void readers_follow_an_owner_that_shares(void **state)
{
	int owner[6] = {0, 1, 2, 3, 4, 5};
	const int expected[6] = {0, 1, 2, 1, 4, 1};

	(void)state;
	kvs_owners_remap(owner, 6, 5, 3);
	kvs_owners_remap(owner, 6, 3, 1);
	assert_memory_equal(owner, expected, sizeof(owner));
}

/* ---- pairs ---- */

/* Layers at the places 0, 1, 3, 7, ... of a line: every distance is known, K twice as far as V. */
static struct kvs_capture capture_of(int layers, double *k, double *v)
{
	for (int l = 0; l < layers; l++) {
		k[l] = 2 * ((1 << l) - 1);
		v[l] = (1 << l) - 1;
	}
	return (struct kvs_capture){
		.layers = layers, .samples = 1, .tokens = 1, .kv_heads = 1, .head_dim = 1, .k = k, .v = v};
}

static size_t list(const int *window, int layers, struct kvs_pair_options options, struct kvs_pair **pairs)
{
	double k[MOST_LAYERS], v[MOST_LAYERS];
	struct kvs_capture capture = capture_of(layers, k, v);
	struct kvs_config config = {.layers = layers, .window = (int *)window};
	size_t count;

	assert_int_equal(kvs_pairs_list(&capture, &config, &options, pairs, &count), 0);
	return count;
}

static const int no_windows[MOST_LAYERS];

static bool same_pair(const struct kvs_pair *a, const struct kvs_pair *b)
{
	return a->what == b->what && a->layer == b->layer && a->owner == b->owner;
}

static void orders_are_each_others_reverse_and_random_is_a_permutation(void **state)
{
	struct kvs_pair *down, *up, *any, *other;
	size_t moved = 0;
	size_t count = list(no_windows, 8, (struct kvs_pair_options){.order = KVS_ORDER_DISSIMILAR}, &down);

	(void)state;
	assert_int_equal(count, 8 * 7 / 2);
	assert_int_equal(list(no_windows, 8, (struct kvs_pair_options){.order = KVS_ORDER_SIMILAR}, &up), count);
	assert_int_equal(
		list(no_windows, 8, (struct kvs_pair_options){.order = KVS_ORDER_RANDOM, .seed = 1}, &any), count);
	assert_int_equal(
		list(no_windows, 8, (struct kvs_pair_options){.order = KVS_ORDER_RANDOM, .seed = 2}, &other), count);
	assert_int_equal(down[0].layer, 7);
	assert_int_equal(down[0].owner, 0);
	for (size_t i = 0; i < count; i++) {
		int found = 0;
		moved += !same_pair(&any[i], &other[i]);
		assert_true(same_pair(&down[i], &up[count - 1 - i]));
		assert_true(down[i].distance == 1.5 * ((1 << down[i].layer) - (1 << down[i].owner)));
		for (size_t j = 0; j < count; j++)
			found += same_pair(&any[j], &down[i]);
		assert_int_equal(found, 1);
	}
	assert_true(moved > count / 2);
	free(down);
	free(up);
	free(any);
	free(other);
}

/* Of equal pairs the lower layer comes first, and of these the lower owner, from whichever end the search begins. */
static void equal_pairs_keep_their_place(void **state)
{
	static const double same[MOST_LAYERS];
	struct kvs_capture capture = {.layers = 5, .samples = 1, .tokens = 1, .kv_heads = 1, .head_dim = 1};
	struct kvs_config config = {.layers = 5, .window = (int *)no_windows};

	(void)state;
	capture.k = capture.v = (double *)same;
	for (int similar = 0; similar < 2; similar++) {
		struct kvs_pair_options options = {.order = similar ? KVS_ORDER_SIMILAR : KVS_ORDER_DISSIMILAR};
		struct kvs_pair *pairs;
		size_t count, at = 0;

		assert_int_equal(kvs_pairs_list(&capture, &config, &options, &pairs, &count), 0);
		assert_int_equal(count, 5 * 4 / 2);
		for (int layer = 1; layer < 5; layer++) {
			for (int owner = 0; owner < layer; owner++, at++) {
				assert_int_equal(pairs[at].layer, layer);
				assert_int_equal(pairs[at].owner, owner);
			}
		}
		free(pairs);
	}
}

static void windows_and_protected_layers_are_never_crossed(void **state)
{
	static const int window[6] = {0, 0, 0, 16, 16, 32};
	struct kvs_config config = {.layers = 6, .window = (int *)window};
	struct kvs_pair *pairs;
	size_t count = list(window, 6, (struct kvs_pair_options){.protect_last = 0}, &pairs);

	(void)state;
	assert_int_equal(count, 3 + 1);
	for (size_t i = 0; i < count; i++)
		assert_int_equal(window[pairs[i].layer], window[pairs[i].owner]);
	free(pairs);
	assert_int_equal(list(window, 6, (struct kvs_pair_options){.protect_last = 4}, &pairs), 1);
	assert_int_equal(pairs[0].layer, 1);
	free(pairs);
	assert_int_equal(kvs_pairs_most_shared(&config, 0), 3);
	assert_int_equal(kvs_pairs_most_shared(&config, 4), 1);
	assert_int_equal(kvs_pairs_most_shared(&config, 6), 0);
}

/* K is twice as far apart as V in every pair: made comparable, both kinds have equal distances. */
static void split_pairs_are_comparable(void **state)
{
	struct kvs_pair *pairs;
	size_t count = list(no_windows, 6, (struct kvs_pair_options){.split = true}, &pairs);

	(void)state;
	assert_int_equal(count, 2 * 15);
	for (size_t i = 0; i < count; i += 2) {
		assert_int_equal(pairs[i].layer, pairs[i + 1].layer);
		assert_int_equal(pairs[i].owner, pairs[i + 1].owner);
		assert_int_equal(pairs[i].what, KVS_SHARE_K);
		assert_int_equal(pairs[i + 1].what, KVS_SHARE_V);
	}
	free(pairs);
}

int main(void)
{
	const char *given = getenv("KVS_TEST_SEED");
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(random_acceptances_leave_a_map),
		cmocka_unit_test(readers_follow_an_owner_that_shares),
		cmocka_unit_test(orders_are_each_others_reverse_and_random_is_a_permutation),
		cmocka_unit_test(equal_pairs_keep_their_place),
		cmocka_unit_test(windows_and_protected_layers_are_never_crossed),
		cmocka_unit_test(split_pairs_are_comparable),
	};

	seed = given ? strtoul(given, NULL, 10) : 20241018;
	printf("seed %u (KVS_TEST_SEED)\n", seed);
	return cmocka_run_group_tests(tests, NULL, NULL);
}
