/*
 * tests/chart/axis_test.c: axes hold all their values between round numbers, and text is no markup.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <math.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <cmocka.h>

#include "../../chart/chart.h"

static double random_value(void)
{
	return (rand() % 20001 - 10000) * pow(10, rand() % 12 - 6);
}

static void random_axes_are_round_and_hold_their_values(void **state)
{
	unsigned seed = getenv("KVS_TEST_SEED") ? strtoul(getenv("KVS_TEST_SEED"), NULL, 10) : (unsigned long)getpid();

	(void)state;
	print_message("KVS_TEST_SEED=%u\n", seed);
	srand(seed);
	for (int i = 0; i < 10000; i++) {
		struct kvs_axis axis = kvs_axis_empty(false, rand() % 2);
		double low = random_value(), high = random_value(), digit;
		kvs_axis_widen(&axis, low);
		kvs_axis_widen(&axis, NAN);
		kvs_axis_widen(&axis, high);
		kvs_axis_round(&axis);
		assert_true(kvs_axis_part(&axis, low) > -1e-6 && kvs_axis_part(&axis, low) < 1 + 1e-6);
		assert_true(kvs_axis_part(&axis, high) > -1e-6 && kvs_axis_part(&axis, high) < 1 + 1e-6);
		assert_in_range(kvs_axis_steps(&axis), 1, 9);
		digit = axis.step / pow(10, floor(log10(axis.step) + 1e-9));
		assert_true(fabs(digit - 1) < 1e-6 || fabs(digit - 2) < 1e-6 || fabs(digit - 5) < 1e-6);
		assert_true(!axis.whole || axis.step > 0.999);
	}
}

static void a_tick_has_the_digits_of_its_step(void **state)
{
	struct kvs_axis axis = kvs_axis_empty(false, false);
	char text[32];

	(void)state;
	kvs_axis_widen(&axis, -0.1);
	kvs_axis_widen(&axis, 0.5);
	kvs_axis_round(&axis);
	kvs_axis_tick(&axis, 1, text, sizeof(text));
	assert_string_equal(text, "0.0"); /* and not -0.0 */
	kvs_axis_tick(&axis, 4, text, sizeof(text));
	assert_string_equal(text, "0.3");
}

static void text_is_no_markup(void **state)
{
	char *text;
	size_t bytes;
	FILE *to = open_memstream(&text, &bytes);

	(void)state;
	kvs_chart_escape(to, "<a href=\"x\" b='y'>&amp;");
	fclose(to);
	assert_string_equal(text, "&lt;a href=&quot;x&quot; b=&#39;y&#39;&gt;&amp;amp;");
	free(text);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(random_axes_are_round_and_hold_their_values),
		cmocka_unit_test(a_tick_has_the_digits_of_its_step),
		cmocka_unit_test(text_is_no_markup),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
