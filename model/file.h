/*
 * model/file.h: reading the files of a model. Private to model/.
 */
#ifndef KVS_MODEL_FILE_H
#define KVS_MODEL_FILE_H

#include <stddef.h>
#include <stdint.h>

struct model_file {
	int fd;
	uint64_t bytes;
	char *path; /* for messages */
};

/* -ENOENT, -EINVAL (a pipe, a directory or another thing that is no regular file), -EIO, -ENOMEM. */
int model_file_open(const char *dir, const char *name, struct model_file *out);
int model_file_open_path(const char *path, struct model_file *out);
void model_file_close(struct model_file *file);
/* Bytes first .. first + bytes - 1. -EIO, also if the file ends before. */
int model_file_read(const struct model_file *file, uint64_t first, void *out, size_t bytes);
/* The whole of a text file, NUL-terminated. The caller frees *text. Errors as above; -EINVAL above 256 MiB. */
int model_file_load(const char *dir, const char *name, char **text, size_t *bytes);

/*
 * Recognises, by its first bytes, a file that people often have in place of the one they mean (a Git LFS pointer, a GGUF
 * file, a pickle, a web page): the end of a message that says what it is and what to do. NULL: none of these.
 */
const char *model_file_kind(const void *start, size_t bytes);

#endif
