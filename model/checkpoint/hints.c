/*
 * model/checkpoint/hints.c: what people give in place of a model's directory, and what to give instead.
 *
 * Used only when a checkpoint could not be opened: it turns "no such file" into advice. It never opens another model in
 * place of the one that was given.
 */
#include "../file.h"
#include "checkpoint.h"

#include <errno.h>
#include <fcntl.h>
#include <glob.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

static bool ends_in(const char *text, const char *end)
{
	size_t length = strlen(text), tail = strlen(end);

	return length >= tail && !strcmp(text + length - tail, end);
}

/* The first file that matches DIR/pattern, in `path`. */
static bool find(const char *dir, const char *pattern, char *path, size_t room)
{
	char escaped[4096], full[4352];
	size_t at = 0;
	glob_t found;
	bool any;

	for (const char *c = dir; *c && at + 2 < sizeof(escaped); c++) {
		if (strchr("*?[\\", *c))
			escaped[at++] = '\\';
		escaped[at++] = *c;
	}
	escaped[at] = 0;
	snprintf(full, sizeof(full), "%s/%s", escaped, pattern);
	any = !glob(full, 0, NULL, &found) && found.gl_pathc > 0;
	if (any)
		snprintf(path, room, "%s", found.gl_pathv[0]);
	globfree(&found);
	return any;
}

static const char *kind_of_file(const char *path, char *start, size_t room)
{
	int fd = open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK);
	ssize_t got = fd < 0 ? -1 : read(fd, start, room);

	if (fd >= 0)
		close(fd);
	return got > 0 ? model_file_kind(start, got) : NULL;
}

static int explain_file(const char *path)
{
	char start[64];
	const char *kind = kind_of_file(path, start, sizeof(start));

	if (kind)
		return kvs_fail(-EINVAL, "%s is %s", path, kind);
	if (ends_in(path, ".gguf"))
		return kvs_fail(-EINVAL, "%s: does not start as a GGUF file does: is it damaged?", path);
	if (ends_in(path, ".safetensors") || ends_in(path, ".json"))
		return kvs_fail(-EINVAL, "%s is one file of a model: give the directory that holds it", path);
	return kvs_fail(-EINVAL,
		"%s is a file: give a directory with config.json, tokenizer.json and model.safetensors, or a GGUF file",
		path);
}

/* The form of a model's name on the Hub: one slash, and only the characters that are allowed there. */
static bool is_hub_name(const char *name)
{
	const char *slash = strchr(name, '/');

	return slash && slash > name && slash[1] && !strchr(slash + 1, '/') && name[0] != '.' &&
	       strspn(name, "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_./") == strlen(name);
}

static int explain_absent(const char *dir)
{
	if (is_hub_name(dir))
		return kvs_fail(-ENOENT,
			"%s: no such directory; models are not downloaded for you: run "
			"hf download %s --local-dir DIR, and give DIR",
			dir, dir);
	return kvs_fail(-ENOENT, "%s/config.json: no such file, nor such a directory", dir);
}

int ckpt_explain_config(const char *dir)
{
	/* A model in a cache of the Hub, any folder of models or snapshots, the whole cache, its parent. */
	static const char *const nested[] = {"snapshots/*/config.json", "*/config.json", "*/snapshots/*/config.json",
		"hub/*/snapshots/*/config.json"};
	char path[4096];
	struct stat about;

	if (stat(dir, &about))
		return errno == ENOENT ? explain_absent(dir) : kvs_fail(-EIO, "%s: %s", dir, strerror(errno));
	if (!S_ISDIR(about.st_mode))
		return explain_file(dir);
	for (size_t i = 0; i < sizeof(nested) / sizeof(nested[0]); i++) {
		if (find(dir, nested[i], path, sizeof(path))) {
			*strrchr(path, '/') = 0;
			return kvs_fail(-ENOENT, "%s has no config.json, but %s has: give that", dir, path);
		}
	}
	if (find(dir, "adapter_config.json", path, sizeof(path)))
		return kvs_fail(-ENOENT,
			"%s holds an adapter (adapter_config.json), not a model: merge it into its base model first",
			dir);
	if (find(dir, "*.gguf", path, sizeof(path)))
		return kvs_fail(-ENOENT, "%s: no config.json; %s is %s", dir, path, model_file_kind("GGUF", 4));
	return kvs_fail(-ENOENT, "%s/config.json: no such file", dir);
}

int ckpt_explain_weights(const char *dir)
{
	static const char *const pickles[] = {"pytorch_model*.bin", "*.pth", "*.bin", "*.pt"};
	char path[4096];

	for (size_t i = 0; i < sizeof(pickles) / sizeof(pickles[0]); i++) {
		if (find(dir, pickles[i], path, sizeof(path)))
			return kvs_fail(-ENOENT,
				"%s: no model.safetensors; %s is a PyTorch pickle, which can run code and is not "
				"read: convert it (transformers: AutoModelForCausalLM.from_pretrained, then "
				"save_pretrained)",
				dir, path);
	}
	if (find(dir, "*.gguf", path, sizeof(path)))
		return kvs_fail(-ENOENT, "%s: no model.safetensors; %s is %s", dir, path, model_file_kind("GGUF", 4));
	if (find(dir, "adapter_model.safetensors", path, sizeof(path)))
		return kvs_fail(-ENOENT,
			"%s: no model.safetensors; %s is an adapter: merge it into its base model first", dir, path);
	return kvs_fail(-ENOENT, "%s: has neither model.safetensors nor model.safetensors.index.json", dir);
}
