/*
 * model/checkpoint/checkpoint.c: a Hugging Face directory as one set of named tensors.
 *
 * Files are mapped, never copied. The tensors of all shards lie in one table, sorted by name: lookup is a binary search,
 * and the fingerprint, which walks it, does not depend on how the checkpoint was cut into files.
 */
#include "checkpoint.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

struct mapped_file {
	void *bytes; /* NULL where the file is empty */
	size_t size;
};

struct shard {
	struct mapped_file file;
	struct kvs_safetensors *st;
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
	char fingerprint[33];
};

/* ---- files ---- */

/* O_NONBLOCK: a pipe of that name is refused, not waited for. */
static int map_file(const char *dir, const char *name, struct mapped_file *out)
{
	char path[4096];
	struct stat about;
	int fd, err = 0;

	*out = (struct mapped_file){0};
	if ((size_t)snprintf(path, sizeof(path), "%s/%s", dir, name) >= sizeof(path))
		return kvs_fail(-EINVAL, "%.64s...: the path is too long", dir);
	fd = open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK);
	if (fd < 0 && (errno == ENOENT || errno == ENOTDIR))
		return kvs_fail(-ENOENT, "%s: no such file", path);
	if (fd < 0 || fstat(fd, &about))
		err = kvs_fail(-EIO, "%s: %s", path, strerror(errno));
	else if (!S_ISREG(about.st_mode))
		err = kvs_fail(-EINVAL, "%s: not a regular file", path);
	if (err || !about.st_size)
		goto out_close;
	out->bytes = mmap(NULL, about.st_size, PROT_READ, MAP_PRIVATE, fd, 0);
	if (out->bytes == MAP_FAILED) {
		err = kvs_fail(errno == ENOMEM ? -ENOMEM : -EIO, "%s: %s", path, strerror(errno));
		out->bytes = NULL;
		goto out_close;
	}
	out->size = about.st_size;
out_close:
	if (fd >= 0)
		close(fd);
	return err;
}

static void unmap_file(struct mapped_file *file)
{
	if (file->bytes)
		munmap(file->bytes, file->size);
}

static int read_configs(kvs_checkpoint *ckpt)
{
	struct mapped_file file;
	int err = map_file(ckpt->dir, "config.json", &file);

	if (err)
		return err;
	err = kvs_config_parse(file.bytes ? file.bytes : "", file.size, "config.json", &ckpt->config);
	unmap_file(&file);
	if (err)
		return err;
	err = map_file(ckpt->dir, "generation_config.json", &file);
	if (err)
		return err == -ENOENT ? 0 : err;
	err = kvs_config_apply_generation(
		file.bytes ? file.bytes : "", file.size, "generation_config.json", &ckpt->config);
	unmap_file(&file);
	return err;
}

/* ---- shards ---- */

/* What is held is counted as soon as it is, so that close undoes exactly that. */
static int open_shard(kvs_checkpoint *ckpt, const char *name)
{
	struct shard *shard = &ckpt->shards[ckpt->shard_count];
	int err = map_file(ckpt->dir, name, &shard->file);

	if (err)
		return err;
	ckpt->shard_count++;
	return kvs_safetensors_parse(shard->file.bytes, shard->file.size, name, &shard->st);
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

/* ---- the table ---- */

static int by_name(const void *a, const void *b)
{
	return strcmp(((const struct entry *)a)->name, ((const struct entry *)b)->name);
}

static int build_table(kvs_checkpoint *ckpt)
{
	size_t total = 0;

	for (size_t s = 0; s < ckpt->shard_count; s++)
		total += kvs_safetensors_count(ckpt->shards[s].st);
	ckpt->entries = calloc(total + 1, sizeof(*ckpt->entries));
	if (!ckpt->entries)
		return kvs_fail(-ENOMEM, "%s: no memory for %zu tensors", ckpt->dir, total);
	for (size_t s = 0; s < ckpt->shard_count; s++) {
		for (size_t i = 0; i < kvs_safetensors_count(ckpt->shards[s].st); i++) {
			struct kvs_stored stored;
			kvs_safetensors_stored(ckpt->shards[s].st, i, &stored);
			ckpt->entries[ckpt->entry_count++] = (struct entry){stored.name, &ckpt->shards[s], i};
		}
	}
	qsort(ckpt->entries, total, sizeof(*ckpt->entries), by_name);
	for (size_t i = 1; i < total; i++) {
		if (!by_name(&ckpt->entries[i - 1], &ckpt->entries[i]))
			return kvs_fail(-EINVAL, "%s: %.200s is in two files", ckpt->dir, ckpt->entries[i].name);
	}
	return 0;
}

static const struct entry *find_entry(const kvs_checkpoint *ckpt, const char *name)
{
	struct entry key = {.name = name};

	return bsearch(&key, ckpt->entries, ckpt->entry_count, sizeof(key), by_name);
}

static int check_index(const kvs_checkpoint *ckpt, const json_t *weight_map, const char *index)
{
	const char *tensor;
	json_t *file;

	json_object_foreach((json_t *)weight_map, tensor, file)
	{
		const struct entry *entry = find_entry(ckpt, tensor);
		struct kvs_stored stored = {0};
		if (entry)
			kvs_safetensors_stored(entry->shard->st, entry->index, &stored);
		if (!entry || strcmp(stored.file, json_string_value(file)))
			return kvs_fail(-EINVAL, "%s: weight_map.%.200s is not in %.64s", index, tensor,
				json_string_value(file));
	}
	return 0;
}

static int open_indexed(kvs_checkpoint *ckpt, const struct mapped_file *file, const char *index)
{
	json_t *root;
	const json_t *weight_map;
	int err = kvs_json_parse(file->bytes ? file->bytes : "", file->size, index, &root);

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

/* One file goes before an index, as in transformers. */
static int open_weights(kvs_checkpoint *ckpt)
{
	static const char index[] = "model.safetensors.index.json";
	struct mapped_file file;
	int err = open_single(ckpt);

	if (err != -ENOENT)
		return err;
	free(ckpt->shards);
	ckpt->shards = NULL;
	err = map_file(ckpt->dir, index, &file);
	if (err == -ENOENT)
		return kvs_fail(-ENOENT, "%s: neither model.safetensors nor %s is there", ckpt->dir, index);
	if (err)
		return err;
	err = open_indexed(ckpt, &file, index);
	unmap_file(&file);
	return err;
}

/* ---- the fingerprint: FNV-1a, 128 bits (Fowler, Noll, Vo) ---- */

typedef unsigned __int128 fnv_hash;

static fnv_hash fnv_bytes(fnv_hash hash, const void *data, size_t bytes)
{
	const fnv_hash prime = ((fnv_hash)1 << 88) + 0x13b;
	const unsigned char *at = data;

	for (size_t i = 0; i < bytes; i++)
		hash = (hash ^ at[i]) * prime;
	return hash;
}

static fnv_hash fnv_text(fnv_hash hash, const char *text)
{
	return fnv_bytes(hash, text, strlen(text) + 1); /* with its end, so that "a", "bc" is not "ab", "c" */
}

static fnv_hash fnv_config(fnv_hash hash, const struct kvs_config *config)
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
static fnv_hash fnv_tensor(fnv_hash hash, const struct kvs_stored *tensor)
{
	enum { RUNS = 8, RUN_BYTES = 64 };
	char text[32];

	hash = fnv_text(fnv_text(hash, tensor->name), tensor->dtype);
	for (int i = 0; i < tensor->rank; i++) {
		snprintf(text, sizeof(text), "%lld", (long long)tensor->shape[i]);
		hash = fnv_text(hash, text);
	}
	if (tensor->bytes <= RUNS * RUN_BYTES)
		return fnv_bytes(hash, tensor->data, tensor->bytes);
	for (size_t run = 0; run < RUNS; run++)
		hash = fnv_bytes(hash, tensor->data + (tensor->bytes - RUN_BYTES) / (RUNS - 1) * run, RUN_BYTES);
	return hash;
}

static void take_fingerprint(kvs_checkpoint *ckpt)
{
	fnv_hash hash = (fnv_hash)0x6c62272e07bb0142 << 64 | 0x62b821756295c58d;

	hash = fnv_config(hash, &ckpt->config);
	for (size_t i = 0; i < ckpt->entry_count; i++) {
		struct kvs_stored stored;
		kvs_safetensors_stored(ckpt->entries[i].shard->st, ckpt->entries[i].index, &stored);
		hash = fnv_tensor(hash, &stored);
	}
	snprintf(ckpt->fingerprint, sizeof(ckpt->fingerprint), "%016llx%016llx", (unsigned long long)(hash >> 64),
		(unsigned long long)hash);
}

/* ---- the checkpoint ---- */

/* What lies in the file decides, not what config.json says of it: the two differ where weights were converted. */
static int take_dtype(kvs_checkpoint *ckpt)
{
	struct kvs_weight embedding;
	int err = kvs_checkpoint_weight(ckpt, "model.embed_tokens.weight", &embedding);

	if (!err)
		ckpt->config.dtype = embedding.dtype;
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
	if (!err)
		err = read_configs(ckpt);
	if (!err)
		err = open_weights(ckpt);
	if (!err)
		err = take_dtype(ckpt);
	if (err) {
		kvs_checkpoint_close(ckpt);
		return err;
	}
	take_fingerprint(ckpt);
	*out = ckpt;
	return 0;
}

void kvs_checkpoint_close(kvs_checkpoint *ckpt)
{
	if (!ckpt)
		return;
	for (size_t s = 0; s < ckpt->shard_count; s++) {
		kvs_safetensors_free(ckpt->shards[s].st);
		unmap_file(&ckpt->shards[s].file);
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

int kvs_checkpoint_weight(const kvs_checkpoint *ckpt, const char *name, struct kvs_weight *out)
{
	const struct entry *entry = find_entry(ckpt, name);
	const char *found;

	if (!entry)
		return kvs_fail(-ENOENT, "%s: the weights have no tensor %s", ckpt->dir, name);
	return kvs_safetensors_get(entry->shard->st, entry->index, &found, out);
}

const char *kvs_checkpoint_fingerprint(const kvs_checkpoint *ckpt)
{
	return ckpt->fingerprint;
}
