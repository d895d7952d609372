/*
 * tools/run/plan/checkpoint.c: `plan convert --to checkpoint`: a Hugging Face directory with a plan's refitted matrices in it.
 *
 * A refitted matrix has the name, type and shape of the one that it replaces. So a shard that holds one is a copy with other
 * bytes in these places, shards without one are hard links (copies where the two folders are on different file systems), and all
 * other files are copies, as people edit them; config.json also names the matrices. Weights in other formats are left out: they
 * hold the old matrices. So are folders. The plan comes along as kvshare_plan.json, for the new model. Everything is made in a
 * folder beside, which then takes its name: OUT is whole or absent.
 */
#include "plan.h"

#include <ctype.h>
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#define CONFIG_NAME "config.json"
#define CONFIG_KEY "kvshare_matrices" /* what exports of the plan look for in the model that they are given */
#define PLAN_NAME "kvshare_plan.json"
#define INDEX_NAME "model.safetensors.index.json"
#define SINGLE_NAME "model.safetensors"
#define COPY_BYTES (1 << 20)

struct target {
	const char *from, *to; /* directories */
	const kvs_patch *patch;
	json_t *shards; /* an object whose keys are the files that hold weights */
	bool *placed;   /* [matrices of the patch] */
	char *buffer;   /* [COPY_BYTES] */
};

static int in(const char *dir, const char *name, char **path)
{
	return asprintf(path, "%s/%s", dir, name) < 0 ? kvs_fail(-ENOMEM, "no memory for a path") : 0;
}

/* ---- files ---- */

static int write_all(int fd, const char *bytes, size_t count)
{
	while (count) {
		ssize_t now = write(fd, bytes, count);
		if (now < 0 && errno == EINTR)
			continue;
		if (now < 0)
			return -errno;
		bytes += now;
		count -= now;
	}
	return 0;
}

static int copy_bytes(const struct target *target, int from, int to)
{
	for (;;) {
		ssize_t now = read(from, target->buffer, COPY_BYTES);
		int err = now < 0 ? -errno : 0;
		if (run_watch_stopped())
			return -ECANCELED;
		if (err == -EINTR)
			continue;
		if (!err && now)
			err = write_all(to, target->buffer, now);
		if (err || !now)
			return err;
	}
}

static int copy_file(const struct target *target, const char *from, const char *to)
{
	int in_fd = open(from, O_RDONLY | O_CLOEXEC), out_fd, err;

	if (in_fd < 0)
		return kvs_fail(-errno, "%s: %s", from, strerror(errno));
	out_fd = open(to, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0666);
	err = out_fd < 0 ? -errno : copy_bytes(target, in_fd, out_fd);
	if (out_fd >= 0 && close(out_fd) && !err)
		err = -errno;
	close(in_fd);
	if (err == -ECANCELED)
		return kvs_fail(err, "stopped: nothing was written");
	return err ? kvs_fail(err, "copying %s to %s: %s", from, to, strerror(-err)) : 0;
}

/* A link to the file itself, where `from` is a symbolic one, as in the cache of the Hub. */
static int link_or_copy(const struct target *target, const char *from, const char *to)
{
	if (!linkat(AT_FDCWD, from, AT_FDCWD, to, AT_SYMLINK_FOLLOW))
		return 0;
	return copy_file(target, from, to);
}

/* ---- shards ---- */

/* The name may lack "model.", as a base model's does. */
static bool is_named(const char *stored, const char *name)
{
	return !strcmp(stored, name) || !strcmp(stored, name + strlen("model."));
}

/* The matrix of the patch that a stored tensor is replaced by; count: none. */
static size_t find_matrix(const struct target *target, const char *stored, struct kvs_patch_matrix *out)
{
	size_t count = kvs_patch_count(target->patch);

	for (size_t i = 0; i < count; i++) {
		kvs_patch_get(target->patch, i, out);
		if (is_named(stored, out->name))
			return i;
	}
	return count;
}

/* Tensors that no patch has may be of any type. */
static int replace(struct target *target, const char *path, char *file, const struct kvs_safetensors *st, size_t tensor)
{
	struct kvs_patch_matrix matrix;
	struct kvs_weight weight;
	const char *stored;
	int err = kvs_safetensors_get(st, tensor, &stored, &weight);
	size_t i = find_matrix(target, stored, &matrix);

	if (err || i == kvs_patch_count(target->patch))
		return i == kvs_patch_count(target->patch) ? 0 : err;
	if (weight.dtype != matrix.dtype || weight.rank != 2 || weight.shape[0] != matrix.rows ||
		weight.shape[1] != matrix.cols)
		return kvs_fail(-EINVAL, "%s: %s has another type or shape than the refitted matrix: compensate again",
			path, stored);
	memcpy(file + weight.offset, matrix.data, weight.bytes);
	target->placed[i] = true;
	return 0;
}

static int replace_all(struct target *target, const char *path, char *file, size_t bytes)
{
	struct kvs_safetensors *st;
	int err = kvs_safetensors_parse(file, bytes, path, &st);

	if (err)
		return err;
	for (size_t i = 0; i < kvs_safetensors_count(st) && !err; i++)
		err = replace(target, path, file, st, i);
	kvs_safetensors_free(st);
	return err;
}

static int patch_file(struct target *target, const char *path)
{
	int fd = open(path, O_RDWR | O_CLOEXEC), err;
	struct stat info;
	char *file;

	if (fd < 0 || fstat(fd, &info)) {
		err = kvs_fail(-errno, "%s: %s", path, strerror(errno));
		if (fd >= 0)
			close(fd);
		return err;
	}
	file = mmap(NULL, info.st_size, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
	close(fd);
	if (file == MAP_FAILED)
		return kvs_fail(-errno, "%s: %s", path, strerror(errno));
	err = replace_all(target, path, file, info.st_size);
	if (msync(file, info.st_size, MS_SYNC) && !err)
		err = kvs_fail(-errno, "%s: %s", path, strerror(errno));
	munmap(file, info.st_size);
	return err;
}

static bool holds_a_matrix(const struct target *target, const char *path, int *err)
{
	struct kvs_patch_matrix matrix;
	struct kvs_safetensors *st = NULL;
	struct kvs_weight weight;
	const char *name;
	bool found = false;
	int fd = open(path, O_RDONLY | O_CLOEXEC);
	struct stat info;
	void *file = MAP_FAILED;

	if (fd >= 0 && !fstat(fd, &info))
		file = mmap(NULL, info.st_size, PROT_READ, MAP_PRIVATE, fd, 0);
	*err = file == MAP_FAILED ? kvs_fail(-errno, "%s: %s", path, strerror(errno)) : 0;
	if (fd >= 0)
		close(fd);
	if (*err)
		return false;
	*err = kvs_safetensors_parse(file, info.st_size, path, &st);
	for (size_t i = 0; !*err && !found && i < kvs_safetensors_count(st); i++) {
		kvs_safetensors_get(st, i, &name, &weight);
		found = find_matrix(target, name, &matrix) < kvs_patch_count(target->patch);
	}
	kvs_safetensors_free(st);
	munmap(file, info.st_size);
	return found;
}

static int take_shard(struct target *target, const char *from, const char *to)
{
	int err;

	if (!holds_a_matrix(target, from, &err))
		return err ? err : link_or_copy(target, from, to);
	err = copy_file(target, from, to);
	return err ? err : patch_file(target, to);
}

/* ---- the folder ---- */

/* A single file takes precedence over an index, as in transformers. */
static int find_shards(struct target *target)
{
	char *path = NULL;
	json_t *index = NULL, *file;
	const char *name;
	int err = in(target->from, SINGLE_NAME, &path);

	target->shards = json_object();
	if (!err && !access(path, F_OK)) {
		json_object_set_new(target->shards, SINGLE_NAME, json_true());
		free(path);
		return 0;
	}
	free(path);
	if (!err)
		err = in(target->from, INDEX_NAME, &path);
	if (err)
		return err;
	index = json_load_file(path, 0, NULL); /* the checkpoint was opened, so it is whole */
	free(path);
	json_object_foreach(json_object_get(index, "weight_map"), name, file)
		json_object_set_new(target->shards, json_string_value(file), json_true());
	json_decref(index);
	return 0;
}

static bool ends(const char *name, const char *with)
{
	size_t length = strlen(name), tail = strlen(with);

	return length >= tail && !strcmp(name + length - tail, with);
}

/* Weights that are not read, and with a single file an index, which would be of other files. */
static bool is_left_out(const struct target *target, const char *name)
{
	static const char *const endings[] = {
		".safetensors", ".bin", ".pt", ".pth", ".h5", ".msgpack", ".gguf", ".onnx", ".bin.index.json"};

	for (size_t i = 0; i < sizeof(endings) / sizeof(*endings); i++)
		if (ends(name, endings[i]))
			return true;
	return !strcmp(name, PLAN_NAME) || (!strcmp(name, INDEX_NAME) && json_object_get(target->shards, SINGLE_NAME));
}

/*
 * config.json, with the digest of the patch, which other engines hand on to the exports of the plan. All else stays as it is, also
 * what is no strict JSON (Infinity). The key stands last: of two with the same name readers take the last.
 */
static int copy_config(const struct target *target, const char *from, const char *to)
{
	char *text = NULL, *marked = NULL, *end;
	size_t bytes;
	int err = run_read_text(from, &text, &bytes);

	if (err)
		return err;
	end = memrchr(text, '}', bytes);
	if (!end) { /* the checkpoint was opened, so the file has changed since */
		free(text);
		return kvs_fail(-EINVAL, "%s: is not JSON any more", from);
	}
	while (end > text && isspace((unsigned char)end[-1]))
		end--;
	if (asprintf(&marked, "%.*s,\n  \"" CONFIG_KEY "\": \"%s\"\n}\n", (int)(end - text), text,
		    kvs_patch_digest(target->patch)) < 0) {
		marked = NULL;
		err = kvs_fail(-ENOMEM, "no memory for %s", to);
	}
	if (!err)
		err = kvs_file_write(to, marked, strlen(marked));
	free(marked);
	free(text);
	return err;
}

static int take_file(struct target *target, const char *name)
{
	bool shard = json_object_get(target->shards, name);
	char *from = NULL, *to = NULL;
	struct stat info, made;
	int err = in(target->from, name, &from);

	if (!err)
		err = in(target->to, name, &to);
	if (!err && !stat(from, &info) && S_ISREG(info.st_mode) && (shard || !is_left_out(target, name))) {
		err = shard                        ? take_shard(target, from, to)
		      : !strcmp(name, CONFIG_NAME) ? copy_config(target, from, to)
						   : copy_file(target, from, to);
		if (!err && (stat(to, &made) || (made.st_ino != info.st_ino && chmod(to, info.st_mode & 0777))))
			err = kvs_fail(-errno, "%s: %s", to, strerror(errno));
	}
	free(from);
	free(to);
	return err;
}

static int take_files(struct target *target)
{
	DIR *dir = opendir(target->from);
	struct dirent *entry;
	int err = dir ? 0 : kvs_fail(-errno, "%s: %s", target->from, strerror(errno));

	while (!err && (entry = readdir(dir)))
		err = run_watch_stopped() ? kvs_fail(-ECANCELED, "stopped: nothing was written")
					  : take_file(target, entry->d_name);
	if (dir)
		closedir(dir);
	for (size_t i = 0; i < kvs_patch_count(target->patch) && !err; i++) {
		struct kvs_patch_matrix matrix;
		kvs_patch_get(target->patch, i, &matrix);
		if (!target->placed[i])
			err = kvs_fail(-ENOENT, "%s: has no %s", target->from, matrix.name);
	}
	return err;
}

/* The plan as it goes with the new model: its matrices are in the weights, and nothing belongs beside it any more. */
static int write_plan(const struct target *target, const kvs_plan *plan)
{
	kvs_checkpoint *ckpt = NULL;
	kvs_plan *copy = NULL;
	char *path = NULL, *text = NULL;
	json_t *calibration = NULL, *record;
	int err = kvs_checkpoint_open(target->to, &ckpt);

	if (!err)
		err = kvs_plan_copy(plan, &copy);
	if (!err)
		err = kvs_plan_calibration(copy, &text);
	if (!err) {
		const struct kvs_plan_model model = kvs_checkpoint_plan_model(ckpt);
		calibration = json_loads(text, 0, NULL);
		free(text);
		record = json_object_get(calibration, "compensation");
		json_object_set(record, "in_weights", json_object_get(record, "patch"));
		json_object_del(record, "patch");
		text = json_dumps(calibration, 0);
		err = text ? kvs_plan_set_calibration(copy, text) : kvs_fail(-ENOMEM, "no memory for a plan");
		if (!err)
			err = kvs_plan_set_model(copy, &model);
	}
	if (!err)
		err = in(target->to, PLAN_NAME, &path);
	if (!err)
		err = kvs_plan_save(copy, path);
	free(path);
	free(text);
	json_decref(calibration);
	kvs_plan_free(copy);
	kvs_checkpoint_close(ckpt);
	return err;
}

/* After a failure; files only, as nothing else was made. */
static void remove_folder(const char *path)
{
	DIR *dir = opendir(path);
	struct dirent *entry;

	while (dir && (entry = readdir(dir)))
		unlinkat(dirfd(dir), entry->d_name, 0);
	if (dir)
		closedir(dir);
	rmdir(path);
}

/* mkdtemp() made it for its owner alone. */
static int open_to_others(const char *path)
{
	mode_t mask = umask(0);

	umask(mask);
	return chmod(path, 0777 & ~mask) ? kvs_fail(-errno, "%s: %s", path, strerror(errno)) : 0;
}

static int fill(struct target *target, const kvs_plan *plan, const char *out)
{
	int err = find_shards(target);

	if (!err)
		err = take_files(target);
	if (!err)
		err = write_plan(target, plan);
	if (!err)
		err = open_to_others(target->to);
	if (!err && rename(target->to, out))
		err = kvs_fail(-errno, "%s: %s", out, strerror(errno));
	return err;
}

static int write_beside(const char *dir, const kvs_plan *plan, const kvs_patch *patch, const char *out)
{
	struct target target = {.from = dir, .patch = patch};
	int length = (int)strlen(out), err = 0;
	char *folder = NULL;

	while (length > 1 && out[length - 1] == '/')
		length--;
	if (asprintf(&folder, "%.*s.XXXXXX", length, out) < 0)
		return kvs_fail(-ENOMEM, "no memory for a path");
	target.placed = calloc(kvs_patch_count(patch) + 1, sizeof(*target.placed));
	target.buffer = malloc(COPY_BYTES);
	if (!target.placed || !target.buffer)
		err = kvs_fail(-ENOMEM, "no memory to copy a checkpoint");
	else if (!mkdtemp(folder))
		err = kvs_fail(-errno, "%s: %s", out, strerror(errno));
	else {
		target.to = folder;
		err = fill(&target, plan, out);
		if (err)
			remove_folder(folder);
	}
	json_decref(target.shards);
	free(target.placed);
	free(target.buffer);
	free(folder);
	return err;
}

int plan_write_checkpoint(const kvs_plan *plan, const char *plan_path, const char *dir, const char *out)
{
	kvs_checkpoint *ckpt;
	kvs_patch *patch = NULL;
	struct stat info;
	int err;

	if (run_is_stdout(out))
		return kvs_fail(-EINVAL, "--to checkpoint makes a directory, and no stream: name it with -o");
	if (!lstat(out, &info))
		return kvs_fail(-EEXIST, "%s: exists: name a new directory with -o", out);
	if (!stat(dir, &info) && !S_ISDIR(info.st_mode))
		return kvs_fail(-EINVAL, "%s: is a file: --to checkpoint takes a Hugging Face directory", dir);
	err = kvs_checkpoint_open(dir, &ckpt);
	if (err)
		return err;
	err = run_patch_load(plan_path, plan, ckpt, &patch);
	if (!err && !patch)
		err = kvs_fail(-EINVAL,
			"%s: has no refitted matrices, so the checkpoint would be the same: make them with calibrate "
			"--compensate",
			plan_path);
	if (!err && kvs_patch_has_skip(patch))
		err = kvs_fail(-EINVAL,
			"%s: its layers have a skip, which no other engine knows and W_o was fitted with: make a plan "
			"for export "
			"with calibrate --compensate, without --skip",
			plan_path);
	run_watch_signals();
	if (!err)
		err = write_beside(dir, plan, patch, out);
	kvs_patch_close(patch);
	kvs_checkpoint_close(ckpt);
	return err;
}
