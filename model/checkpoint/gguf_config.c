/*
 * model/checkpoint/gguf_config.c: the keys of a GGUF file as a config.json, which config.c checks as any other.
 *
 * llama.cpp has one architecture "llama" for Llama and Mistral. Keys that we do not know are refused where they could
 * change what the model computes: those of attention, of positions and of experts.
 */
#include "checkpoint.h"

#include "../gguf.h"

#include <errno.h>
#include <limits.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* A key after its architecture ("llama."), and its name in config.json. */
struct translation {
	const char *key, *member;
	bool needed, fraction;
};
static const struct translation translations[] = {
	{"block_count", "num_hidden_layers", .needed = true},
	{"context_length", "max_position_embeddings", .needed = true},
	{"embedding_length", "hidden_size", .needed = true},
	{"feed_forward_length", "intermediate_size", .needed = true},
	{"attention.head_count", "num_attention_heads", .needed = true},
	{"attention.head_count_kv", "num_key_value_heads", .needed = false},
	{"attention.key_length", "head_dim", .needed = false},
	{"attention.layer_norm_rms_epsilon", "rms_norm_eps", .needed = true, .fraction = true},
	{"rope.freq_base", "rope_theta", .fraction = true},
};

#define TOKENS "tokenizer.ggml.tokens"

struct source {
	const struct model_gguf *gguf; /* the first part, whose keys count */
	const struct ckpt_gguf_part *parts;
	size_t part_count;
	char architecture[16];
	json_t *config;
};

static int set(const struct source *from, json_t *object, const char *member, json_t *value)
{
	return json_object_set_new(object, member, value)
		       ? kvs_fail(-ENOMEM, "%s: no memory for its configuration", model_gguf_name(from->gguf))
		       : 0;
}

static void name_key(const struct source *from, const char *key, char full[80])
{
	snprintf(full, 80, "%s.%s", from->architecture, key);
}

static int translate(const struct source *from, const struct translation *rule)
{
	char key[80];
	int64_t whole = 0;
	double fraction = 0;
	int err;

	name_key(from, rule->key, key);
	if (!model_gguf_has(from->gguf, key) && rule->needed)
		return kvs_fail(-EINVAL, "%s: %s is missing", model_gguf_name(from->gguf), key);
	if (!model_gguf_has(from->gguf, key)) /* null: no default of the class, which may differ from llama.cpp's */
		return set(from, from->config, rule->member, json_null());
	if (!rule->fraction) {
		err = model_gguf_int(from->gguf, key, 1, INT_MAX, &whole);
		return err ? err : set(from, from->config, rule->member, json_integer(whole));
	}
	err = model_gguf_number(from->gguf, key, &fraction);
	if (!err && !isfinite(fraction))
		err = kvs_fail(-EINVAL, "%s: %s is not a number", model_gguf_name(from->gguf), key);
	return err ? err : set(from, from->config, rule->member, json_real(fraction));
}

static int read_architecture(struct source *from)
{
	static const char *const known[] = {"llama", "qwen2", "qwen3"};
	struct gguf_text name = {"", 0}, type = {"model", 5};
	int err = model_gguf_text(from->gguf, "general.architecture", &name);

	if (!err)
		err = model_gguf_text(from->gguf, "general.type", &type);
	if (!err && !gguf_text_is(type, "model"))
		return kvs_fail(-EINVAL, "%s: general.type is \"%.*s\", only a model can be run",
			model_gguf_name(from->gguf), (int)(type.len < 40 ? type.len : 40), type.at);
	for (size_t i = 0; i < sizeof(known) / sizeof(known[0]) && !err; i++) {
		if (gguf_text_is(name, known[i])) {
			strcpy(from->architecture, known[i]);
			return 0;
		}
	}
	return err ? err
		   : kvs_fail(-EINVAL,
			     "%s: general.architecture is \"%.*s\", supported are llama (also Mistral), qwen2 and "
			     "qwen3",
			     model_gguf_name(from->gguf), (int)(name.len < 40 ? name.len : 40), name.at);
}

/* What is refused, and the one value that does no harm. */
static int check_switches(const struct source *from)
{
	static const char *const off[] = {"expert_count", "expert_used_count", "attention.sliding_window"};
	char key[80], other[80];
	int64_t value, head_dim = 0, heads = 1, hidden = 0;
	int err = 0;

	for (size_t i = 0; i < sizeof(off) / sizeof(off[0]) && !err; i++) {
		value = 0;
		name_key(from, off[i], key);
		err = model_gguf_int(from->gguf, key, 0, INT_MAX, &value);
		if (!err && value)
			return kvs_fail(-EINVAL, "%s: %s is %lld: not supported", model_gguf_name(from->gguf), key,
				(long long)value);
	}
	name_key(from, "attention.head_count", key);
	if (!err)
		err = model_gguf_int(from->gguf, key, 1, INT_MAX, &heads);
	name_key(from, "embedding_length", key);
	if (!err)
		err = model_gguf_int(from->gguf, key, 1, INT_MAX, &hidden);
	head_dim = hidden / heads;
	name_key(from, "attention.key_length", key);
	if (!err)
		err = model_gguf_int(from->gguf, key, 1, INT_MAX, &head_dim);
	for (int i = 0; i < 2 && !err; i++) {
		value = head_dim;
		name_key(from, i ? "rope.dimension_count" : "attention.value_length", other);
		err = model_gguf_int(from->gguf, other, 0, INT_MAX, &value);
		if (!err && value != head_dim)
			err = kvs_fail(-EINVAL, "%s: %s is %lld, a head has %lld: not supported",
				model_gguf_name(from->gguf), other, (long long)value, (long long)head_dim);
	}
	return err;
}

/* Keys of these groups that are none of ours would change the result. */
static int refuse_unknown(const struct source *from)
{
	static const char *const groups[] = {"attention.", "rope.", "expert"};
	static const char *const ours[] = {"attention.head_count", "attention.head_count_kv", "attention.key_length",
		"attention.value_length", "attention.layer_norm_rms_epsilon", "attention.sliding_window",
		"rope.freq_base", "rope.dimension_count", "rope.scaling.type", "rope.scaling.factor",
		"rope.scaling.original_context_length", "rope.scaling.finetuned", "rope.scale_linear", "expert_count",
		"expert_used_count"};
	enum { OURS = sizeof(ours) / sizeof(ours[0]) };
	char names[OURS][80], prefix[80];
	const char *known[OURS + 1] = {0};

	for (size_t i = 0; i < OURS; i++) {
		name_key(from, ours[i], names[i]);
		known[i] = names[i];
	}
	for (size_t i = 0; i < sizeof(groups) / sizeof(groups[0]); i++) {
		name_key(from, groups[i], prefix);
		const struct gguf_text *unknown = model_gguf_unknown(from->gguf, prefix, known);
		if (unknown)
			return kvs_fail(-EINVAL, "%s: %.*s: not supported", model_gguf_name(from->gguf),
				(int)(unknown->len < 80 ? unknown->len : 80), unknown->at);
	}
	return 0;
}

/* ---- positions ---- */

/* Linear scaling and YaRN have keys. */
static int read_scaling(const struct source *from)
{
	struct gguf_text type = {"none", 4};
	double factor = 1;
	int64_t original = 0;
	char key[80];
	json_t *scaling;
	int err;

	name_key(from, "rope.scale_linear", key); /* the older spelling */
	err = model_gguf_number(from->gguf, key, &factor);
	if (!err && factor != 1)
		type = (struct gguf_text){"linear", 6};
	name_key(from, "rope.scaling.type", key);
	if (!err)
		err = model_gguf_text(from->gguf, key, &type);
	name_key(from, "rope.scaling.factor", key);
	if (!err)
		err = model_gguf_number(from->gguf, key, &factor);
	name_key(from, "rope.scaling.original_context_length", key);
	if (!err)
		err = model_gguf_int(from->gguf, key, 1, INT_MAX, &original);
	if (err || gguf_text_is(type, "none"))
		return err;
	if (!gguf_text_is(type, "linear") && !gguf_text_is(type, "yarn"))
		return kvs_fail(-EINVAL, "%s: %s.rope.scaling.type is \"%.*s\", supported are none, linear and yarn",
			model_gguf_name(from->gguf), from->architecture, (int)(type.len < 40 ? type.len : 40), type.at);
	if (!isfinite(factor))
		return kvs_fail(-EINVAL, "%s: %s is not a number", model_gguf_name(from->gguf), key);
	scaling = json_object();
	err = set(from, scaling, "rope_type", json_stringn(type.at, type.len));
	if (!err)
		err = set(from, scaling, "factor", json_real(factor));
	if (!err && original)
		err = set(from, scaling, "original_max_position_embeddings", json_integer(original));
	if (!err)
		return set(from, from->config, "rope_scaling", scaling);
	json_decref(scaling);
	return err;
}

/* Llama 3's division of the frequency of pair `i`, as transformers and llama.cpp's converter compute it. */
static double llama3_division(double theta, int i, int head_dim, double factor, double original)
{
	double wavelength = 2 * M_PI * pow(theta, 2.0 * i / head_dim), low = 1, high = 4, smooth;

	if (wavelength < original / high)
		return 1;
	if (wavelength > original / low)
		return factor;
	smooth = (original / wavelength - low) / (high - low);
	return 1 / ((1 - smooth) / factor + smooth);
}

/*
 * Llama 3.1 and later: the file has no keys, but the finished divisions as a tensor, [head_dim / 2]. The settings that
 * Meta published (factors 8 and 32) are recognised by their values; any others are refused.
 */
static int recognise_llama3(const struct source *from, const float *divisions, int count)
{
	const double factors[] = {8, 32, 16, 4}, original = 8192;
	double theta = 10000;
	char key[80];
	int err;

	name_key(from, "rope.freq_base", key);
	err = model_gguf_number(from->gguf, key, &theta);
	for (size_t f = 0; f < sizeof(factors) / sizeof(factors[0]) && !err; f++) {
		bool same = true;
		for (int i = 0; i < count && same; i++) {
			double wanted = llama3_division(theta, i, 2 * count, factors[f], original);
			same = fabs(divisions[i] - wanted) <= 1e-3 * wanted;
		}
		if (same)
			return set(from, from->config, "rope_scaling",
				json_pack("{s:s, s:f, s:f, s:f, s:i}", "rope_type", "llama3", "factor", factors[f],
					"low_freq_factor", 1.0, "high_freq_factor", 4.0,
					"original_max_position_embeddings", (int)original));
	}
	return err ? err
		   : kvs_fail(-EINVAL,
			     "%s: tensor rope_freqs.weight is not Llama 3's scaling with factor 4, 8, 16 or 32: not "
			     "supported",
			     model_gguf_name(from->gguf));
}

/* In any of the parts, whose file goes to *file; `file` may be NULL. */
static const struct gguf_tensor *find_in(const struct source *from, const char *name, const struct model_file **file)
{
	for (size_t p = 0; p < from->part_count; p++) {
		const struct ckpt_gguf_part *part = &from->parts[p];
		for (size_t i = 0; i < model_gguf_count(part->gguf); i++) {
			if (!gguf_text_is(model_gguf_tensor(part->gguf, i)->name, name))
				continue;
			if (file)
				*file = part->file;
			return model_gguf_tensor(part->gguf, i);
		}
	}
	return NULL;
}

static const struct gguf_tensor *find_tensor(const struct source *from, const char *name)
{
	return find_in(from, name, NULL);
}

static int read_divisions(const struct source *from)
{
	enum { MOST = 128 };
	const struct model_file *file = NULL;
	const struct gguf_tensor *tensor = find_in(from, "rope_freqs.weight", &file);
	float divisions[MOST];
	int err;

	if (!tensor)
		return 0;
	if (tensor->rank != 1 || tensor->shape[0] > MOST || !tensor->type->dequantize || !file)
		return kvs_fail(
			-EINVAL, "%s: tensor rope_freqs.weight has an unknown form", model_gguf_name(from->gguf));
	err = model_gguf_read(file, tensor, 0, divisions, tensor->shape[0]);
	return err ? err : recognise_llama3(from, divisions, (int)tensor->shape[0]);
}

/* ---- the rest ---- */

/* What the tensors say: the vocabulary, a head of its own, biases. */
static int read_tensors(const struct source *from)
{
	const struct gguf_tensor *embedding = find_tensor(from, "token_embd.weight");
	bool bias = find_tensor(from, "blk.0.attn_q.bias"), llama = !strcmp(from->architecture, "llama");
	size_t tokens = model_gguf_length(from->gguf, TOKENS);
	char key[80];
	int64_t said;
	int err;

	if (!embedding || embedding->rank != 2)
		return kvs_fail(-EINVAL, "%s: has no tensor token_embd.weight of rank 2", model_gguf_name(from->gguf));
	said = embedding->shape[0];
	name_key(from, "vocab_size", key);
	err = model_gguf_int(from->gguf, key, 1, INT_MAX, &said);
	if (!err && said != embedding->shape[0])
		return kvs_fail(-EINVAL, "%s: %s is %lld, token_embd.weight has %lld rows", model_gguf_name(from->gguf),
			key, (long long)said, (long long)embedding->shape[0]);
	if (!err && tokens && tokens != (uint64_t)said)
		return kvs_fail(-EINVAL,
			"%s: " TOKENS
			" has %zu entries, token_embd.weight %lld rows: is the vocabulary another model's?",
			model_gguf_name(from->gguf), tokens, (long long)said);
	if (!err)
		err = set(from, from->config, "vocab_size", json_integer(said));
	if (!err)
		err = set(from, from->config, "tie_word_embeddings", json_boolean(!find_tensor(from, "output.weight")));
	if (!err && llama && bias != !!find_tensor(from, "blk.0.attn_output.bias"))
		return kvs_fail(-EINVAL,
			"%s: has biases of Q but not of attn_output, or the other way round: not supported",
			model_gguf_name(from->gguf));
	if (!err && llama && bias)
		err = set(from, from->config, "attention_bias", json_true());
	if (!err && llama && find_tensor(from, "blk.0.ffn_up.bias"))
		err = set(from, from->config, "mlp_bias", json_true());
	return err;
}

/* An id that the file does not have stays without a default of the class. */
static int read_special(const struct source *from)
{
	static const char *const ends[] = {
		"tokenizer.ggml.eos_token_id", "tokenizer.ggml.eot_token_id", "tokenizer.ggml.eom_token_id"};
	json_t *eos = json_array();
	int64_t id = -1;
	int err = model_gguf_int(from->gguf, "tokenizer.ggml.bos_token_id", 0, UINT_MAX, &id);

	if (!err)
		err = set(from, from->config, "bos_token_id", json_integer(id));
	for (size_t i = 0; i < sizeof(ends) / sizeof(ends[0]) && !err; i++) {
		id = -1;
		err = model_gguf_int(from->gguf, ends[i], 0, UINT_MAX, &id);
		if (!err && id >= 0 && json_array_append_new(eos, json_integer(id)))
			err = kvs_fail(-ENOMEM, "%s: no memory", model_gguf_name(from->gguf));
	}
	if (err)
		json_decref(eos);
	return err ? err : set(from, from->config, "eos_token_id", eos);
}

static int fill(struct source *from)
{
	int err = set(from, from->config, "model_type", json_string(from->architecture));

	for (size_t i = 0; i < sizeof(translations) / sizeof(translations[0]) && !err; i++)
		err = translate(from, &translations[i]);
	if (!err)
		err = check_switches(from);
	if (!err)
		err = refuse_unknown(from);
	if (!err)
		err = read_scaling(from);
	if (!err)
		err = read_divisions(from);
	if (!err)
		err = read_tensors(from);
	return err ? err : read_special(from);
}

int ckpt_gguf_config(const struct ckpt_gguf_part *parts, size_t count, struct kvs_config *out)
{
	const struct model_gguf *gguf = parts[0].gguf;
	struct source from = {.gguf = gguf, .parts = parts, .part_count = count};
	int err = read_architecture(&from);

	if (err)
		return err;
	from.config = json_object();
	if (!from.config)
		return kvs_fail(-ENOMEM, "%s: no memory for its configuration", model_gguf_name(gguf));
	err = fill(&from);
	if (!err)
		err = ckpt_read_config(from.config, model_gguf_name(gguf), out);
	json_decref(from.config);
	return err;
}
