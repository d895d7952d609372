/*
 * tests/checkpoint/config_test.c: config.json is read as transformers reads it, and errors in it name the field.
 *
 * Each case is a small valid file of one family with a patch applied; "@absent" in a patch removes a member.
 */
#include "../../model/checkpoint/checkpoint.h"

#include <errno.h>
#include <jansson.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#define SIZES                                                                                                          \
	"\"hidden_size\": 256, \"intermediate_size\": 512, \"num_hidden_layers\": 4, \"num_attention_heads\": 8, "     \
	"\"vocab_size\": 1000"

static const char *base_of(const char *type)
{
	static const char *const bases[] = {
		"{\"model_type\": \"llama\", \"architectures\": [\"LlamaForCausalLM\"], " SIZES "}",
		"{\"model_type\": \"mistral\", \"architectures\": [\"MistralForCausalLM\"], " SIZES "}",
		"{\"model_type\": \"qwen2\", \"num_key_value_heads\": 4, " SIZES "}",
		"{\"model_type\": \"qwen3\", \"num_key_value_heads\": 4, " SIZES "}",
	};

	for (size_t i = 0; i < sizeof(bases) / sizeof(bases[0]); i++) {
		if (strstr(bases[i], type))
			return bases[i];
	}
	fail_msg("no base for %s", type);
	return NULL;
}

/* The caller frees the text. */
static char *patched(const char *type, const char *patch)
{
	json_t *config = json_loads(base_of(type), 0, NULL), *changes = json_loads(patch, 0, NULL), *value;
	const char *key;

	assert_non_null(config);
	if (!changes)
		fail_msg("the test's own patch is no JSON: %s", patch);
	json_object_foreach(changes, key, value)
	{
		if (json_is_string(value) && !strcmp(json_string_value(value), "@absent"))
			json_object_del(config, key);
		else
			json_object_set(config, key, value);
	}
	char *text = json_dumps(config, 0);
	assert_non_null(text);
	json_decref(config);
	json_decref(changes);
	return text;
}

static int parse_patched(const char *type, const char *patch, struct kvs_config *out)
{
	char *text = patched(type, patch);
	int err = kvs_config_parse(text, strlen(text), "config.json", out);

	free(text);
	return err;
}

static struct kvs_config parsed(const char *type, const char *patch)
{
	struct kvs_config config;

	if (parse_patched(type, patch, &config))
		fail_msg("%s %s: %s", type, patch, kvs_error());
	return config;
}

/* ---- accepted ---- */

static void absent_fields_take_the_defaults_of_transformers(void **state)
{
	static const struct {
		const char *type, *patch;
		int max_positions, kv_heads, head_dim, bos, eos, window;
		bool qkv_bias, qk_norm;
	} rows[] = {
		{"llama", "{}", 2048, 8, 32, 1, 2, 0, false, false},
		{"mistral", "{}", 131072, 8, 32, 1, 2, 4096, false, false},
		{"qwen2", "{}", 32768, 4, 32, -1, -1, 0, true, false},
		{"qwen2", "{\"num_attention_heads\": 64, \"head_dim\": 32, \"num_key_value_heads\": \"@absent\"}",
			32768, 32, 32, -1, -1, 0, true, false},
		{"qwen3", "{}", 32768, 4, 128, -1, -1, 0, false, true},
	};

	(void)state;
	for (size_t i = 0; i < sizeof(rows) / sizeof(rows[0]); i++) {
		struct kvs_config config = parsed(rows[i].type, rows[i].patch);
		assert_string_equal(config.model_type, rows[i].type);
		assert_int_equal(config.max_positions, rows[i].max_positions);
		assert_int_equal(config.kv_heads, rows[i].kv_heads);
		assert_int_equal(config.head_dim, rows[i].head_dim);
		assert_int_equal(config.bos, rows[i].bos);
		assert_int_equal(config.eos_count, rows[i].eos >= 0);
		assert_true(!config.eos_count || config.eos[0] == rows[i].eos);
		for (int l = 0; l < config.layers; l++)
			assert_int_equal(config.window[l], rows[i].window);
		assert_int_equal(config.qkv_bias, rows[i].qkv_bias);
		assert_int_equal(config.qk_norm, rows[i].qk_norm);
		assert_false(config.o_bias || config.mlp_bias || config.tied_embeddings);
		assert_true(config.rms_eps == 1e-6f);
		assert_int_equal(config.dtype, KVS_F32);
		assert_int_equal(config.rope.type, KVS_ROPE_DEFAULT);
		assert_true(config.rope.theta == 10000);
		kvs_config_clear(&config);
	}
}

static void given_fields_are_read(void **state)
{
	struct kvs_config config = parsed("llama",
		"{\"num_key_value_heads\": 2, \"head_dim\": 80, \"rms_norm_eps\": 1e-5, \"attention_bias\": true, "
		"\"mlp_bias\": true, \"tie_word_embeddings\": true, \"torch_dtype\": \"float16\", \"rope_theta\": "
		"500000, "
		"\"max_position_embeddings\": 8192, \"bos_token_id\": 5, \"eos_token_id\": [6, 7, 8]}");

	(void)state;
	assert_int_equal(config.layers, 4);
	assert_int_equal(config.hidden, 256);
	assert_int_equal(config.ff, 512);
	assert_int_equal(config.heads, 8);
	assert_int_equal(config.kv_heads, 2);
	assert_int_equal(config.head_dim, 80);
	assert_int_equal(config.vocab, 1000);
	assert_int_equal(config.max_positions, 8192);
	assert_true(config.rms_eps == 1e-5f);
	assert_true(config.qkv_bias && config.o_bias && config.mlp_bias && config.tied_embeddings);
	assert_int_equal(config.dtype, KVS_F16);
	assert_true(config.rope.theta == 500000);
	assert_int_equal(config.bos, 5);
	assert_int_equal(config.eos_count, 3);
	assert_int_equal(config.eos[2], 8);
	kvs_config_clear(&config);
}

static void dtype_goes_before_torch_dtype(void **state)
{
	struct kvs_config config = parsed("llama", "{\"dtype\": \"bfloat16\", \"torch_dtype\": \"float16\"}");

	(void)state;
	assert_int_equal(config.dtype, KVS_BF16);
	kvs_config_clear(&config);
}

static void null_says_none_or_absent_as_in_transformers(void **state)
{
	struct kvs_config config = parsed("mistral",
		"{\"num_key_value_heads\": null, \"sliding_window\": null, \"head_dim\": null, \"rope_scaling\": null, "
		"\"bos_token_id\": null, \"eos_token_id\": null, \"quantization_config\": null, \"torch_dtype\": "
		"null}");

	(void)state;
	assert_int_equal(config.kv_heads, 8);
	assert_int_equal(config.head_dim, 32);
	assert_int_equal(config.window[0], 0);
	assert_int_equal(config.bos, -1);
	assert_int_equal(config.eos_count, 0);
	kvs_config_clear(&config);
	config = parsed("mistral", "{\"num_attention_heads\": 4, \"head_dim\": 64, \"num_key_value_heads\": null}");
	assert_int_equal(config.kv_heads, 4);
	kvs_config_clear(&config);
}

static void only_llama_and_qwen3_read_attention_bias(void **state)
{
	static const struct {
		const char *type;
		bool qkv_bias, o_bias, mlp_bias;
	} rows[] = {{"llama", true, true, true}, {"mistral", false, false, false}, {"qwen2", true, false, false},
		{"qwen3", true, true, false}};

	(void)state;
	for (size_t i = 0; i < sizeof(rows) / sizeof(rows[0]); i++) {
		struct kvs_config config = parsed(rows[i].type, "{\"attention_bias\": true, \"mlp_bias\": true}");
		assert_int_equal(config.qkv_bias, rows[i].qkv_bias);
		assert_int_equal(config.o_bias, rows[i].o_bias);
		assert_int_equal(config.mlp_bias, rows[i].mlp_bias);
		kvs_config_clear(&config);
	}
}

static void windows_are_those_of_each_layer(void **state)
{
	static const struct {
		const char *type, *patch;
		int window[4];
	} rows[] = {
		{"mistral", "{\"sliding_window\": 24}", {24, 24, 24, 24}},
		{"llama", "{\"sliding_window\": 24}", {0, 0, 0, 0}},
		{"qwen2", "{\"sliding_window\": 24, \"max_window_layers\": 0}", {0, 0, 0, 0}},
		{"qwen2", "{\"use_sliding_window\": true, \"sliding_window\": 24, \"max_window_layers\": 3}",
			{0, 0, 0, 24}},
		{"qwen3", "{\"use_sliding_window\": true, \"max_window_layers\": 1}", {0, 4096, 4096, 4096}},
		{"qwen3", "{\"use_sliding_window\": true, \"sliding_window\": 24}", {0, 0, 0, 0}},
		{"qwen2",
			"{\"use_sliding_window\": true, \"sliding_window\": 24, \"max_window_layers\": 0, "
			"\"layer_types\": "
			"[\"sliding_attention\", \"full_attention\", \"full_attention\", \"sliding_attention\"]}",
			{24, 0, 0, 24}},
		{"llama",
			"{\"layer_types\": [\"full_attention\", \"full_attention\", \"full_attention\", "
			"\"full_attention\"]}",
			{0, 0, 0, 0}},
	};

	(void)state;
	for (size_t i = 0; i < sizeof(rows) / sizeof(rows[0]); i++) {
		struct kvs_config config = parsed(rows[i].type, rows[i].patch);
		assert_memory_equal(config.window, rows[i].window, sizeof(rows[i].window));
		kvs_config_clear(&config);
	}
}

static void rope_is_read_in_both_spellings(void **state)
{
	static const char *const spellings[] = {
		"{\"rope_theta\": 5e5, \"rope_scaling\": {\"type\": \"llama3\", \"factor\": 8, \"low_freq_factor\": 1, "
		"\"high_freq_factor\": 4.0, \"original_max_position_embeddings\": 512}}",
		"{\"rope_theta\": 5e5, \"rope_scaling\": {\"rope_type\": \"llama3\", \"type\": \"ignored\", "
		"\"factor\": 8.0, "
		"\"low_freq_factor\": 1, \"high_freq_factor\": 4.0, \"original_max_position_embeddings\": 512}}",
		"{\"rope_theta\": 123, \"rope_parameters\": {\"rope_type\": \"llama3\", \"rope_theta\": 500000, "
		"\"factor\": 8.0, "
		"\"low_freq_factor\": 1, \"high_freq_factor\": 4, \"original_max_position_embeddings\": 512}}",
		"{\"rope_theta\": 500000, \"rope_scaling\": {}, \"original_max_position_embeddings\": 512, "
		"\"rope_parameters\": "
		"{\"rope_type\": \"llama3\", \"factor\": 8.0, \"low_freq_factor\": 1, \"high_freq_factor\": 4}}",
	};

	(void)state;
	for (size_t i = 0; i < sizeof(spellings) / sizeof(spellings[0]); i++) {
		struct kvs_config config = parsed("llama", spellings[i]);
		assert_int_equal(config.rope.type, KVS_ROPE_LLAMA3);
		assert_true(config.rope.theta == 500000);
		assert_true(config.rope.factor == 8);
		assert_true(config.rope.low_freq_factor == 1 && config.rope.high_freq_factor == 4);
		assert_int_equal(config.rope.original_positions, 512);
		kvs_config_clear(&config);
	}
}

static void yarn_has_defaults_and_derives_its_factor(void **state)
{
	struct kvs_config config =
		parsed("qwen3", "{\"rope_scaling\": {\"type\": \"yarn\", \"original_max_position_embeddings\": 4096}}");

	(void)state;
	assert_int_equal(config.rope.type, KVS_ROPE_YARN);
	assert_true(config.rope.factor == 8); /* 32768 / 4096 */
	assert_true(config.rope.beta_fast == 32 && config.rope.beta_slow == 1 && config.rope.truncate);
	assert_true(config.rope.attention_factor == 0 && config.rope.mscale == 0);
	kvs_config_clear(&config);
	config = parsed("llama",
		"{\"rope_parameters\": {\"rope_type\": \"yarn\", \"factor\": 4, \"beta_fast\": 24, \"beta_slow\": 2.5, "
		"\"attention_factor\": 1.25, \"mscale\": 0.7, \"mscale_all_dim\": 0.5, \"truncate\": false}}");
	assert_true(config.rope.beta_fast == 24 && config.rope.beta_slow == 2.5 && !config.rope.truncate);
	assert_true(
		config.rope.attention_factor == 1.25 && config.rope.mscale == 0.7 && config.rope.mscale_all_dim == 0.5);
	assert_int_equal(config.rope.original_positions, 2048); /* max_position_embeddings */
	kvs_config_clear(&config);
}

static void generation_config_goes_before_config(void **state)
{
	static const char generation[] = "{\"bos_token_id\": 7, \"eos_token_id\": [9, 11], \"temperature\": 0.6}";
	static const char silent[] = "{\"max_length\": 20, \"eos_token_id\": null}";
	static const char far[] = "{\"bos_token_id\": -1, \"eos_token_id\": [9, 1000]}";
	static const char wrong[] = "{\"eos_token_id\": [9, \"11\"]}";
	struct kvs_config config = parsed("llama", "{}");

	(void)state;
	assert_int_equal(ckpt_apply_generation(silent, strlen(silent), "generation_config.json", &config), 0);
	assert_int_equal(config.bos, 1);
	assert_int_equal(config.eos[0], 2);
	assert_int_equal(ckpt_apply_generation(generation, strlen(generation), "generation_config.json", &config), 0);
	assert_int_equal(config.bos, 7);
	assert_int_equal(config.eos_count, 2);
	assert_int_equal(config.eos[1], 11);
	assert_int_equal(ckpt_apply_generation(far, strlen(far), "generation_config.json", &config), 0);
	assert_int_equal(config.bos, -1);
	assert_int_equal(config.eos_count, 1);
	assert_string_equal(config.ignored, "generation_config.json: eos_token_id 1000 is outside the vocabulary of "
					    "1000 tokens, and never comes up");
	assert_int_equal(ckpt_apply_generation(wrong, strlen(wrong), "generation_config.json", &config), -EINVAL);
	assert_non_null(strstr(kvs_error(), "generation_config.json: eos_token_id"));
	kvs_config_clear(&config);
}

/* Values that transformers accepts although JSON, the class or the vocabulary does not have them. */
static void what_does_no_harm_is_read(void **state)
{
	static const char *const patches[][2] = {
		{"llama", "{\"architectures\": []}"},
		{"llama", "{\"architectures\": [\"LlamaModel\"]}"},
		{"llama", "{\"torch_dtype\": \"auto\"}"},
		{"llama", "{\"bos_token_id\": -1, \"eos_token_id\": -1}"},
		{"llama", "{\"bos_token_id\": 1000, \"eos_token_id\": [2000, -7]}"},
		{"mistral", "{\"layer_types\": [\"full_attention\", \"full_attention\", \"full_attention\", "
			    "\"full_attention\"]}"},
	};

	(void)state;
	for (size_t i = 0; i < sizeof(patches) / sizeof(patches[0]); i++) {
		struct kvs_config config = parsed(patches[i][0], patches[i][1]);
		bool said = strstr(patches[i][1], "1000") != NULL;
		assert_int_equal(config.dtype, KVS_F32);
		assert_int_equal(config.ignored[0] != 0, said);
		if (strstr(patches[i][1], "bos_token_id")) {
			assert_int_equal(config.bos, -1);
			assert_int_equal(config.eos_count, 0);
		}
		if (!strcmp(patches[i][0], "mistral"))
			assert_int_equal(config.window[3], 4096); /* transformers ignores the list */
		kvs_config_clear(&config);
	}
}

static int parse_text(const char *text, struct kvs_config *config)
{
	return kvs_config_parse(text, strlen(text), "config.json", config);
}

/*
 * Python takes the last of two members with one name; NaN and infinities are harmless only in fields that we do not
 * read.
 */
static void json_is_read_as_python_reads_it(void **state)
{
	struct kvs_config config;

	(void)state;
	assert_int_equal(
		parse_text("{\"model_type\": \"qwen2\", \"model_type\": \"llama\", \"a\": NaN, \"b\": [Infinity, "
			   "-Infinity], \"c\": \"\\\"NaN \\\\\", \"d\": NaN, " SIZES "}",
			&config),
		0);
	assert_string_equal(config.model_type, "llama");
	kvs_config_clear(&config);
	assert_int_equal(parse_text("{\"model_type\": \"llama\", \"rms_norm_eps\": NaN, " SIZES "}", &config), -EINVAL);
	assert_non_null(strstr(kvs_error(), "rms_norm_eps is a string"));
	assert_int_equal(
		parse_text("{\"model_type\": \"llama\", \"rope_theta\": Infinity, " SIZES "}", &config), -EINVAL);
	assert_int_equal(parse_text("{\"model_type\": \"llama\", \"a\": Na, " SIZES "}", &config), -EINVAL);
	assert_non_null(strstr(kvs_error(), "line 1"));
}

/* ---- refused ---- */

#define LLAMA3(low, high)                                                                                              \
	"{\"rope_scaling\": {\"rope_type\": \"llama3\", \"factor\": 8, \"low_freq_factor\": " low                      \
	", \"high_freq_factor\": " high "}}"

static const struct {
	const char *type, *patch, *message;
} refused[] = {
	{"llama", "{\"model_type\": \"@absent\"}", "model_type is missing"},
	{"llama", "{\"model_type\": \"gpt_neox\"}", "model_type is \"gpt_neox\""},
	{"llama", "{\"model_type\": 7}", "model_type is an integer"},
	{"llama", "{\"architectures\": [\"LlamaForSequenceClassification\"]}", "\"LlamaForSequenceClassification\""},
	{"llama", "{\"architectures\": \"LlamaForCausalLM\"}", "architectures is not a list"},
	{"qwen2", "{\"architectures\": [\"Qwen2VLForConditionalGeneration\"]}", "architectures[0]"},
	{"llama", "{\"quantization_config\": {\"quant_method\": \"gptq\"}}", "quantization_config (quant_method gptq)"},
	{"llama", "{\"quantization_config\": {}}", "quantization_config"},
	{"llama", "{\"hidden_act\": \"gelu\"}", "hidden_act is \"gelu\""},
	{"llama", "{\"num_hidden_layers\": \"@absent\"}", "num_hidden_layers is missing"},
	{"llama", "{\"num_hidden_layers\": null}", "num_hidden_layers is missing"},
	{"llama", "{\"num_hidden_layers\": 1000000000}", "num_hidden_layers is 1000000000"},
	{"llama", "{\"num_hidden_layers\": 0}", "num_hidden_layers is 0"},
	{"llama", "{\"num_hidden_layers\": -4}", "num_hidden_layers is -4"},
	{"llama", "{\"num_hidden_layers\": 4.0}", "num_hidden_layers is a number with a fraction"},
	{"llama", "{\"num_hidden_layers\": \"4\"}", "num_hidden_layers is a string"},
	{"llama", "{\"num_hidden_layers\": [4]}", "num_hidden_layers is a list"},
	{"llama", "{\"num_hidden_layers\": true}", "num_hidden_layers is a boolean"},
	{"llama", "{\"hidden_size\": 9223372036854775807}", "hidden_size is 9223372036854775807"},
	{"llama", "{\"hidden_size\": -9223372036854775807}", "hidden_size is -9223372036854775807"},
	{"llama", "{\"hidden_size\": 4294967552}", "hidden_size is 4294967552"}, /* 256 if it is truncated to 32 bits */
	{"llama", "{\"intermediate_size\": 0}", "intermediate_size is 0"},
	{"llama", "{\"vocab_size\": 1000000000}", "vocab_size is 1000000000"},
	{"llama", "{\"num_attention_heads\": 0}", "num_attention_heads is 0"},
	{"llama", "{\"num_key_value_heads\": 0}", "num_key_value_heads is 0"},
	{"llama", "{\"num_key_value_heads\": 3}", "not a multiple of num_key_value_heads, which is 3"},
	{"llama", "{\"num_key_value_heads\": 16}", "not a multiple of num_key_value_heads, which is 16"},
	{"mistral", "{\"num_attention_heads\": 4, \"head_dim\": 64}", "which is 8"},
	{"llama", "{\"num_attention_heads\": 6}", "hidden_size is 256, not a multiple"},
	{"llama", "{\"head_dim\": 48}", "head_dim is 48"},
	{"llama", "{\"head_dim\": 512}", "head_dim is 512"},
	{"llama", "{\"head_dim\": -32}", "head_dim is -32"},
	{"llama", "{\"num_attention_heads\": 16}", "head_dim is 16"},
	{"llama", "{\"max_position_embeddings\": 0}", "max_position_embeddings is 0"},
	{"llama", "{\"rms_norm_eps\": 0}", "rms_norm_eps is 0"},
	{"llama", "{\"rms_norm_eps\": -1e-5}", "rms_norm_eps is -1e-05"},
	{"llama", "{\"rms_norm_eps\": 1.5}", "rms_norm_eps is 1.5"},
	{"llama", "{\"num_hidden_layers\": 4097}", "num_hidden_layers is 4097, 1 to 4096"},
	{"llama", "{\"rms_norm_eps\": \"1e-5\"}", "rms_norm_eps is a string"},
	{"llama", "{\"tie_word_embeddings\": 1}", "tie_word_embeddings is an integer"},
	{"llama", "{\"attention_bias\": \"no\"}", "attention_bias is a string"},
	{"llama", "{\"mlp_bias\": 0}", "mlp_bias is an integer"},
	{"llama", "{\"torch_dtype\": \"float8_e4m3fn\"}", "torch_dtype is \"float8_e4m3fn\""},
	{"llama", "{\"dtype\": {}}", "dtype is an object"},
	{"llama", "{\"rope_theta\": 0}", "rope_theta is 0"},
	{"llama", "{\"rope_theta\": [1]}", "rope_theta is a list"},
	{"llama", "{\"partial_rotary_factor\": 0.5}", "partial_rotary_factor is 0.5"},
	{"llama", "{\"rope_scaling\": \"linear\"}", "rope_scaling is not an object"},
	{"llama", "{\"rope_parameters\": [1]}", "rope_parameters is not an object"},
	{"llama", "{\"rope_scaling\": {\"type\": \"longrope\"}}", "rope_scaling.type is \"longrope\""},
	{"qwen2", "{\"rope_scaling\": {\"rope_type\": \"mrope\"}}", "rope_scaling.rope_type is \"mrope\""},
	{"llama", "{\"rope_scaling\": {\"type\": \"linear\"}}", "rope_scaling.factor is missing"},
	{"llama", "{\"rope_scaling\": {\"type\": \"linear\", \"factor\": 0}}", "rope_scaling.factor is 0"},
	{"llama", "{\"rope_scaling\": {\"type\": \"dynamic\", \"factor\": \"2\"}}", "rope_scaling.factor is a string"},
	{"llama", LLAMA3("4", "4"), "rope_scaling.high_freq_factor is 4, not above low_freq_factor"},
	{"llama", LLAMA3("0", "4"), "rope_scaling.low_freq_factor is 0"},
	{"llama", LLAMA3("null", "4"), "rope_scaling.low_freq_factor is missing"},
	{"llama", "{\"rope_parameters\": {\"rope_type\": \"yarn\", \"factor\": 2, \"beta_fast\": 1, \"beta_slow\": 2}}",
		"rope_parameters.beta_fast is 1, below beta_slow"},
	{"llama", "{\"rope_parameters\": {\"rope_type\": \"yarn\", \"original_max_position_embeddings\": 0}}",
		"rope_parameters.original_max_position_embeddings is 0"},
	{"qwen3", "{\"rope_parameters\": {\"full_attention\": {\"rope_type\": \"default\"}}}",
		"rope_parameters.full_attention"},
	{"mistral", "{\"sliding_window\": 0}", "sliding_window is 0"},
	{"mistral", "{\"sliding_window\": -1}", "sliding_window is -1"},
	{"qwen2", "{\"use_sliding_window\": 1}", "use_sliding_window is an integer"},
	{"qwen2", "{\"use_sliding_window\": true, \"max_window_layers\": -1}", "max_window_layers is -1"},
	{"qwen2", "{\"layer_types\": [\"full_attention\"]}", "layer_types has 1 entries, num_hidden_layers is 4"},
	{"qwen2", "{\"layer_types\": [\"full_attention\", \"mamba\", 3, 4]}", "layer_types[1] is mamba"},
	{"qwen2", "{\"layer_types\": [\"full_attention\", \"full_attention\", 3, 4]}", "layer_types[2] is not a name"},
	{"qwen2",
		"{\"layer_types\": [\"sliding_attention\", \"full_attention\", \"full_attention\", "
		"\"full_attention\"]}",
		"layer_types[0] is sliding_attention, but no sliding_window is set"},
	{"mistral",
		"{\"layer_types\": [\"sliding_attention\", \"full_attention\", \"full_attention\", "
		"\"full_attention\"]}",
		"layer_types[1] is full_attention, which MistralForCausalLM does not have"},
	{"llama", "{\"eos_token_id\": {}}", "eos_token_id"},
	{"llama", "{\"eos_token_id\": [1, \"2\"]}", "eos_token_id"},
	{"llama", "{\"eos_token_id\": [1, 2, 3, 4, 5, 6, 7, 8, 9]}", "eos_token_id has more than 8 entries"},
};

static void what_is_wrong_is_refused_with_file_and_field(void **state)
{
	(void)state;
	for (size_t i = 0; i < sizeof(refused) / sizeof(refused[0]); i++) {
		struct kvs_config config;
		int err = parse_patched(refused[i].type, refused[i].patch, &config);
		if (err != -EINVAL)
			fail_msg("%s %s: returned %d", refused[i].type, refused[i].patch, err);
		if (strncmp(kvs_error(), "config.json: ", 13) || !strstr(kvs_error(), refused[i].message))
			fail_msg("%s %s: the message is: %s", refused[i].type, refused[i].patch, kvs_error());
		assert_null(config.window); /* nothing is held after an error */
	}
}

static void assert_refused_text(const char *text, size_t bytes, const char *message)
{
	struct kvs_config config;

	assert_int_equal(kvs_config_parse(text, bytes, "config.json", &config), -EINVAL);
	if (!strstr(kvs_error(), message))
		fail_msg("the message is: %s", kvs_error());
}

static void what_is_no_json_object_is_refused(void **state)
{
	(void)state;
	assert_refused_text("", 0, "config.json: line 1");
	assert_refused_text("[1, 2]", 6, "config.json: holds no JSON object");
	assert_refused_text("{\"a\": 1} {", 11, "config.json: line 1");
	assert_refused_text("{\"a\": \"\xff\"}", 10, "config.json: line 1");
	assert_refused_text("{\"vocab_size\": 99999999999999999999}", 37, "config.json: line 1");
	assert_refused_text("{\"rms_norm_eps\": 1e999}", 24, "config.json: line 1");
}

static void nesting_bombs_and_huge_strings_are_refused(void **state)
{
	size_t bytes = 1 << 20;
	char *text = malloc(bytes + 64);

	(void)state;
	assert_non_null(text);
	memset(text, '[', bytes);
	assert_refused_text(text, bytes, "config.json: line 1");
	int head = sprintf(text, "{\"model_type\": \"");
	memset(text + head, 'x', bytes);
	strcpy(text + head + bytes, "\"}");
	assert_refused_text(text, head + bytes + 2, "config.json: model_type is \"xxxx");
	assert_true(strlen(kvs_error()) < 512);
	free(text);
}

/* A copy of exactly `bytes` bytes, so that ASan sees a read past them. */
static int parse_exactly(const char *text, size_t bytes)
{
	struct kvs_config config;
	char *copy = malloc(bytes + !bytes);

	assert_non_null(copy);
	memcpy(copy, text, bytes);
	int err = kvs_config_parse(copy, bytes, "config.json", &config);
	free(copy);
	if (!err)
		kvs_config_clear(&config);
	return err;
}

static void every_truncation_is_refused(void **state)
{
	char *text = patched("qwen2", "{\"use_sliding_window\": true, \"max_window_layers\": 2}");

	(void)state;
	for (size_t bytes = 0; bytes < strlen(text); bytes++)
		assert_int_equal(parse_exactly(text, bytes), -EINVAL);
	assert_int_equal(parse_exactly(text, strlen(text)), 0);
	free(text);
}

static void flipped_bits_are_read_or_refused(void **state)
{
	char *text = patched("llama", LLAMA3("1", "4"));
	size_t bytes = strlen(text);

	(void)state;
	for (size_t bit = 0; bit < 8 * bytes; bit++) {
		text[bit / 8] ^= 1 << bit % 8;
		int err = parse_exactly(text, bytes);
		if (err && (err != -EINVAL || strncmp(kvs_error(), "config.json: ", 13)))
			fail_msg("bit %zu: %d, %s", bit, err, kvs_error());
		text[bit / 8] ^= 1 << bit % 8;
	}
	free(text);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(absent_fields_take_the_defaults_of_transformers),
		cmocka_unit_test(given_fields_are_read),
		cmocka_unit_test(dtype_goes_before_torch_dtype),
		cmocka_unit_test(null_says_none_or_absent_as_in_transformers),
		cmocka_unit_test(only_llama_and_qwen3_read_attention_bias),
		cmocka_unit_test(windows_are_those_of_each_layer),
		cmocka_unit_test(rope_is_read_in_both_spellings),
		cmocka_unit_test(yarn_has_defaults_and_derives_its_factor),
		cmocka_unit_test(generation_config_goes_before_config),
		cmocka_unit_test(what_does_no_harm_is_read),
		cmocka_unit_test(json_is_read_as_python_reads_it),
		cmocka_unit_test(what_is_wrong_is_refused_with_file_and_field),
		cmocka_unit_test(what_is_no_json_object_is_refused),
		cmocka_unit_test(nesting_bombs_and_huge_strings_are_refused),
		cmocka_unit_test(every_truncation_is_refused),
		cmocka_unit_test(flipped_bits_are_read_or_refused),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
