/*
 * tests/model/sampler_test.c: the sampler's draws follow the distribution, cut by top-k and top-p.
 */
#include "../../model/model.h"

#include <errno.h>
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#define VOCAB 6
#define DRAWS 200000

static const float probs[VOCAB] = {0.05f, 0.40f, 0.10f, 0.25f, 0.0f, 0.20f};

static kvs_sampler *sampler_of(float temperature, int top_k, float top_p, uint64_t seed)
{
	struct kvs_sampling options = {.temperature = temperature, .top_k = top_k, .top_p = top_p, .seed = seed};
	kvs_sampler *sampler;

	assert_int_equal(kvs_sampler_create(&options, VOCAB, &sampler), 0);
	return sampler;
}

/* Compares the share of each token in many draws with its probability, to five standard deviations. */
static void assert_shares(kvs_sampler *sampler, const double *expected)
{
	int drawn[VOCAB] = {0};

	for (int i = 0; i < DRAWS; i++) {
		int32_t id = kvs_sampler_pick(sampler, probs);
		assert_in_range(id, 0, VOCAB - 1);
		drawn[id]++;
	}
	for (int id = 0; id < VOCAB; id++) {
		double spread = sqrt(expected[id] * (1 - expected[id]) / DRAWS);
		double share = (double)drawn[id] / DRAWS;
		if (fabs(share - expected[id]) > 5 * spread)
			fail_msg("id %d was drawn in %.4f of the cases, not %.4f", id, share, expected[id]);
	}
	kvs_sampler_free(sampler);
}

static void draws_follow_the_distribution(void **state)
{
	const double expected[VOCAB] = {0.05, 0.40, 0.10, 0.25, 0, 0.20};

	(void)state;
	assert_shares(sampler_of(1, 0, 1, 1), expected);
}

static void top_k_keeps_the_k_likeliest(void **state)
{
	const double expected[VOCAB] = {0, 0.40 / 0.65, 0, 0.25 / 0.65, 0, 0};

	(void)state;
	assert_shares(sampler_of(1, 2, 1, 2), expected);
}

static void top_p_keeps_the_smallest_set_that_holds_p(void **state)
{
	const double expected[VOCAB] = {0, 0.40 / 0.85, 0, 0.25 / 0.85, 0, 0.20 / 0.85};

	(void)state;
	assert_shares(sampler_of(1, 0, 0.80f, 3), expected);
}

/* The three likeliest have 0.85 together; the first two reach half of that mass. */
static void top_p_works_on_what_top_k_left(void **state)
{
	const double expected[VOCAB] = {0, 0.40 / 0.65, 0, 0.25 / 0.65, 0, 0};

	(void)state;
	assert_shares(sampler_of(1, 3, 0.5f, 4), expected);
}

/* 0.40 is more than 45 % of that mass, but less than 45 % of the whole. */
static void top_p_is_a_part_of_what_top_k_left(void **state)
{
	const double expected[VOCAB] = {0, 1, 0, 0, 0, 0};

	(void)state;
	assert_shares(sampler_of(1, 3, 0.45f, 4), expected);
}

/* If all are equal, the smaller ids are kept, up to a mass of p. */
static void top_p_keeps_some_of_equals(void **state)
{
	const float alike[VOCAB] = {1.0f / 6, 1.0f / 6, 1.0f / 6, 1.0f / 6, 1.0f / 6, 1.0f / 6};
	kvs_sampler *sampler = sampler_of(1, 0, 0.45f, 5);
	int drawn[VOCAB] = {0};

	(void)state;
	for (int i = 0; i < 1000; i++) {
		int32_t id = kvs_sampler_pick(sampler, alike);
		assert_in_range(id, 0, 2);
		drawn[id]++;
	}
	assert_true(drawn[0] && drawn[1] && drawn[2]);
	kvs_sampler_free(sampler);
}

static void a_seed_repeats_its_draws_and_another_does_not(void **state)
{
	kvs_sampler *a = sampler_of(1, 0, 1, 9), *b = sampler_of(1, 0, 1, 9), *c = sampler_of(1, 0, 1, 10);
	int differing = 0;

	(void)state;
	for (int i = 0; i < 100; i++) {
		int32_t id = kvs_sampler_pick(a, probs);
		assert_int_equal(id, kvs_sampler_pick(b, probs));
		differing += id != kvs_sampler_pick(c, probs);
	}
	assert_true(differing > 0);
	kvs_sampler_free(a);
	kvs_sampler_free(b);
	kvs_sampler_free(c);
}

static void what_is_no_number_is_never_drawn(void **state)
{
	const float damaged[VOCAB] = {NAN, NAN, NAN, NAN, NAN, NAN};
	kvs_sampler *sampler = sampler_of(1, 0, 1, 1);

	(void)state;
	assert_int_equal(kvs_sampler_pick(sampler, damaged), -1);
	kvs_sampler_free(sampler);
}

static void options_out_of_range_are_refused_by_name(void **state)
{
	static const struct {
		struct kvs_sampling options;
		const char *said;
	} rows[] = {
		{{.temperature = -1, .top_p = 1}, "temperature"},
		{{.temperature = NAN, .top_p = 1}, "temperature"},
		{{.temperature = 1001, .top_p = 1}, "temperature"},
		{{.temperature = 1, .top_p = 1, .top_k = -2}, "top-k"},
		{{.temperature = 1, .top_p = 0}, "top-p"},
		{{.temperature = 1, .top_p = 1.5f}, "top-p"},
	};
	kvs_sampler *sampler = NULL;

	(void)state;
	for (size_t i = 0; i < sizeof(rows) / sizeof(*rows); i++) {
		assert_int_equal(kvs_sampler_create(&rows[i].options, VOCAB, &sampler), -EINVAL);
		assert_non_null(strstr(kvs_error(), rows[i].said));
		assert_null(sampler);
	}
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(draws_follow_the_distribution),
		cmocka_unit_test(top_k_keeps_the_k_likeliest),
		cmocka_unit_test(top_p_keeps_the_smallest_set_that_holds_p),
		cmocka_unit_test(top_p_works_on_what_top_k_left),
		cmocka_unit_test(top_p_is_a_part_of_what_top_k_left),
		cmocka_unit_test(top_p_keeps_some_of_equals),
		cmocka_unit_test(a_seed_repeats_its_draws_and_another_does_not),
		cmocka_unit_test(what_is_no_number_is_never_drawn),
		cmocka_unit_test(options_out_of_range_are_refused_by_name),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
