/*
 * tests/calib/baseline_test.c: the rivals that a search is compared with: neighbours that share, and MiniCache's
 * merging.
 */
#include "../../calib/calib.h"

#include <errno.h>
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#define MODEL "tests/golden/models/llama3.2"
#define LAYERS 9

static kvs_cu *cu;

static void must(int err)
{
	if (err)
		fail_msg("%s", kvs_error());
}

static unsigned seed_of_run(void)
{
	const char *given = getenv("KVS_TEST_SEED");
	unsigned seed = given ? (unsigned)strtoul(given, NULL, 10) : 1;

	print_message("seed %u (KVS_TEST_SEED)\n", seed);
	return seed;
}

/* ---- neighbours ---- */

static int borrowers(const int *owners, int layers)
{
	int count = 0;

	for (int l = 0; l < layers; l++)
		count += owners[l] != l;
	return count;
}

static void spread_is_every_second_layer_at_half(void **state)
{
	int windows[16] = {0}, owners[16];
	struct kvs_config config = {.layers = 16, .window = windows};

	(void)state;
	must(kvs_neighbours_spread(&config, 8, owners));
	for (int l = 0; l < 16; l++)
		assert_int_equal(owners[l], l & ~1);
	must(kvs_neighbours_spread(&config, 4, owners));
	for (int l = 0; l < 16; l++)
		assert_int_equal(owners[l], l == 2 || l == 6 || l == 10 || l == 14 ? l - 1 : l);
}

/* Any number of layers that is asked for shares, never across windows, and owners own themselves. */
static void spread_shares_the_number_that_is_asked_for(void **state)
{
	int windows[LAYERS] = {0, 64, 0, 64, 64, 0, 0, 32, 64}, owners[LAYERS];
	struct kvs_config config = {.layers = LAYERS, .window = windows};

	(void)state;
	for (int share = 1; share <= LAYERS - 3; share++) {
		must(kvs_neighbours_spread(&config, share, owners));
		assert_int_equal(borrowers(owners, LAYERS), share);
		for (int l = 0; l < LAYERS; l++) {
			assert_int_equal(owners[owners[l]], owners[l]);
			assert_int_equal(windows[owners[l]], windows[l]);
		}
	}
	assert_int_equal(kvs_neighbours_spread(&config, LAYERS - 2, owners), -ERANGE);
}

/* Random K and V, drawn towards those of the layer below by a different amount for each layer. */
static struct kvs_capture random_capture(unsigned *seed)
{
	struct kvs_capture capture = {.layers = LAYERS, .samples = 1, .tokens = 3, .kv_heads = 2, .head_dim = 4};
	size_t size = (size_t)capture.tokens * capture.kv_heads * capture.head_dim;

	capture.k = calloc(LAYERS * size, sizeof(*capture.k));
	capture.v = calloc(LAYERS * size, sizeof(*capture.v));
	assert_true(capture.k && capture.v);
	for (int l = 0; l < LAYERS; l++) {
		double likeness = rand_r(seed) / (double)RAND_MAX;
		for (size_t i = l * size; i < (l + 1) * size; i++) {
			capture.k[i] = rand_r(seed) / (double)RAND_MAX - 0.5 + (l ? likeness * capture.k[i - size] : 0);
			capture.v[i] = rand_r(seed) / (double)RAND_MAX - 0.5 + (l ? likeness * capture.v[i - size] : 0);
		}
	}
	return capture;
}

static double angle(const double *a, const double *b)
{
	double ab = 0, aa = 0, bb = 0;

	for (int d = 0; d < 4; d++) {
		ab += a[d] * b[d];
		aa += a[d] * a[d];
		bb += b[d] * b[d];
	}
	return acos(ab / sqrt(aa * bb));
}

static double angle_of_pair(const struct kvs_capture *capture, int lower, int upper)
{
	double sum = 0;

	for (int vector = 0; vector < 6; vector++)
		sum += angle(capture->k + (lower * 6 + vector) * 4, capture->k + (upper * 6 + vector) * 4) +
		       angle(capture->v + (lower * 6 + vector) * 4, capture->v + (upper * 6 + vector) * 4);
	return sum;
}

/* Least sum over every set of `share` disjoint pairs (l - 1, l), as bits of l. */
static double least_by_trying_all(const struct kvs_capture *capture, int share)
{
	double least = INFINITY;

	for (unsigned set = 0; set < 1u << LAYERS; set += 2) {
		double sum = 0;
		if (__builtin_popcount(set) != share || (set & set << 1))
			continue;
		for (int l = 1; l < LAYERS; l++)
			if (set >> l & 1)
				sum += angle_of_pair(capture, l - 1, l);
		least = fmin(least, sum);
	}
	return least;
}

static void similar_neighbours_are_the_best_of_all_pairings(void **state)
{
	unsigned seed = seed_of_run();
	int windows[LAYERS] = {0}, owners[LAYERS];
	struct kvs_config config = {.layers = LAYERS, .window = windows};

	(void)state;
	for (int round = 0; round < 50; round++) {
		struct kvs_capture capture = random_capture(&seed);
		for (int share = 1; share <= LAYERS / 2; share++) {
			double sum = 0;
			must(kvs_neighbours_similar(&capture, &config, share, owners));
			assert_int_equal(borrowers(owners, LAYERS), share);
			for (int l = 1; l < LAYERS; l++) {
				if (owners[l] == l)
					continue;
				assert_int_equal(owners[l], l - 1);
				assert_int_equal(owners[l - 1], l - 1);
				sum += angle_of_pair(&capture, l - 1, l);
			}
			assert_true(fabs(sum - least_by_trying_all(&capture, share)) < 1e-9);
		}
		assert_int_equal(kvs_neighbours_similar(&capture, &config, LAYERS / 2 + 1, owners), -ERANGE);
		kvs_capture_clear(&capture);
	}
}

/* ---- merging ---- */

static void merging_keeps_lengths_and_turns_both(void **state)
{
	float lower[2] = {3, 0}, upper[2] = {0, 5}, same[2] = {1, 2}, longer[2] = {2, 4}, zero[2] = {0, 0},
	      opposite[2] = {-1, -2};

	(void)state;
	kvs_merge_vectors(lower, upper, 2);
	assert_true(fabs(hypot(lower[0], lower[1]) - 3) < 1e-6 && fabs(hypot(upper[0], upper[1]) - 5) < 1e-6);
	assert_true(fabs(atan2(lower[1], lower[0]) - 0.6 * M_PI / 2) < 1e-6);
	assert_true(fabs(atan2(upper[1], upper[0]) - 0.6 * M_PI / 2) < 1e-6);
	kvs_merge_vectors(same, longer, 2);
	assert_true(fabsf(same[0] - 1) < 1e-6f && fabsf(longer[1] - 4) < 1e-6f);
	kvs_merge_vectors(same, zero, 2);
	assert_true(zero[0] == 0 && fabsf(same[1] - 2) < 1e-6f);
	kvs_merge_vectors(same, opposite, 2);
	assert_true(fabsf(same[0] - 1) < 1e-6f && opposite[0] == -1);
}

static struct kvs_calib_text random_text(int vocab)
{
	struct kvs_calib_text text = {.windows = 3, .window_tokens = 24};
	unsigned seed = 5;

	text.window_ids = malloc(sizeof(*text.window_ids) * 72);
	text.window_targets = malloc(sizeof(*text.window_targets) * 72);
	assert_true(text.window_ids && text.window_targets);
	for (int i = 0; i < 72; i++) {
		text.window_ids[i] = rand_r(&seed) % vocab;
		text.window_targets[i] = rand_r(&seed) % vocab;
	}
	return text;
}

struct fixture {
	kvs_checkpoint *ckpt;
	kvs_engine *engine;
	struct kvs_calib_text text;
};

static struct fixture open_fixture(enum kvs_dtype kv_dtype)
{
	struct kvs_engine_options options = {.kv_dtype = kv_dtype, .kv_dtype_set = true};
	struct fixture f = {0};

	must(kvs_checkpoint_open(MODEL, &f.ckpt));
	f.text = random_text(kvs_checkpoint_config(f.ckpt)->vocab);
	must(kvs_calib_open_engine(cu, f.ckpt, &options, &f.text, 1, &f.engine));
	return f;
}

static void close_fixture(struct fixture *f)
{
	kvs_engine_close(f->engine);
	kvs_calib_text_clear(&f->text);
	kvs_checkpoint_close(f->ckpt);
}

/*
 * A token that is written reads back the same, rounded to the cache's type: by at most half a unit in the last place,
 * or in f16 half of the least subnormal.
 */
static void rows_of_the_cache_can_be_read_and_written(void **state)
{
	static const double half_place[] = {[KVS_F32] = 0, [KVS_F16] = 0x1p-11, [KVS_BF16] = 0x1p-8};

	(void)state;
	for (enum kvs_dtype dtype = KVS_F32; dtype <= KVS_BF16; dtype++) {
		struct fixture f = open_fixture(dtype);
		const struct kvs_config *config = kvs_engine_config(f.engine);
		int count = config->kv_heads * config->head_dim;
		float *k = malloc(sizeof(*k) * 4 * count), *v = k + count, *k_read = v + count,
		      *v_read = k_read + count;
		unsigned seed = 3;

		must(kvs_engine_append(f.engine, 0, f.text.window_ids, 8));
		for (int i = 0; i < 2 * count; i++)
			k[i] = ldexpf(rand_r(&seed) / (float)RAND_MAX - 0.5f, rand_r(&seed) % 12 - 6);
		must(kvs_engine_write_kv(f.engine, 2, 5, 1, k, v));
		must(kvs_engine_read_kv(f.engine, 2, 5, 1, k_read, v_read));
		for (int i = 0; i < 2 * count; i++)
			assert_true(fabs((double)k_read[i] - k[i]) <=
				    fmax(half_place[dtype] * fabs(k[i]), dtype == KVS_F16 ? 0x1p-25 : 0));
		must(kvs_engine_read_kv(f.engine, 2, 4, 1, k, v)); /* the row before is another's */
		assert_memory_not_equal(k, k_read, sizeof(*k) * count);
		assert_int_equal(kvs_engine_read_kv(f.engine, config->layers, 0, 1, k, v), -EINVAL);
		assert_int_equal(kvs_engine_write_kv(f.engine, 0, 8, 1, k, v), -EINVAL);
		free(k);
		close_fixture(&f);
	}
}

/* Without pairs, decoding is the unshared model; with pairs it is another one. */
static void merging_nothing_costs_nothing(void **state)
{
	static const int none[] = {0, 1, 2, 3, 4, 5}, pairs[] = {0, 0, 2, 2, 4, 5};
	struct fixture f = open_fixture(KVS_F32);
	struct kvs_quality quality;
	kvs_reference *reference;

	(void)state;
	must(kvs_reference_create(f.engine, &f.text, NULL, &reference));
	must(kvs_measure_merged(f.engine, &f.text, reference, none, NULL, &quality));
	assert_true(quality.top1_agreement == 1 && fabs(quality.kl) < 1e-6);
	assert_true(fabs(quality.nll - quality.full_nll) < 1e-4);
	assert_int_equal(quality.tokens, 72);
	must(kvs_measure_merged(f.engine, &f.text, reference, pairs, NULL, &quality));
	assert_true(quality.kl > 1e-3);
	kvs_reference_free(reference);
	close_fixture(&f);
}

static int open_device(void **state)
{
	const char *device = getenv("KVS_TEST_DEVICE");

	(void)state;
	return kvs_cu_open(device ? device : "host", &cu);
}

static int close_device(void **state)
{
	(void)state;
	kvs_cu_close(cu);
	return 0;
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(spread_is_every_second_layer_at_half),
		cmocka_unit_test(spread_shares_the_number_that_is_asked_for),
		cmocka_unit_test(similar_neighbours_are_the_best_of_all_pairings),
		cmocka_unit_test(merging_keeps_lengths_and_turns_both),
		cmocka_unit_test(rows_of_the_cache_can_be_read_and_written),
		cmocka_unit_test(merging_nothing_costs_nothing),
	};

	return cmocka_run_group_tests(tests, open_device, close_device);
}
