/*
 * model/checkpoint/checkpoint.c: a Hugging Face directory, or a GGUF file, as one set of named tensors.
 *
 * Opening reads only headers; tensors are read later, in pieces. The tensors of all shards are in one table, sorted by
 * name: lookup is a binary search, and the fingerprint, which walks the table, does not depend on how the checkpoint
 * was split into files.
 *
 * Callers use the names that transformers has in a causal language model ("model.layers.0..."). find_entry() knows the
 * other names that a checkpoint may have for the same tensor.
 */
#include "checkpoint.h"

#include "../convert.h"
#include "../digest.h"
#include "../gguf.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define EMBEDDING "model.embed_tokens.weight"
#define HEAD "lm_head.weight"

struct shard {
	struct model_file file;
	struct kvs_safetensors *st; /* one of the two */
	struct ckpt_gguf *gguf;
};

struct entry {
	const char *name; /* belongs to the shard */
	const struct shard *shard;
	size_t index; /* in the shard */
};

struct kvs_checkpoint {
	char *dir;
	struct kvs_config config;
	struct shard *shards; /* [shard_count] */
	size_t shard_count;
	struct entry *entries; /* [entry_count], by name */
	size_t entry_count;
	bool bare;   /* a base model, whose names lack "model." */
	bool untied; /* config.json says tied, but the stored head differs */
	bool widen;  /* a GGUF file with matrices of several or of quantised types: all are read as f32 */
	char fingerprint[MODEL_DIGEST_TEXT];
};

/* ---- files ---- */

static int read_configs(kvs_checkpoint *ckpt)
{
	size_t bytes;
	char *text;
	int err = model_file_load(ckpt->dir, "config.json", &text, &bytes);

	if (err == -ENOENT)
		return ckpt_explain_config(ckpt->dir);
	if (err)
		return err;
	err = kvs_config_parse(text, bytes, "config.json", &ckpt->config);
	free(text);
	if (!err)
		err = model_file_load(ckpt->dir, "generation_config.json", &text, &bytes);
	if (err)
		return err == -ENOENT ? 0 : err;
	err = ckpt_apply_generation(text, bytes, "generation_config.json", &ckpt->config);
	free(text);
	return err;
}

/* ---- shards ---- */

/* Counts the shard as soon as its file is open, so that close undoes exactly that. */
static int open_shard(kvs_checkpoint *ckpt, const char *name)
{
	struct shard *shard = &ckpt->shards[ckpt->shard_count];
	int err = model_file_open(ckpt->dir, name, &shard->file);

	if (err)
		return err;
	ckpt->shard_count++;
	return ckpt_safetensors_open(&shard->file, name, &shard->st);
}

/* A name that leads out of the directory is an attack or a mistake. */
static bool is_plain_name(const char *name)
{
	return *name && !strchr(name, '/') && strcmp(name, ".") && strcmp(name, "..");
}

/* The files that weight_map names, each once: an object whose keys are their names. */
static int list_shards(const json_t *weight_map, const char *index, json_t **out)
{
	json_t *names = json_object();
	const char *tensor;
	json_t *file;
	int err = names ? 0 : kvs_fail(-ENOMEM, "%s: no memory for its list of files", index);

	json_object_foreach((json_t *)weight_map, tensor, file)
	{
		if (err)
			break;
		const char *name = json_string_value(file);
		if (!name || !is_plain_name(name))
			err = kvs_fail(-EINVAL, "%s: weight_map.%.200s is \"%.64s\", which is not a plain file name",
				index, tensor, name ? name : "(no string)");
		else if (json_object_set_new(names, name, json_true()))
			err = kvs_fail(-ENOMEM, "%s: no memory for its list of files", index);
	}
	if (err)
		json_decref(names);
	else
		*out = names;
	return err;
}

static int open_shards(kvs_checkpoint *ckpt, const json_t *weight_map, const char *index)
{
	json_t *names, *ignored;
	const char *name;
	int err = list_shards(weight_map, index, &names);

	if (err)
		return err;
	ckpt->shards = calloc(json_object_size(names) + 1, sizeof(*ckpt->shards));
	if (!ckpt->shards)
		err = kvs_fail(-ENOMEM, "%s: no memory for %zu files", index, json_object_size(names));
	json_object_foreach(names, name, ignored)
	{
		if (err)
			break;
		err = open_shard(ckpt, name);
		if (err == -ENOENT)
			err = kvs_fail(
				-ENOENT, "%s: weight_map names %.200s, which is missing in %s", index, name, ckpt->dir);
	}
	json_decref(names);
	return err;
}

static size_t shard_count(const struct shard *shard)
{
	return shard->gguf ? ckpt_gguf_count(shard->gguf) : kvs_safetensors_count(shard->st);
}

static void shard_stored(const struct shard *shard, size_t index, struct ckpt_stored *out)
{
	if (shard->gguf)
		ckpt_gguf_stored(shard->gguf, index, out);
	else
		ckpt_safetensors_stored(shard->st, index, out);
}

/* ---- the table ---- */

static int by_name(const void *a, const void *b)
{
	return strcmp(((const struct entry *)a)->name, ((const struct entry *)b)->name);
}

static int build_table(kvs_checkpoint *ckpt)
{
	size_t total = 0;

	for (size_t s = 0; s < ckpt->shard_count; s++)
		total += shard_count(&ckpt->shards[s]);
	ckpt->entries = calloc(total + 1, sizeof(*ckpt->entries));
	if (!ckpt->entries)
		return kvs_fail(-ENOMEM, "%s: no memory for %zu tensors", ckpt->dir, total);
	for (size_t s = 0; s < ckpt->shard_count; s++) {
		for (size_t i = 0; i < shard_count(&ckpt->shards[s]); i++) {
			struct ckpt_stored stored;
			shard_stored(&ckpt->shards[s], i, &stored);
			ckpt->entries[ckpt->entry_count++] = (struct entry){stored.name, &ckpt->shards[s], i};
		}
	}
	qsort(ckpt->entries, total, sizeof(*ckpt->entries), by_name);
	for (size_t i = 1; i < total; i++) {
		const struct entry *a = &ckpt->entries[i - 1], *b = &ckpt->entries[i];
		if (by_name(a, b))
			continue;
		if (a->shard == b->shard)
			return kvs_fail(-EINVAL, "%s: %.200s is there twice", a->shard->file.path, a->name);
		return kvs_fail(-EINVAL, "%s: %.200s is in two files, of which %s is one", ckpt->dir, a->name,
			a->shard->file.path);
	}
	return 0;
}

static const struct entry *find_stored(const kvs_checkpoint *ckpt, const char *name)
{
	struct entry key = {.name = name};

	return bsearch(&key, ckpt->entries, ckpt->entry_count, sizeof(key), by_name);
}

/* As in transformers: a base model's tensors belong under "model.", and the stored one of a tied pair is both. */
static const struct entry *find_entry(const kvs_checkpoint *ckpt, const char *name)
{
	const struct entry *entry = NULL;

	if (!ckpt->bare)
		entry = find_stored(ckpt, name);
	else if (!strncmp(name, "model.", 6))
		entry = find_stored(ckpt, name + 6);
	else
		entry = find_stored(ckpt, name);
	if (!entry && ckpt->config.tied_embeddings && !strcmp(name, EMBEDDING))
		entry = find_stored(ckpt, HEAD);
	return entry;
}

static int check_index(const kvs_checkpoint *ckpt, const json_t *weight_map, const char *index)
{
	const char *tensor;
	json_t *file;

	json_object_foreach((json_t *)weight_map, tensor, file)
	{
		const struct entry *entry = find_stored(ckpt, tensor);
		struct ckpt_stored stored = {0};
		if (entry)
			shard_stored(entry->shard, entry->index, &stored);
		if (!entry || strcmp(stored.file, json_string_value(file)))
			return kvs_fail(-EINVAL, "%s: weight_map.%.200s is not in %.64s", index, tensor,
				json_string_value(file));
	}
	return 0;
}

static int open_indexed(kvs_checkpoint *ckpt, const char *text, size_t bytes, const char *index)
{
	json_t *root;
	const json_t *weight_map;
	int err = model_json_parse(text, bytes, index, &root);

	if (err)
		return err;
	weight_map = json_object_get(root, "weight_map");
	if (!json_is_object(weight_map) || !json_object_size(weight_map))
		err = kvs_fail(-EINVAL, "%s: weight_map is missing or empty", index);
	if (!err)
		err = open_shards(ckpt, weight_map, index);
	if (!err)
		err = build_table(ckpt);
	if (!err)
		err = check_index(ckpt, weight_map, index);
	json_decref(root);
	return err;
}

static int open_single(kvs_checkpoint *ckpt)
{
	int err;

	ckpt->shards = calloc(1, sizeof(*ckpt->shards));
	err = ckpt->shards ? open_shard(ckpt, "model.safetensors") : kvs_fail(-ENOMEM, "%s: no memory", ckpt->dir);
	return err ? err : build_table(ckpt);
}

/* A single file takes precedence over an index, as in transformers. */
static int open_weights(kvs_checkpoint *ckpt)
{
	static const char index[] = "model.safetensors.index.json";
	size_t bytes;
	char *text;
	int err = open_single(ckpt);

	if (err != -ENOENT)
		return err;
	free(ckpt->shards);
	ckpt->shards = NULL;
	err = model_file_load(ckpt->dir, index, &text, &bytes);
	if (err)
		return err == -ENOENT ? ckpt_explain_weights(ckpt->dir) : err;
	err = open_indexed(ckpt, text, bytes, index);
	free(text);
	return err;
}

/* ---- GGUF ---- */

/* The part counts as a shard as soon as its file is open. */
static int open_part(kvs_checkpoint *ckpt, const char *path)
{
	struct shard *shard = &ckpt->shards[ckpt->shard_count];
	int err = model_file_open_path(path, &shard->file);

	if (err)
		return err;
	ckpt->shard_count++;
	return ckpt_gguf_open(&shard->file, path, &shard->gguf);
}

static int open_other_parts(kvs_checkpoint *ckpt, int count)
{
	struct shard *grown = realloc(ckpt->shards, count * sizeof(*grown));
	int err = grown ? 0 : kvs_fail(-ENOMEM, "%s: no memory for %d parts", ckpt->dir, count);

	if (!err) {
		ckpt->shards = grown;
		memset(&grown[1], 0, (count - 1) * sizeof(*grown));
	}
	for (int i = 1; i < count && !err; i++) {
		char *path;
		err = ckpt_gguf_part_path(ckpt->dir, i, count, &path);
		if (err)
			return err;
		err = open_part(ckpt, path);
		if (!err)
			err = ckpt_gguf_check_part(ckpt->shards[i].gguf, ckpt->shards[0].gguf, i, count);
		free(path);
	}
	return err;
}

/* Of all parts: any of them may hold the tensors that say something of the model. */
static int read_gguf_config(kvs_checkpoint *ckpt)
{
	struct ckpt_gguf_part *parts = calloc(ckpt->shard_count, sizeof(*parts));
	int err = parts ? 0 : kvs_fail(-ENOMEM, "%s: no memory for its parts", ckpt->dir);

	for (size_t s = 0; s < ckpt->shard_count && !err; s++)
		parts[s] = (struct ckpt_gguf_part){ckpt_gguf_header(ckpt->shards[s].gguf), &ckpt->shards[s].file};
	if (!err)
		err = ckpt_gguf_config(parts, ckpt->shard_count, &ckpt->config);
	free(parts);
	return err;
}

static int open_gguf(kvs_checkpoint *ckpt)
{
	const char *type = NULL;
	int number, count, err;

	ckpt->shards = calloc(1, sizeof(*ckpt->shards));
	err = ckpt->shards ? open_part(ckpt, ckpt->dir) : kvs_fail(-ENOMEM, "%s: no memory", ckpt->dir);
	if (!err)
		err = ckpt_gguf_parts(ckpt->shards[0].gguf, &number, &count);
	if (!err && number)
		err = kvs_fail(-EINVAL, "%s: is part %d of %d: give the first, its name has 00001", ckpt->dir,
			number + 1, count);
	if (!err && count > 1)
		err = open_other_parts(ckpt, count);
	if (!err)
		err = read_gguf_config(ckpt);
	for (size_t s = 0; s < ckpt->shard_count && !err; s++)
		ckpt->widen |= !ckpt_gguf_same_types(ckpt->shards[s].gguf, &type);
	if (!err)
		err = build_table(ckpt);
	if (!err && count > 1) /* a model that was merged of parts may keep the key */
		err = ckpt_gguf_check_total(ckpt->shards[0].gguf, ckpt->entry_count);
	return err;
}

/* ---- the fingerprint ---- */

static model_digest fnv_text(model_digest hash, const char *text)
{
	return model_digest_add(
		hash, text, strlen(text) + 1); /* with its NUL, so that "a", "bc" differs from "ab", "c" */
}

static model_digest fnv_config(model_digest hash, const struct kvs_config *config)
{
	char text[1024];

	snprintf(text, sizeof(text),
		"%s %d %d %d %d %d %d %d %d %.9g %d%d%d%d%d %d %.17g %.17g %.17g %.17g %.17g %.17g %.17g "
		"%.17g %.17g %d %d",
		config->model_type, config->layers, config->hidden, config->ff, config->heads, config->kv_heads,
		config->head_dim, config->vocab, config->max_positions, config->rms_eps, config->qkv_bias,
		config->qk_norm, config->o_bias, config->mlp_bias, config->tied_embeddings, config->rope.type,
		config->rope.theta, config->rope.factor, config->rope.low_freq_factor, config->rope.high_freq_factor,
		config->rope.beta_fast, config->rope.beta_slow, config->rope.attention_factor, config->rope.mscale,
		config->rope.mscale_all_dim, config->rope.truncate, config->rope.original_positions);
	hash = fnv_text(hash, text);
	for (int l = 0; l < config->layers; l++) {
		snprintf(text, sizeof(text), "%d", config->window[l]);
		hash = fnv_text(hash, text);
	}
	return hash;
}

/* Eight runs of 64 bytes, the first and the last among them: a few pages of each tensor, however large it is. */
static int fnv_data(const struct model_file *file, const struct ckpt_stored *tensor, model_digest *hash)
{
	enum { RUNS = 8, RUN_BYTES = 64 };
	unsigned char run[RUNS * RUN_BYTES];
	int err = 0;

	if (tensor->bytes <= sizeof(run)) {
		err = model_file_read(file, tensor->offset, run, tensor->bytes);
		*hash = model_digest_add(*hash, run, err ? 0 : tensor->bytes);
		return err;
	}
	for (size_t i = 0; i < RUNS && !err; i++) {
		err = model_file_read(
			file, tensor->offset + (tensor->bytes - RUN_BYTES) / (RUNS - 1) * i, run, RUN_BYTES);
		*hash = model_digest_add(*hash, run, RUN_BYTES);
	}
	return err;
}

static int fnv_tensor(const struct entry *entry, model_digest *hash)
{
	struct ckpt_stored tensor;
	char text[32];

	shard_stored(entry->shard, entry->index, &tensor);
	*hash = fnv_text(fnv_text(*hash, tensor.name), tensor.dtype);
	for (int i = 0; i < tensor.rank; i++) {
		snprintf(text, sizeof(text), "%lld", (long long)tensor.shape[i]);
		*hash = fnv_text(*hash, text);
	}
	return fnv_data(&entry->shard->file, &tensor, hash);
}

static int take_fingerprint(kvs_checkpoint *ckpt)
{
	model_digest hash = MODEL_DIGEST_START;
	int err = 0;

	hash = fnv_config(hash, &ckpt->config);
	for (size_t i = 0; i < ckpt->entry_count && !err; i++)
		err = fnv_tensor(&ckpt->entries[i], &hash);
	model_digest_print(hash, ckpt->fingerprint);
	return err;
}

/* ---- tied embeddings ---- */

static int same_bytes(
	const struct model_file *a, uint64_t at_a, const struct model_file *b, uint64_t at_b, size_t bytes, bool *same)
{
	enum { PIECE = 1 << 20 };
	char *piece = malloc(2 * PIECE);
	int err = piece ? 0 : kvs_fail(-ENOMEM, "no memory to compare tensors");

	*same = true;
	for (size_t done = 0, now; done < bytes && *same && !err; done += now) {
		now = bytes - done < PIECE ? bytes - done : PIECE;
		err = model_file_read(a, at_a + done, piece, now);
		if (!err)
			err = model_file_read(b, at_b + done, piece + PIECE, now);
		*same = !err && !memcmp(piece, piece + PIECE, now);
	}
	free(piece);
	return err;
}

/*
 * If config.json says that the head is the embedding, but the stored head differs, it is used (transformers,
 * tie_weights).
 */
static int untie(kvs_checkpoint *ckpt)
{
	const struct entry *a = find_entry(ckpt, EMBEDDING), *b = find_entry(ckpt, HEAD);
	struct ckpt_stored embedding, head;
	bool same;
	int err;

	if (!ckpt->config.tied_embeddings || !a || !b || a == b)
		return 0;
	shard_stored(a->shard, a->index, &embedding);
	shard_stored(b->shard, b->index, &head);
	same = !strcmp(embedding.dtype, head.dtype) && embedding.bytes == head.bytes;
	err = same ? same_bytes(&a->shard->file, embedding.offset, &b->shard->file, head.offset, head.bytes, &same) : 0;
	ckpt->untied = !err && !same;
	ckpt->config.tied_embeddings = !ckpt->untied;
	return err;
}

/* ---- the checkpoint ---- */

/* The stored type counts, not the one that config.json names: the two differ if weights were converted. */
static int take_dtype(kvs_checkpoint *ckpt)
{
	struct kvs_weight embedding;
	int err;

	ckpt->bare = !find_stored(ckpt, EMBEDDING) && find_stored(ckpt, &EMBEDDING[strlen("model.")]);
	err = kvs_checkpoint_weight(ckpt, EMBEDDING, &embedding);
	if (!err)
		ckpt->config.dtype = embedding.dtype;
	/*
	 * Where the device multiplies 2-byte numbers: f16 keeps more of a quantised weight, but some activations of
	 * Qwen's models are too large for it. K and V follow.
	 */
	if (!err && ckpt->widen)
		ckpt->config.dtype = strcmp(ckpt->config.model_type, "llama") ? KVS_BF16 : KVS_F16;
	return err;
}

int kvs_checkpoint_open(const char *dir, kvs_checkpoint **out)
{
	kvs_checkpoint *ckpt = calloc(1, sizeof(*ckpt));
	int err = 0;

	*out = NULL;
	if (ckpt)
		ckpt->dir = strdup(dir);
	if (!ckpt || !ckpt->dir)
		err = kvs_fail(-ENOMEM, "%s: no memory to open it", dir);
	if (!err && model_gguf_is(dir)) {
		err = open_gguf(ckpt);
	} else {
		if (!err)
			err = read_configs(ckpt);
		if (!err)
			err = open_weights(ckpt);
	}
	if (!err)
		err = take_dtype(ckpt);
	if (!err)
		err = untie(ckpt);
	if (!err)
		err = take_fingerprint(ckpt);
	if (err) {
		kvs_checkpoint_close(ckpt);
		return err;
	}
	*out = ckpt;
	return 0;
}

void kvs_checkpoint_close(kvs_checkpoint *ckpt)
{
	if (!ckpt)
		return;
	for (size_t s = 0; s < ckpt->shard_count; s++) {
		kvs_safetensors_free(ckpt->shards[s].st);
		ckpt_gguf_close(ckpt->shards[s].gguf);
		model_file_close(&ckpt->shards[s].file);
	}
	free(ckpt->shards);
	free(ckpt->entries);
	kvs_config_clear(&ckpt->config);
	free(ckpt->dir);
	free(ckpt);
}

const struct kvs_config *kvs_checkpoint_config(const kvs_checkpoint *ckpt)
{
	return &ckpt->config;
}

static int no_tensor(const kvs_checkpoint *ckpt, const char *name)
{
	if (!strcmp(name, HEAD) && !ckpt->config.tied_embeddings)
		return kvs_fail(-ENOENT,
			"%s: the weights have no tensor " HEAD ", and config.json does not say tie_word_embeddings",
			ckpt->dir);
	return kvs_fail(-ENOENT, "%s: the weights have no tensor %s", ckpt->dir, name);
}

int kvs_checkpoint_weight(const kvs_checkpoint *ckpt, const char *name, struct kvs_weight *out)
{
	const struct entry *entry = find_entry(ckpt, name);
	const char *found;

	if (!entry)
		return no_tensor(ckpt, name);
	if (!entry->shard->gguf) {
		int err = kvs_safetensors_get(entry->shard->st, entry->index, &found, out);
		out->stored = out->dtype;
		return err;
	}
	ckpt_gguf_get(entry->shard->gguf, entry->index, ckpt->widen, out);
	return 0;
}

int kvs_checkpoint_read(const kvs_checkpoint *ckpt, const char *name, size_t first, void *out, size_t bytes)
{
	const struct entry *entry = find_entry(ckpt, name);
	struct ckpt_stored stored;

	if (!entry)
		return no_tensor(ckpt, name);
	if (entry->shard->gguf)
		return ckpt_gguf_read(entry->shard->gguf, entry->index, &entry->shard->file, &ckpt->config, ckpt->widen,
			first, out, bytes);
	shard_stored(entry->shard, entry->index, &stored);
	if (first > stored.bytes || bytes > stored.bytes - first)
		return kvs_fail(
			-EINVAL, "%s: %zu bytes from byte %zu on, it has %zu", name, bytes, first, stored.bytes);
	return model_file_read(&entry->shard->file, stored.offset + first, out, bytes);
}

int kvs_checkpoint_read_rows(const kvs_checkpoint *ckpt, const char *name, int64_t first_row, int64_t rows, void *out)
{
	const struct entry *entry = find_entry(ckpt, name);
	struct kvs_weight stored;
	int err = kvs_checkpoint_weight(ckpt, name, &stored);
	size_t row_bytes;

	if (err)
		return err;
	if (entry->shard->gguf)
		return ckpt_gguf_read_rows(
			entry->shard->gguf, entry->index, &entry->shard->file, &ckpt->config, first_row, rows, out);
	row_bytes = stored.rank && stored.shape[0] ? stored.bytes / (size_t)stored.shape[0] : stored.bytes;
	return kvs_checkpoint_read(ckpt, name, first_row * row_bytes, out, rows * row_bytes);
}

const struct model_file *ckpt_rows_in_file(const kvs_checkpoint *ckpt, const char *name, uint64_t *offset)
{
	const struct entry *entry = find_entry(ckpt, name);
	struct ckpt_stored stored;

	if (!entry)
		return NULL;
	shard_stored(entry->shard, entry->index, &stored);
	*offset = stored.offset;
	if (stored.rank != 2)
		return NULL;
	if (entry->shard->gguf && ckpt_gguf_is_moved(entry->shard->gguf, entry->index, &ckpt->config))
		return NULL;
	return &entry->shard->file;
}

int kvs_checkpoint_read_f32(const kvs_checkpoint *ckpt, const char *name, size_t count, float *out)
{
	struct kvs_weight stored;
	void *raw;
	int err = kvs_checkpoint_weight(ckpt, name, &stored);

	if (!err && stored.bytes != count * kvs_dtype_bytes(stored.dtype))
		err = kvs_fail(-EINVAL, "%s: has %zu bytes, not those of %zu numbers", name, stored.bytes, count);
	if (err)
		return err;
	raw = malloc(stored.bytes);
	err = raw ? kvs_checkpoint_read(ckpt, name, 0, raw, stored.bytes) : kvs_fail(-ENOMEM, "no memory for %s", name);
	if (!err)
		model_to_f32(out, raw, stored.dtype, 0, count);
	free(raw);
	return err;
}

/* ---- the stored tensors ---- */

size_t ckpt_count(const kvs_checkpoint *ckpt)
{
	return ckpt->entry_count;
}

const char *ckpt_name(const kvs_checkpoint *ckpt, size_t index)
{
	return ckpt->entries[index].name;
}

bool ckpt_find(const kvs_checkpoint *ckpt, const char *name, size_t *index)
{
	const struct entry *entry = find_entry(ckpt, name);

	*index = entry ? (size_t)(entry - ckpt->entries) : 0;
	return entry != NULL;
}

bool ckpt_untied(const kvs_checkpoint *ckpt)
{
	return ckpt->untied;
}

const char *kvs_checkpoint_fingerprint(const kvs_checkpoint *ckpt)
{
	return ckpt->fingerprint;
}

struct kvs_plan_model kvs_checkpoint_plan_model(const kvs_checkpoint *ckpt)
{
	return (struct kvs_plan_model){.architecture = ckpt->config.model_type,
		.layers = ckpt->config.layers,
		.kv_heads = ckpt->config.kv_heads,
		.head_dim = ckpt->config.head_dim,
		.fingerprint = ckpt->fingerprint};
}

bool kvs_config_ends(const struct kvs_config *config, int32_t id)
{
	for (int i = 0; i < config->eos_count; i++)
		if (config->eos[i] == id)
			return true;
	return false;
}
