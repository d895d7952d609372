/*
 * model/config.c: config.json and generation_config.json to struct kvs_config.
 *
 * A table says what each architecture's configuration class in Hugging Face transformers (5.23) assumes where a field is
 * absent. What the engine cannot run as the model was trained is refused here, by name, rather than run wrongly.
 */
#include "checkpoint.h"
#include "json.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

/* Larger than any model known, small enough that products of two of them fit the engine's ints. */
#define MAX_HIDDEN (1 << 18)
#define MAX_FF (1 << 20)
#define MAX_HEADS 4096
#define MAX_VOCAB (1 << 24)
#define MAX_POSITIONS (1 << 28)
#define MAX_HEAD_DIM 256
#define MIN_SCALE 1e-6 /* of the factors of RoPE: none divides by zero */
#define MAX_SCALE 1e6

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

static int read_family(const struct kvs_json *from, const struct family **out)
{
	const char *type = NULL;
	int err = kvs_json_string(from, "model_type", &type);

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

/* A classifier or a bare encoder of a known family has no language-model head, or other names for its weights. */
static int check_architecture(const struct kvs_json *from, const struct family *family)
{
	const json_t *list = kvs_json_member(from, "architectures");
	const json_t *first = json_array_get(list, 0);

	if (!list)
		return 0;
	if (!json_is_string(first))
		return kvs_fail(-EINVAL, "%s: architectures is not a list of names", from->file);
	if (!strcmp(json_string_value(first), family->architecture))
		return 0;
	return kvs_fail(-EINVAL, "%s: architectures[0] is \"%.64s\", of model_type %s only %s is supported", from->file,
		json_string_value(first), family->type, family->architecture);
}

static int check_quantization(const struct kvs_json *from)
{
	const json_t *found = kvs_json_member(from, "quantization_config");
	const json_t *method = json_object_get(found, "quant_method");

	if (!found)
		return 0;
	return kvs_fail(-EINVAL, "%s: quantization_config (quant_method %.64s): quantized weights are not supported",
		from->file, json_is_string(method) ? json_string_value(method) : "unknown");
}

static int check_activation(const struct kvs_json *from)
{
	const char *name = "silu";
	int err = kvs_json_string(from, "hidden_act", &name);

	if (err || !strcmp(name, "silu"))
		return err;
	return kvs_fail(-EINVAL, "%s: hidden_act is \"%.64s\", only silu is supported", from->file, name);
}

static int check_head_dim(const struct kvs_json *from, int head_dim)
{
	static const int supported[] = {32, 64, 80, 96, 128, 256}; /* what the attention kernels are built for */

	for (size_t i = 0; i < sizeof(supported) / sizeof(supported[0]); i++) {
		if (head_dim == supported[i])
			return 0;
	}
	return kvs_fail(-EINVAL, "%s: head_dim is %d, supported are 32, 64, 80, 96, 128 and 256", from->file, head_dim);
}

static int read_heads(const struct kvs_json *from, const struct family *family, struct kvs_config *config)
{
	int err = kvs_json_need_int(from, "num_attention_heads", 1, MAX_HEADS, &config->heads);

	if (err)
		return err;
	/* null says "as many as heads" to every class; only an absent one takes the class's default. */
	config->kv_heads = family->kv_heads && !json_object_get(from->object, "num_key_value_heads") ? family->kv_heads
												     : config->heads;
	err = kvs_json_int(from, "num_key_value_heads", 1, MAX_HEADS, &config->kv_heads);
	if (err)
		return err;
	if (config->heads % config->kv_heads)
		return kvs_fail(-EINVAL,
			"%s: num_attention_heads is %d, not a multiple of num_key_value_heads, which is %d", from->file,
			config->heads, config->kv_heads);
	config->head_dim = family->head_dim;
	err = kvs_json_int(from, "head_dim", 1, MAX_HEAD_DIM, &config->head_dim);
	if (err)
		return err;
	if (!config->head_dim && config->hidden % config->heads)
		return kvs_fail(-EINVAL, "%s: hidden_size is %d, not a multiple of num_attention_heads, which is %d",
			from->file, config->hidden, config->heads);
	if (!config->head_dim)
		config->head_dim = config->hidden / config->heads;
	return check_head_dim(from, config->head_dim);
}

static int read_sizes(const struct kvs_json *from, const struct family *family, struct kvs_config *config)
{
	double eps = 1e-6;
	int err = kvs_json_need_int(from, "num_hidden_layers", 1, KVS_MAX_LAYERS, &config->layers);

	config->max_positions = family->max_positions;
	if (!err)
		err = kvs_json_need_int(from, "hidden_size", 1, MAX_HIDDEN, &config->hidden);
	if (!err)
		err = kvs_json_need_int(from, "intermediate_size", 1, MAX_FF, &config->ff);
	if (!err)
		err = kvs_json_need_int(from, "vocab_size", 1, MAX_VOCAB, &config->vocab);
	if (!err)
		err = kvs_json_int(from, "max_position_embeddings", 1, MAX_POSITIONS, &config->max_positions);
	if (!err)
		err = kvs_json_number(from, "rms_norm_eps", 1e-20, 1, &eps);
	config->rms_eps = (float)eps;
	return err ? err : read_heads(from, family, config);
}

static int read_biases(const struct kvs_json *from, const struct family *family, struct kvs_config *config)
{
	bool attention_bias = false;
	int err = kvs_json_bool(from, "tie_word_embeddings", &config->tied_embeddings);

	if (!err && family->attention_bias_key)
		err = kvs_json_bool(from, "attention_bias", &attention_bias);
	if (!err && family->mlp_bias_key)
		err = kvs_json_bool(from, "mlp_bias", &config->mlp_bias);
	config->qk_norm = family->qk_norm;
	config->qkv_bias = family->qkv_bias || attention_bias;
	config->o_bias = attention_bias;
	return err;
}

/* transformers 5 writes "dtype", older versions "torch_dtype"; where neither is, PyTorch's default. */
static int read_dtype(const struct kvs_json *from, struct kvs_config *config)
{
	const char *key = kvs_json_member(from, "dtype") ? "dtype" : "torch_dtype", *name = "float32";
	int err = kvs_json_string(from, key, &name);

	if (err)
		return err;
	if (kvs_dtype_parse(name, &config->dtype) || config->dtype == KVS_I32)
		return kvs_fail(-EINVAL, "%s: %s is \"%.64s\", supported are float32, float16 and bfloat16", from->file,
			key, name);
	return 0;
}

/* ---- RoPE ---- */

static int read_rope_type(const struct kvs_json *from, enum kvs_rope_type *out)
{
	static const char *const names[] = {[KVS_ROPE_DEFAULT] = "default",
		[KVS_ROPE_LINEAR] = "linear",
		[KVS_ROPE_DYNAMIC] = "dynamic",
		[KVS_ROPE_YARN] = "yarn",
		[KVS_ROPE_LLAMA3] = "llama3"};
	const char *key = kvs_json_member(from, "rope_type") ? "rope_type" : "type", *name = "default";
	int err = kvs_json_string(from, key, &name);

	if (err)
		return err;
	for (size_t i = 0; i < sizeof(names) / sizeof(names[0]); i++) {
		if (!strcmp(name, names[i])) {
			*out = (enum kvs_rope_type)i;
			return 0;
		}
	}
	return kvs_fail(-EINVAL, "%s: %s%s is \"%.64s\", supported are default, linear, dynamic, yarn and llama3",
		from->file, from->path, key, name);
}

static int need_number(const struct kvs_json *from, const char *key, double min, double max, double *out)
{
	if (!kvs_json_member(from, key))
		return kvs_fail(-EINVAL, "%s: %s%s is missing", from->file, from->path, key);
	return kvs_json_number(from, key, min, max, out);
}

static int read_llama3(const struct kvs_json *from, struct kvs_config *config)
{
	int err = need_number(from, "low_freq_factor", MIN_SCALE, MAX_SCALE, &config->rope.low_freq_factor);

	if (!err)
		err = need_number(from, "high_freq_factor", MIN_SCALE, MAX_SCALE, &config->rope.high_freq_factor);
	if (!err && config->rope.high_freq_factor <= config->rope.low_freq_factor)
		err = kvs_fail(-EINVAL, "%s: %shigh_freq_factor is %g, not above low_freq_factor, which is %g",
			from->file, from->path, config->rope.high_freq_factor, config->rope.low_freq_factor);
	return err;
}

static int read_yarn(const struct kvs_json *from, struct kvs_config *config)
{
	int err = kvs_json_number(from, "beta_fast", MIN_SCALE, MAX_SCALE, &config->rope.beta_fast);

	if (!err)
		err = kvs_json_number(from, "beta_slow", MIN_SCALE, MAX_SCALE, &config->rope.beta_slow);
	if (!err && config->rope.beta_fast < config->rope.beta_slow)
		err = kvs_fail(-EINVAL, "%s: %sbeta_fast is %g, below beta_slow, which is %g", from->file, from->path,
			config->rope.beta_fast, config->rope.beta_slow);
	if (!err)
		err = kvs_json_number(from, "attention_factor", MIN_SCALE, MAX_SCALE, &config->rope.attention_factor);
	if (!err)
		err = kvs_json_number(from, "mscale", 0, MAX_SCALE, &config->rope.mscale);
	if (!err)
		err = kvs_json_number(from, "mscale_all_dim", 0, MAX_SCALE, &config->rope.mscale_all_dim);
	if (!err)
		err = kvs_json_bool(from, "truncate", &config->rope.truncate);
	return err;
}

/* What RoPE may say inside its own object and beside it. */
static int read_rope_base(const struct kvs_json *from, struct kvs_config *config)
{
	double rotary = 1;
	int err = kvs_json_number(from, "rope_theta", 2, 1e15, &config->rope.theta);

	if (!err)
		err = kvs_json_number(from, "partial_rotary_factor", 0, 1, &rotary);
	if (!err && rotary != 1)
		err = kvs_fail(-EINVAL, "%s: %spartial_rotary_factor is %g, only 1 is supported", from->file,
			from->path, rotary);
	return err;
}

/* Only yarn and llama3 have a length of their own; for them one in the outer object goes before one in the inner. */
static int read_original_positions(const struct kvs_json *outer, const struct kvs_json *from, struct kvs_config *config)
{
	static const char key[] = "original_max_position_embeddings";
	int *positions = &config->rope.original_positions;

	if (config->rope.type != KVS_ROPE_YARN && config->rope.type != KVS_ROPE_LLAMA3)
		return 0;
	return kvs_json_int(kvs_json_member(outer, key) ? outer : from, key, 1, MAX_POSITIONS, positions);
}

static int read_rope_scaling(const struct kvs_json *outer, const struct kvs_json *from, struct kvs_config *config)
{
	int err = read_rope_type(from, &config->rope.type);

	if (!err)
		err = read_rope_base(from, config);
	if (!err)
		err = read_original_positions(outer, from, config);
	if (err || config->rope.type == KVS_ROPE_DEFAULT)
		return err;
	config->rope.factor = (double)config->max_positions / config->rope.original_positions;
	err = config->rope.type == KVS_ROPE_YARN
		      ? kvs_json_number(from, "factor", MIN_SCALE, MAX_SCALE, &config->rope.factor)
		      : need_number(from, "factor", MIN_SCALE, MAX_SCALE, &config->rope.factor);
	if (!err && config->rope.type == KVS_ROPE_LLAMA3)
		err = read_llama3(from, config);
	if (!err && config->rope.type == KVS_ROPE_YARN)
		err = read_yarn(from, config);
	return err;
}

/* One dictionary for each kind of layer, as Gemma has it: the engine keeps one table of angles. */
static int check_rope_flat(const struct kvs_json *from)
{
	const char *key;
	json_t *value;

	json_object_foreach((json_t *)from->object, key, value)
	{
		if (json_is_object(value))
			return kvs_fail(-EINVAL, "%s: %s%.64s: RoPE of each kind of layer apart is not supported",
				from->file, from->path, key);
	}
	return 0;
}

/*
 * transformers 5 has "rope_parameters", with rope_theta inside; before it was "rope_scaling", with rope_theta beside. As in
 * RotaryEmbeddingConfigMixin: an old one that is not empty goes first, and a theta inside goes before one beside.
 */
static int read_rope(const struct kvs_json *from, struct kvs_config *config)
{
	const char *key = json_object_size(kvs_json_member(from, "rope_scaling")) ? "rope_scaling" : "rope_parameters";
	const json_t *old = kvs_json_member(from, "rope_scaling"), *object = kvs_json_member(from, key);
	struct kvs_json scaling = {
		object, from->file, strcmp(key, "rope_scaling") ? "rope_parameters." : "rope_scaling."};
	int err;

	config->rope.theta = 10000;
	config->rope.factor = 1;
	config->rope.beta_fast = 32;
	config->rope.beta_slow = 1;
	config->rope.truncate = true;
	config->rope.original_positions = config->max_positions;
	if (old && !json_is_object(old))
		return kvs_fail(-EINVAL, "%s: rope_scaling is not an object", from->file);
	if (object && !json_is_object(object))
		return kvs_fail(-EINVAL, "%s: rope_parameters is not an object", from->file);
	err = read_rope_base(from, config);
	if (!err && object)
		err = check_rope_flat(&scaling);
	if (!err && object)
		err = read_rope_scaling(from, &scaling, config);
	return err;
}

/* ---- sliding windows ---- */

static int read_window_size(const struct kvs_json *from, const struct family *family, int *out)
{
	bool used = !family->window_switch;
	int err = family->window_switch ? kvs_json_bool(from, "use_sliding_window", &used) : 0;

	*out = 0;
	if (err || !family->window || !used)
		return err;
	/* null says "no window"; only an absent one takes the class's default. */
	if (!json_object_get(from->object, "sliding_window"))
		*out = family->window;
	return kvs_json_int(from, "sliding_window", 1, MAX_POSITIONS, out);
}

/* A list of the layers' kinds goes before max_window_layers; where the class does not read it, it must agree. */
static int apply_layer_types(
	const struct kvs_json *from, const struct family *family, int window, struct kvs_config *config)
{
	const json_t *types = kvs_json_member(from, "layer_types");

	if (!types)
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

static int read_windows(const struct kvs_json *from, const struct family *family, struct kvs_config *config)
{
	int window, first = family->window_switch ? 28 : 0; /* max_window_layers: 28 in Qwen's classes */
	int err = read_window_size(from, family, &window);

	if (!err && family->window_switch)
		err = kvs_json_int(from, "max_window_layers", 0, MAX_POSITIONS, &first);
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

static int append_eos(const struct kvs_json *from, const json_t *value, struct kvs_config *config)
{
	int most = (int)(sizeof(config->eos) / sizeof(config->eos[0]));

	if (!json_is_integer(value) || json_integer_value(value) < 0 || json_integer_value(value) >= config->vocab)
		return kvs_fail(
			-EINVAL, "%s: eos_token_id holds what is no token id (0 to %d)", from->file, config->vocab - 1);
	if (config->eos_count == most)
		return kvs_fail(-EINVAL, "%s: eos_token_id has more than %d entries", from->file, most);
	config->eos[config->eos_count++] = (int)json_integer_value(value);
	return 0;
}

static int read_special(const struct kvs_json *from, struct kvs_config *config)
{
	const json_t *eos = kvs_json_member(from, "eos_token_id");
	int err = kvs_json_int(from, "bos_token_id", 0, config->vocab - 1, &config->bos);

	if (err || !eos)
		return err;
	config->eos_count = 0;
	if (!json_is_array(eos))
		return append_eos(from, eos, config);
	for (size_t i = 0; i < json_array_size(eos) && !err; i++)
		err = append_eos(from, json_array_get(eos, i), config);
	return err;
}

/* An absent id takes the class's default, null says that there is none. */
static void default_special(const struct kvs_json *from, const struct family *family, struct kvs_config *config)
{
	config->bos = -1;
	if (family->bos < config->vocab && !json_object_get(from->object, "bos_token_id"))
		config->bos = family->bos;
	if (family->eos >= 0 && family->eos < config->vocab && !json_object_get(from->object, "eos_token_id"))
		config->eos[config->eos_count++] = family->eos;
}

/* ---- the whole ---- */

static int read_config(const struct kvs_json *from, struct kvs_config *config)
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
		err = read_rope(from, config);
	if (!err)
		err = read_windows(from, family, config);
	if (err)
		return err;
	default_special(from, family, config);
	return read_special(from, config);
}

int kvs_config_parse(const char *json, size_t bytes, const char *name, struct kvs_config *out)
{
	json_t *root;
	int err = kvs_json_parse(json, bytes, name, &root);

	*out = (struct kvs_config){0};
	if (err)
		return err;
	err = read_config(&(struct kvs_json){root, name, ""}, out);
	json_decref(root);
	if (err)
		kvs_config_clear(out);
	return err;
}

int kvs_config_apply_generation(const char *json, size_t bytes, const char *name, struct kvs_config *config)
{
	json_t *root;
	int err = kvs_json_parse(json, bytes, name, &root);

	if (err)
		return err;
	err = read_special(&(struct kvs_json){root, name, ""}, config);
	json_decref(root);
	return err;
}

void kvs_config_clear(struct kvs_config *config)
{
	free(config->window);
	*config = (struct kvs_config){0};
}
