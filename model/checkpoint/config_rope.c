/*
 * model/checkpoint/config_rope.c: the RoPE settings of config.json, in all spellings that they have had.
 *
 * The rules of precedence and the defaults are those of RotaryEmbeddingConfigMixin in transformers 5.23
 * (modeling_rope_utils.py), which reads old files too.
 */
#include "checkpoint.h"

#include <errno.h>
#include <string.h>

#define MIN_SCALE 1e-6 /* of the factors, so that none divides by zero */
#define MAX_SCALE 1e6

static int read_rope_type(const struct model_json *from, enum kvs_rope_type *out)
{
	static const char *const names[] = {[KVS_ROPE_DEFAULT] = "default",
		[KVS_ROPE_LINEAR] = "linear",
		[KVS_ROPE_DYNAMIC] = "dynamic",
		[KVS_ROPE_YARN] = "yarn",
		[KVS_ROPE_LLAMA3] = "llama3"};
	const char *key = model_json_member(from, "rope_type") ? "rope_type" : "type", *name = "default";
	int err = model_json_string(from, key, &name);

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

static int need_number(const struct model_json *from, const char *key, double min, double max, double *out)
{
	if (!model_json_member(from, key))
		return kvs_fail(-EINVAL, "%s: %s%s is missing", from->file, from->path, key);
	return model_json_number(from, key, min, max, out);
}

static int read_llama3(const struct model_json *from, struct kvs_config *config)
{
	int err = need_number(from, "low_freq_factor", MIN_SCALE, MAX_SCALE, &config->rope.low_freq_factor);

	if (!err)
		err = need_number(from, "high_freq_factor", MIN_SCALE, MAX_SCALE, &config->rope.high_freq_factor);
	if (!err && config->rope.high_freq_factor <= config->rope.low_freq_factor)
		err = kvs_fail(-EINVAL, "%s: %shigh_freq_factor is %g, not above low_freq_factor, which is %g",
			from->file, from->path, config->rope.high_freq_factor, config->rope.low_freq_factor);
	return err;
}

static int read_yarn(const struct model_json *from, struct kvs_config *config)
{
	int err = model_json_number(from, "beta_fast", MIN_SCALE, MAX_SCALE, &config->rope.beta_fast);

	if (!err)
		err = model_json_number(from, "beta_slow", MIN_SCALE, MAX_SCALE, &config->rope.beta_slow);
	if (!err && config->rope.beta_fast < config->rope.beta_slow)
		err = kvs_fail(-EINVAL, "%s: %sbeta_fast is %g, below beta_slow, which is %g", from->file, from->path,
			config->rope.beta_fast, config->rope.beta_slow);
	if (!err)
		err = model_json_number(from, "attention_factor", MIN_SCALE, MAX_SCALE, &config->rope.attention_factor);
	if (!err)
		err = model_json_number(from, "mscale", 0, MAX_SCALE, &config->rope.mscale);
	if (!err)
		err = model_json_number(from, "mscale_all_dim", 0, MAX_SCALE, &config->rope.mscale_all_dim);
	if (!err)
		err = model_json_bool(from, "truncate", &config->rope.truncate);
	return err;
}

/* The fields that may be inside RoPE's own object or beside it. */
static int read_rope_base(const struct model_json *from, struct kvs_config *config)
{
	double rotary = 1;
	int err = model_json_number(from, "rope_theta", 2, 1e15, &config->rope.theta);

	if (!err)
		err = model_json_number(from, "partial_rotary_factor", 0, 1, &rotary);
	if (!err && rotary != 1)
		err = kvs_fail(-EINVAL, "%s: %spartial_rotary_factor is %g, only 1 is supported", from->file,
			from->path, rotary);
	return err;
}

/* Only yarn and llama3 have a length of their own; one in the outer object takes precedence over one in the inner. */
static int read_original_positions(
	const struct model_json *outer, const struct model_json *from, struct kvs_config *config)
{
	static const char key[] = "original_max_position_embeddings";
	int *positions = &config->rope.original_positions;

	if (config->rope.type != KVS_ROPE_YARN && config->rope.type != KVS_ROPE_LLAMA3)
		return 0;
	return model_json_int(model_json_member(outer, key) ? outer : from, key, 1, CKPT_MAX_POSITIONS, positions);
}

static int read_rope_scaling(const struct model_json *outer, const struct model_json *from, struct kvs_config *config)
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
		      ? model_json_number(from, "factor", MIN_SCALE, MAX_SCALE, &config->rope.factor)
		      : need_number(from, "factor", MIN_SCALE, MAX_SCALE, &config->rope.factor);
	if (!err && config->rope.type == KVS_ROPE_LLAMA3)
		err = read_llama3(from, config);
	if (!err && config->rope.type == KVS_ROPE_YARN)
		err = read_yarn(from, config);
	return err;
}

/* Gemma has a dictionary for each type of layer; the engine has only one table of angles. */
static int check_rope_flat(const struct model_json *from)
{
	const char *key;
	json_t *value;

	json_object_foreach((json_t *)from->object, key, value)
	{
		if (json_is_object(value))
			return kvs_fail(-EINVAL, "%s: %s%.64s: separate RoPE for each type of layer is not supported",
				from->file, from->path, key);
	}
	return 0;
}

/*
 * transformers 5 has "rope_parameters", with rope_theta inside; before, it was "rope_scaling", with rope_theta beside
 * it. As in RotaryEmbeddingConfigMixin, a rope_scaling that is not empty takes precedence, and so does a theta inside.
 */
int ckpt_read_rope(const struct model_json *from, struct kvs_config *config)
{
	const char *key =
		json_object_size(model_json_member(from, "rope_scaling")) ? "rope_scaling" : "rope_parameters";
	const json_t *old = model_json_member(from, "rope_scaling"), *object = model_json_member(from, key);
	struct model_json scaling = {
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
