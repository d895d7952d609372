/*
 * tests/e2e/checkpoint_forms_test.c: a model has the same loss in every form in which people store it; stored tensors
 * that are not used are named.
 *
 * Each form is made from tests/models/storyworld-3m by changing the names in its safetensors header, or adding tensors to
 * it. The losses are those of transformers 5.24, float32.
 */
#include "../support/process.h"

#include <jansson.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <cmocka.h>

#define MODEL "tests/models/storyworld-3m"
#define EMBEDDING "model.embed_tokens.weight"

static char dir[64];
static json_t *header;      /* of the model's weights */
static unsigned char *data; /* the rest of the file */
static size_t data_bytes;

/* ---- a file of weights, in parts ---- */

static void read_model(void)
{
	FILE *file = fopen(MODEL "/model.safetensors", "rb");
	uint64_t length;
	char *text;

	assert_non_null(file);
	assert_int_equal(fread(&length, 8, 1, file), 1); /* this runs only on little-endian machines */
	text = malloc(length);
	assert_non_null(text);
	assert_int_equal(fread(text, 1, length, file), length);
	header = json_loadb(text, length, 0, NULL);
	assert_non_null(header);
	free(text);
	data = malloc(64 << 20);
	assert_non_null(data);
	data_bytes = fread(data, 1, 48 << 20, file);
	assert_int_equal(fclose(file), 0);
}

static void write_model(void)
{
	char path[128], *text = json_dumps(header, JSON_COMPACT);
	uint64_t length = strlen(text);
	FILE *file;

	snprintf(path, sizeof(path), "%s/model.safetensors", dir);
	file = fopen(path, "wb");
	assert_non_null(file);
	assert_int_equal(fwrite(&length, 8, 1, file), 1);
	assert_int_equal(fwrite(text, 1, length, file), length);
	assert_int_equal(fwrite(data, 1, data_bytes, file), data_bytes);
	assert_int_equal(fclose(file), 0);
	free(text);
	json_decref(header);
	free(data);
}

static int64_t offset_of(const char *name, size_t which)
{
	return json_integer_value(
		json_array_get(json_object_get(json_object_get(header, name), "data_offsets"), which));
}

static void rename_tensor(const char *from, const char *to)
{
	assert_int_equal(json_object_set(header, to, json_object_get(header, from)), 0);
	assert_int_equal(json_object_del(header, from), 0);
}

/* A tensor of the type and shape of `like`, with its bytes or with zeros. */
static void add_tensor(const char *name, const char *like, bool zeros)
{
	size_t bytes = offset_of(like, 1) - offset_of(like, 0);
	json_t *tensor = json_deep_copy(json_object_get(header, like));

	memcpy(data + data_bytes, data + offset_of(like, 0), bytes);
	if (zeros)
		memset(data + data_bytes, 0, bytes);
	json_object_set_new(tensor, "data_offsets", json_pack("[I,I]", data_bytes, data_bytes + bytes));
	json_object_set_new(header, name, tensor);
	data_bytes += bytes;
}

/* ---- forms ---- */

static void as_it_is(void)
{
}

static void with_an_equal_head(void)
{
	add_tensor("lm_head.weight", EMBEDDING, false);
}

static void with_a_head_of_zeros(void)
{
	add_tensor("lm_head.weight", EMBEDDING, true);
}

static void with_the_head_alone(void)
{
	rename_tensor(EMBEDDING, "lm_head.weight");
}

static void as_a_base_model(void)
{
	json_t *names = json_object();
	const char *name;
	json_t *tensor;

	json_object_foreach(header, name, tensor)
		json_object_set(names, strncmp(name, "model.", 6) ? name : name + 6, tensor);
	json_decref(header);
	header = names;
}

static void with_buffers(void)
{
	add_tensor("model.layers.0.self_attn.rotary_emb.inv_freq", "model.norm.weight", true);
	add_tensor("model.rotary_emb.inv_freq", "model.norm.weight", true);
}

static void with_a_bias_that_llama_lacks(void)
{
	add_tensor("model.layers.3.self_attn.q_proj.bias", "model.norm.weight", true);
}

static void with_lora_and_layers_beyond(void)
{
	add_tensor("model.layers.0.self_attn.q_proj.lora_A.weight", "model.norm.weight", false);
	add_tensor("model.layers.0.self_attn.q_proj.lora_B.weight", "model.norm.weight", false);
	add_tensor("model.layers.16.input_layernorm.weight", "model.norm.weight", false);
	add_tensor("model.layers.17.input_layernorm.weight", "model.norm.weight", false);
	add_tensor("vision\x1b[31m.weight", "model.norm.weight", false);
}

static const struct form {
	const char *what;
	void (*make)(void);
	const char *nll, *warning; /* NULL: none */
} forms[] = {
	{"as it is", as_it_is, "1.079660", NULL},
	{"an equal head", with_an_equal_head, "1.079660", NULL},
	{"a head of zeros", with_a_head_of_zeros, "6.931472",
		"kvshare-run: warning: lm_head.weight differs from the embedding, and is used though config.json says "
		"tie_word_embeddings\n"},
	{"the head alone", with_the_head_alone, "1.079660", NULL},
	{"a base model", as_a_base_model, "1.079660", NULL},
	{"buffers", with_buffers, "1.079660", NULL},
	{"a bias", with_a_bias_that_llama_lacks, "1.079660",
		"kvshare-run: warning: 1 stored tensor of the model is not used: "
		"model.layers.3.self_attn.q_proj.bias\n"},
	{"LoRA, layers beyond", with_lora_and_layers_beyond, "1.079660",
		"kvshare-run: warning: 5 stored tensors of the model are not used: "
		"model.layers.0.self_attn.q_proj.lora_A.weight, model.layers.0.self_attn.q_proj.lora_B.weight, "
		"model.layers.16.input_layernorm.weight, model.layers.17.input_layernorm.weight and 1 more\n"},
};

static void check_form(const struct form *form)
{
	char command[512], expected[64];
	struct process process;

	strcpy(dir, "/tmp/kvs-form-XXXXXX");
	assert_non_null(mkdtemp(dir));
	read_model();
	form->make();
	write_model();
	snprintf(command, sizeof(command),
		"trap 'rm -rf %s' EXIT; cp " MODEL "/config.json " MODEL
		"/tokenizer.json %s; kvshare-run eval -m %s -q "
		"--device host --kv-dtype f32 --text " MODEL "/heldout.txt --max-tokens 200 --ctx 100",
		dir, dir, dir);
	process = run_shell(command, 120);
	if (process.status != 0)
		fail_msg("%s: exit status %d: %s", form->what, process.status, process.err);
	snprintf(expected, sizeof(expected), "%s", form->nll);
	if (!strstr(process.out, expected))
		fail_msg("%s: no loss of %s in: %s", form->what, expected, process.out);
	if (strcmp(process.err, form->warning ? form->warning : ""))
		fail_msg("%s: it says: %s", form->what, process.err);
	process_free(&process);
}

static void every_form_has_the_model_s_loss(void **state)
{
	(void)state;
	for (size_t i = 0; i < sizeof(forms) / sizeof(forms[0]); i++)
		check_form(&forms[i]);
}

int main(void)
{
	const struct CMUnitTest tests[] = {cmocka_unit_test(every_form_has_the_model_s_loss)};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
