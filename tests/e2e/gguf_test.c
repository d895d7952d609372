/*
 * tests/e2e/gguf_test.c: a model in a GGUF file has exactly the loss that it has in safetensors, also with a plan.
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

static void the_loss_is_that_of_the_safetensors(void **state)
{
	char file[] = "/tmp/kvs-gguf-XXXXXX";
	const char *owners = "--owners 0,1,2,3,4,5,2,7,8,3,10,11,1,13,5,15";
	struct gguf_writer to;

	(void)state;
	assert_true(mkstemp(file) >= 0);
	gguf_begin(&to);
	gguf_storyworld_keys(&to);
	gguf_storyworld_tensors(&to, 0, 1);
	gguf_save(&to, file);
	assert_true(loss(MODEL, "") > 0 && loss(file, "") == loss(MODEL, ""));
	assert_true(loss(file, owners) == loss(MODEL, owners));
	remove(file);
}

int main(void)
{
	const struct CMUnitTest tests[] = {cmocka_unit_test(the_loss_is_that_of_the_safetensors)};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
