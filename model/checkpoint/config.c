/*
 * model/checkpoint/config.c: config.json and generation_config.json to struct kvs_config.
 *
 * A table has the defaults of each architecture's configuration class in Hugging Face transformers (5.23). A setting that
 * the engine cannot run as the model was trained is refused here, by name, rather than run wrongly.
 */
#include "checkpoint.h"

#include <errno.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* Larger than in any known model; heads * head_dim and 2 * ff stay far below INT_MAX. */
#define MAX_HIDDEN (1 << 18)
#define MAX_FF (1 << 20)
#define MAX_HEADS 4096
#define MAX_VOCAB (1 << 24)
#define MAX_HEAD_DIM 256

struct family {
	const char *type, *architecture;
	int max_positions, kv_heads, head_dim; /* kv_heads 0: as many as heads; head_dim 0: hidden / heads */
	int window, bos, eos;                  /* window 0, bos and eos -1: none */
	bool qkv_bias, qk_norm;                /* always */
	bool attention_bias_key, mlp_bias_key; /* the class reads attention_bias (QKV and O), mlp_bias */
	bool window_switch;                    /* the class reads use_sliding_window, max_window_layers, layer_types */
};

/* The defaults of LlamaConfig, MistralConfig, Qwen2Config and Qwen3Config. */
static const struct family families[] = {
	{.type = "llama",
		.architecture = "LlamaForCausalLM",
		.max_positions = 2048,
		.bos = 1,
		.eos = 2,
		.attention_bias_key = true,
		.mlp_bias_key = true},
	{.type = "mistral",
		.architecture = "MistralForCausalLM",
		.max_positions = 131072,
		.kv_heads = 8,
		.window = 4096,
		.bos = 1,
		.eos = 2},
	{.type = "qwen2",
		.architecture = "Qwen2ForCausalLM",
		.max_positions = 32768,
		.kv_heads = 32,
		.window = 4096,
		.bos = -1,
		.eos = -1,
		.qkv_bias = true,
		.window_switch = true},
	{.type = "qwen3",
		.architecture = "Qwen3ForCausalLM",
		.max_positions = 32768,
		.kv_heads = 32,
		.head_dim = 128,
		.window = 4096,
		.bos = -1,
		.eos = -1,
		.qk_norm = true,
		.attention_bias_key = true,
		.window_switch = true},
};

static int read_family(const struct model_json *from, const struct family **out)
{
	const char *type = NULL;
	int err = model_json_string(from, "model_type", &type);

	if (err)
		return err;
	if (!type)
		return kvs_fail(-EINVAL, "%s: model_type is missing", from->file);
	for (size_t i = 0; i < sizeof(families) / sizeof(families[0]); i++) {
		if (!strcmp(type, families[i].type)) {
			*out = &families[i];
			return 0;
		}
	}
	return kvs_fail(-EINVAL, "%s: model_type is \"%.64s\", supported are llama, mistral, qwen2 and qwen3",
		from->file, type);
}

/*
 * A classifier of a known family has no language-model head, or other names for its weights. A base model
 * ("LlamaModel") can be run if its head is the embedding.
 */
static int check_architecture(const struct model_json *from, const struct family *family)
{
	const json_t *list = model_json_member(from, "architectures");
	const json_t *first = json_array_get(list, 0);
	const char *name = json_string_value(first);
	size_t base = strlen(family->architecture) - strlen("ForCausalLM");

	if (!list || (json_is_array(list) && !json_array_size(list)))
		return 0;
	if (!name)
		return kvs_fail(-EINVAL, "%s: architectures is not a list of names", from->file);
	if (!strcmp(name, family->architecture) ||
		(!strncmp(name, family->architecture, base) && !strcmp(name + base, "Model")))
		return 0;
	return kvs_fail(-EINVAL, "%s: architectures[0] is \"%.64s\": for model_type %s only %s is supported",
		from->file, name, family->type, family->architecture);
}

static int check_quantization(const struct model_json *from)
{
	const json_t *found = model_json_member(from, "quantization_config");
	const json_t *method = json_object_get(found, "quant_method");

	if (!found)
		return 0;
	return kvs_fail(-EINVAL, "%s: quantization_config (quant_method %.64s): quantized weights are not supported",
		from->file, json_is_string(method) ? json_string_value(method) : "unknown");
}

static int check_activation(const struct model_json *from)
{
	const char *name = "silu";
	int err = model_json_string(from, "hidden_act", &name);

	if (err || !strcmp(name, "silu"))
		return err;
	return kvs_fail(-EINVAL, "%s: hidden_act is \"%.64s\", only silu is supported", from->file, name);
}

static int check_head_dim(const struct model_json *from, int head_dim)
{
	static const int supported[] = {32, 64, 80, 96, 128, 256}; /* what the attention kernels are built for */

	for (size_t i = 0; i < sizeof(supported) / sizeof(supported[0]); i++) {
		if (head_dim == supported[i])
			return 0;
	}
	return kvs_fail(-EINVAL, "%s: head_dim is %d, supported are 32, 64, 80, 96, 128 and 256", from->file, head_dim);
}

static int read_heads(const struct model_json *from, const struct family *family, struct kvs_config *config)
{
	int err = model_json_need_int(from, "num_attention_heads", 1, MAX_HEADS, &config->heads);

	if (err)
		return err;
	/* null means "as many as heads" to every class; only an absent field takes the class's default. */
	config->kv_heads = family->kv_heads && !json_object_get(from->object, "num_key_value_heads") ? family->kv_heads
												     : config->heads;
	err = model_json_int(from, "num_key_value_heads", 1, MAX_HEADS, &config->kv_heads);
	if (err)
		return err;
	if (config->heads % config->kv_heads)
		return kvs_fail(-EINVAL,
			"%s: num_attention_heads is %d, not a multiple of num_key_value_heads, which is %d", from->file,
			config->heads, config->kv_heads);
	config->head_dim = family->head_dim;
	err = model_json_int(from, "head_dim", 1, MAX_HEAD_DIM, &config->head_dim);
	if (err)
		return err;
	if (!config->head_dim && config->hidden % config->heads)
		return kvs_fail(-EINVAL, "%s: hidden_size is %d, not a multiple of num_attention_heads, which is %d",
			from->file, config->hidden, config->heads);
	if (!config->head_dim)
		config->head_dim = config->hidden / config->heads;
	return check_head_dim(from, config->head_dim);
}

static int read_sizes(const struct model_json *from, const struct family *family, struct kvs_config *config)
{
	double eps = 1e-6;
	int err = model_json_need_int(from, "num_hidden_layers", 1, KVS_MAX_LAYERS, &config->layers);

	config->max_positions = family->max_positions;
	if (!err)
		err = model_json_need_int(from, "hidden_size", 1, MAX_HIDDEN, &config->hidden);
	if (!err)
		err = model_json_need_int(from, "intermediate_size", 1, MAX_FF, &config->ff);
	if (!err)
		err = model_json_need_int(from, "vocab_size", 1, MAX_VOCAB, &config->vocab);
	if (!err)
		err = model_json_int(from, "max_position_embeddings", 1, CKPT_MAX_POSITIONS, &config->max_positions);
	if (!err)
		err = model_json_number(from, "rms_norm_eps", 1e-20, 1, &eps);
	config->rms_eps = (float)eps;
	return err ? err : read_heads(from, family, config);
}

static int read_biases(const struct model_json *from, const struct family *family, struct kvs_config *config)
{
	bool attention_bias = false;
	int err = model_json_bool(from, "tie_word_embeddings", &config->tied_embeddings);

	if (!err && family->attention_bias_key)
		err = model_json_bool(from, "attention_bias", &attention_bias);
	if (!err && family->mlp_bias_key)
		err = model_json_bool(from, "mlp_bias", &config->mlp_bias);
	config->qk_norm = family->qk_norm;
	config->qkv_bias = family->qkv_bias || attention_bias;
	config->o_bias = attention_bias;
	return err;
}

/*
 * transformers 5 writes "dtype", older versions "torch_dtype"; without either, it is PyTorch's default. With "auto" the
 * weights decide, as they do anyway if there are any.
 */
static int read_dtype(const struct model_json *from, struct kvs_config *config)
{
	const char *key = model_json_member(from, "dtype") ? "dtype" : "torch_dtype", *name = "float32";
	int err = model_json_string(from, key, &name);

	if (!err && !strcmp(name, "auto"))
		name = "float32";
	if (err)
		return err;
	if (kvs_dtype_parse(name, &config->dtype) || config->dtype == KVS_I32)
		return kvs_fail(-EINVAL, "%s: %s is \"%.64s\", supported are float32, float16 and bfloat16", from->file,
			key, name);
	return 0;
}

/* ---- sliding windows ---- */

static int read_window_size(const struct model_json *from, const struct family *family, int *out)
{
	bool used = !family->window_switch;
	int err = family->window_switch ? model_json_bool(from, "use_sliding_window", &used) : 0;

	*out = 0;
	if (err || !family->window || !used)
		return err;
	/* null means "no window"; only an absent field takes the class's default. */
	if (!json_object_get(from->object, "sliding_window"))
		*out = family->window;
	return model_json_int(from, "sliding_window", 1, CKPT_MAX_POSITIONS, out);
}

static bool all_full(const json_t *types)
{
	size_t full = 0;

	for (size_t i = 0; i < json_array_size(types); i++) {
		const char *type = json_string_value(json_array_get(types, i));
		full += type && !strcmp(type, "full_attention");
	}
	return json_is_array(types) && full == json_array_size(types);
}

/*
 * A list of the layers' types takes precedence over max_window_layers. If the class does not read it (Mistral's,
 * Llama's), it must agree with the class, or be full_attention throughout, which many tools write and transformers
 * ignores.
 */
static int apply_layer_types(
	const struct model_json *from, const struct family *family, int window, struct kvs_config *config)
{
	const json_t *types = model_json_member(from, "layer_types");

	if (!types || (!family->window_switch && all_full(types)))
		return 0;
	if (json_array_size(types) != (size_t)config->layers)
		return kvs_fail(-EINVAL, "%s: layer_types has %zu entries, num_hidden_layers is %d", from->file,
			json_array_size(types), config->layers);
	for (int l = 0; l < config->layers; l++) {
		const char *type = json_string_value(json_array_get(types, l));
		bool slides = type && !strcmp(type, "sliding_attention");
		if (!type || (!slides && strcmp(type, "full_attention")))
			return kvs_fail(-EINVAL,
				"%s: layer_types[%d] is %.64s, supported are full_attention and "
				"sliding_attention",
				from->file, l, type ? type : "not a name");
		if (slides && !window)
			return kvs_fail(-EINVAL,
				"%s: layer_types[%d] is sliding_attention, but no sliding_window is set", from->file,
				l);
		if (!family->window_switch && slides != (config->window[l] > 0))
			return kvs_fail(-EINVAL, "%s: layer_types[%d] is %s, which %s does not have", from->file, l,
				type, family->architecture);
		config->window[l] = slides ? window : 0;
	}
	return 0;
}

static int read_windows(const struct model_json *from, const struct family *family, struct kvs_config *config)
{
	int window, first = family->window_switch ? 28 : 0; /* max_window_layers: 28 in Qwen's classes */
	int err = read_window_size(from, family, &window);

	if (!err && family->window_switch)
		err = model_json_int(from, "max_window_layers", 0, CKPT_MAX_POSITIONS, &first);
	if (err)
		return err;
	config->window = calloc(config->layers, sizeof(*config->window));
	if (!config->window)
		return kvs_fail(-ENOMEM, "%s: no memory for %d layers", from->file, config->layers);
	for (int l = first; l < config->layers; l++)
		config->window[l] = window;
	return apply_layer_types(from, family, window, config);
}

/* ---- special tokens ---- */

/* An id outside the vocabulary never occurs, so it does no harm; some write -1 for "none". False: it is left out. */
static bool can_come_up(const struct model_json *from, const char *key, json_int_t id, struct kvs_config *config)
{
	if (id >= 0 && id < config->vocab)
		return true;
	if (id != -1)
		snprintf(config->ignored, sizeof(config->ignored),
			"%.40s: %s %lld is outside the vocabulary of %d tokens, and never comes up", from->file, key,
			(long long)id, config->vocab);
	return false;
}

static int append_eos(const struct model_json *from, const json_t *value, struct kvs_config *config)
{
	int most = (int)(sizeof(config->eos) / sizeof(config->eos[0]));

	if (!json_is_integer(value))
		return kvs_fail(-EINVAL, "%s: eos_token_id holds a value that is not a token id", from->file);
	if (!can_come_up(from, "eos_token_id", json_integer_value(value), config))
		return 0;
	if (config->eos_count == most)
		return kvs_fail(-EINVAL, "%s: eos_token_id has more than %d entries", from->file, most);
	config->eos[config->eos_count++] = (int)json_integer_value(value);
	return 0;
}

static int read_bos(const struct model_json *from, struct kvs_config *config)
{
	int bos = config->bos, err = model_json_int(from, "bos_token_id", INT_MIN, INT_MAX, &bos);

	if (!err && model_json_member(from, "bos_token_id"))
		config->bos = can_come_up(from, "bos_token_id", bos, config) ? bos : -1;
	return err;
}

static int read_special(const struct model_json *from, struct kvs_config *config)
{
	const json_t *eos = model_json_member(from, "eos_token_id");
	int err = read_bos(from, config);

	if (err || !eos)
		return err;
	config->eos_count = 0;
	if (!json_is_array(eos))
		return append_eos(from, eos, config);
	for (size_t i = 0; i < json_array_size(eos) && !err; i++)
		err = append_eos(from, json_array_get(eos, i), config);
	return err;
}

/* An absent id takes the class's default; null means that there is none. */
static void default_special(const struct model_json *from, const struct family *family, struct kvs_config *config)
{
	config->bos = -1;
	if (family->bos < config->vocab && !json_object_get(from->object, "bos_token_id"))
		config->bos = family->bos;
	if (family->eos >= 0 && family->eos < config->vocab && !json_object_get(from->object, "eos_token_id"))
		config->eos[config->eos_count++] = family->eos;
}

/* ---- the whole file ---- */

static int read_config(const struct model_json *from, struct kvs_config *config)
{
	const struct family *family = NULL;
	int err = read_family(from, &family);

	if (err)
		return err;
	strcpy(config->model_type, family->type);
	err = check_architecture(from, family);
	if (!err)
		err = check_quantization(from);
	if (!err)
		err = check_activation(from);
	if (!err)
		err = read_sizes(from, family, config);
	if (!err)
		err = read_biases(from, family, config);
	if (!err)
		err = read_dtype(from, config);
	if (!err)
		err = ckpt_read_rope(from, config);
	if (!err)
		err = read_windows(from, family, config);
	if (err)
		return err;
	default_special(from, family, config);
	return read_special(from, config);
}

int ckpt_read_config(const json_t *object, const char *name, struct kvs_config *out)
{
	int err;

	*out = (struct kvs_config){0};
	err = read_config(&(struct model_json){object, name, ""}, out);
	if (err)
		kvs_config_clear(out);
	return err;
}

int kvs_config_parse(const char *json, size_t bytes, const char *name, struct kvs_config *out)
{
	json_t *root;
	int err = model_json_parse_lenient(json, bytes, name, &root);

	*out = (struct kvs_config){0};
	if (err)
		return err;
	err = ckpt_read_config(root, name, out);
	json_decref(root);
	return err;
}

int ckpt_apply_generation(const char *json, size_t bytes, const char *name, struct kvs_config *config)
{
	json_t *root;
	int err = model_json_parse_lenient(json, bytes, name, &root);

	if (err)
		return err;
	err = read_special(&(struct model_json){root, name, ""}, config);
	json_decref(root);
	return err;
}

void kvs_config_clear(struct kvs_config *config)
{
	free(config->window);
	*config = (struct kvs_config){0};
}
