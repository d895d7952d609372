/*
 * tests/e2e/gguf_test.c: a model in a GGUF file has exactly the loss that it has in safetensors, also with a plan; and a
 * quantised one exactly that of its weights in f32.
 */
#include "../support/gguf.h"
#include "../support/process.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stdlib.h>

#include <cmocka.h>

#define MODEL "tests/models/storyworld-3m"

static double loss(const char *model, const char *options)
{
	char command[512];
	json_t *json;
	double nll;

	snprintf(command, sizeof(command),
		"%s eval -m %s --text " MODEL "/heldout.txt --max-tokens 300 --ctx 128 --kv-dtype f32 --device host "
		"--json %s",
		built("kvshare-run"), model, options);
	json = run_json(command);
	nll = json_number_value(json_object_get(json, "nll"));
	json_decref(json);
	return nll;
}

static void write_model(char *file, int matrices)
{
	struct gguf_writer to;

	assert_true(mkstemp(file) >= 0);
	gguf_begin(&to);
	to.matrices = matrices;
	gguf_storyworld_keys(&to);
	gguf_storyworld_tensors(&to, 0, 1);
	gguf_save(&to, file);
}

static void the_loss_is_that_of_the_safetensors(void **state)
{
	char file[] = "/tmp/kvs-gguf-XXXXXX";
	const char *owners = "--owners 0,1,2,3,4,5,2,7,8,3,10,11,1,13,5,15";

	(void)state;
	write_model(file, GGUF_PLAIN);
	assert_true(loss(MODEL, "") > 0 && loss(file, "") == loss(MODEL, ""));
	assert_true(loss(file, owners) == loss(MODEL, owners));
	remove(file);
}

static char *text(const char *model)
{
	char command[512], *out;
	json_t *json;

	snprintf(command, sizeof(command),
		"%s generate -m %s -p \"Anna put the red key\" -n 48 --kv-dtype f32 --device host "
		"--json",
		built("kvshare-run"), model);
	json = run_json(command);
	out = json_dumps(json_object_get(json, "tokens"), 0);
	json_decref(json);
	return out;
}

/* Many tokens at a time, and one: the weights stay quantised on the host, and lose nothing. */
static void quantised_weights_give_what_their_numbers_give(void **state)
{
	char quantised[] = "/tmp/kvs-gguf-XXXXXX", rounded[] = "/tmp/kvs-gguf-XXXXXX", *one, *two;

	(void)state;
	write_model(quantised, GGUF_Q8_0);
	write_model(rounded, GGUF_ROUNDED);
	assert_true(loss(quantised, "") == loss(rounded, ""));
	assert_true(loss(quantised, "") != loss(MODEL, ""));
	one = text(quantised);
	two = text(rounded);
	assert_non_null(one);
	assert_string_equal(one, two);
	free(one);
	free(two);
	remove(quantised);
	remove(rounded);
}

int main(void)
{
	const struct CMUnitTest tests[] = {cmocka_unit_test(the_loss_is_that_of_the_safetensors),
		cmocka_unit_test(quantised_weights_give_what_their_numbers_give)};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
