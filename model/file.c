/*
 * model/file.c: reading the files of a model.
 *
 * Files are read here, not mapped: if one is truncated meanwhile (a download that restarts, a full disk), that ends in a
 * message and not in SIGBUS. (Weights that the host device reads in place are mapped.c's.) Only regular files are read: a pipe would be waited for.
 */
#include "file.h"

#include "../driver/cu.h"

#include <errno.h>
#include <fcntl.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#define MAX_TEXT_BYTES (256 << 20) /* the largest published tokenizer.json is about 35 MiB */

static int open_regular(struct model_file *file)
{
	struct stat about;

	file->fd = open(file->path, O_RDONLY | O_CLOEXEC | O_NONBLOCK); /* a pipe is refused below, not waited for */
	if (file->fd < 0 && (errno == ENOENT || errno == ENOTDIR))
		return kvs_fail(-ENOENT, "%s: no such file", file->path);
	if (file->fd < 0 || fstat(file->fd, &about))
		return kvs_fail(-EIO, "%s: %s", file->path, strerror(errno));
	if (!S_ISREG(about.st_mode))
		return kvs_fail(-EINVAL, "%s: not a regular file", file->path);
	file->bytes = about.st_size;
	return 0;
}

int model_file_open(const char *dir, const char *name, struct model_file *out)
{
	int err;

	*out = (struct model_file){.fd = -1};
	if (asprintf(&out->path, "%s/%s", dir, name) < 0) {
		out->path = NULL;
		return kvs_fail(-ENOMEM, "%s: no memory to open %s", dir, name);
	}
	err = open_regular(out);
	if (err)
		model_file_close(out);
	return err;
}

int model_file_open_path(const char *path, struct model_file *out)
{
	int err;

	*out = (struct model_file){.fd = -1, .path = strdup(path)};
	if (!out->path)
		return kvs_fail(-ENOMEM, "%s: no memory to open it", path);
	err = open_regular(out);
	if (err)
		model_file_close(out);
	return err;
}

void model_file_close(struct model_file *file)
{
	if (file->path && file->fd >= 0)
		close(file->fd);
	free(file->path);
	*file = (struct model_file){.fd = -1};
}

int model_file_read(const struct model_file *file, uint64_t first, void *out, size_t bytes)
{
	size_t done = 0;

	while (done < bytes) {
		ssize_t got = pread(file->fd, (char *)out + done, bytes - done, (off_t)(first + done));
		if (got < 0 && errno == EINTR)
			continue;
		if (got < 0)
			return kvs_fail(-EIO, "%s: %s", file->path, strerror(errno));
		if (got == 0)
			return kvs_fail(-EIO, "%s: ends at byte %llu, it had %llu when it was opened: was it changed?",
				file->path, (unsigned long long)(first + done), (unsigned long long)file->bytes);
		done += got;
	}
	return 0;
}

int model_file_load(const char *dir, const char *name, char **text, size_t *bytes)
{
	struct model_file file;
	int err = model_file_open(dir, name, &file);

	if (err)
		return err;
	*bytes = file.bytes;
	*text = file.bytes > MAX_TEXT_BYTES ? NULL : malloc(file.bytes + 1);
	if (file.bytes > MAX_TEXT_BYTES)
		err = kvs_fail(-EINVAL, "%s: %llu bytes are too many", file.path, (unsigned long long)file.bytes);
	else if (!*text)
		err = kvs_fail(-ENOMEM, "%s: no memory for %zu bytes", file.path, *bytes);
	else
		err = model_file_read(&file, 0, *text, *bytes);
	if (err) {
		free(*text);
		*text = NULL;
	} else {
		(*text)[*bytes] = 0;
	}
	model_file_close(&file);
	return err;
}

const char *model_file_kind(const void *start, size_t bytes)
{
	static const struct {
		const char *start, *kind;
	} kinds[] = {
		{"version https://git-lfs", "a Git LFS pointer and not the file itself: run git lfs pull there"},
		{"GGUF", "a GGUF file: give the file itself as the model"},
		{"PK\3\4", "a PyTorch pickle: convert it to safetensors"},
		{"\x80\2", "a PyTorch pickle: convert it to safetensors"},
		{"<", "a web page and not the file itself: download it again"},
	};

	for (size_t i = 0; i < sizeof(kinds) / sizeof(kinds[0]); i++) {
		size_t length = strlen(kinds[i].start);
		if (bytes >= length && !memcmp(start, kinds[i].start, length))
			return kinds[i].kind;
	}
	return NULL;
}
