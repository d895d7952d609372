/*
 * tests/support/gguf.h: writes GGUF files, among them storyworld-3m's, as llama.cpp's converter would; every misstep fails
 * the test.
 */
#ifndef KVS_TESTS_GGUF_H
#define KVS_TESTS_GGUF_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>

struct gguf_writer {
	FILE *keys, *infos, *data;
	char *key_bytes, *info_bytes, *data_bytes;
	size_t key_size, info_size, data_size;
	uint64_t key_count, tensor_count;
	uint32_t version;
	bool doubles; /* a key may come twice; otherwise the first stays, and a later one of its name is dropped */
	long dropped; /* where the last key starts, if it is dropped; 0: it is not */
	enum {
		GGUF_PLAIN,
		GGUF_Q8_0,
		GGUF_ROUNDED
	} matrices; /* of storyworld: F32, Q8_0, or F32 that went through Q8_0 */
};

void gguf_begin(struct gguf_writer *to);
void gguf_u32(struct gguf_writer *to, const char *key, uint32_t value);
void gguf_f32(struct gguf_writer *to, const char *key, float value);
void gguf_bool(struct gguf_writer *to, const char *key, bool value);
void gguf_string(struct gguf_writer *to, const char *key, const char *value);
void gguf_strings(struct gguf_writer *to, const char *key, const char *const *list, size_t count);
/* `count` numbers of `bytes` bytes each, of a type by GGUF's number; gguf_numbers(): of 4 bytes. */
void gguf_list(struct gguf_writer *to, const char *key, uint32_t type, const void *list, size_t count, size_t bytes);
void gguf_numbers(struct gguf_writer *to, const char *key, uint32_t type, const void *list, size_t count);
/* `cols` 0: a vector. */
void gguf_tensor(struct gguf_writer *to, const char *name, uint32_t type, uint64_t rows, uint64_t cols,
	const void *data, size_t bytes);
/* The file's bytes, which the caller frees. */
char *gguf_end(struct gguf_writer *to, size_t *bytes);
void gguf_save(struct gguf_writer *to, const char *path);

/* The keys of a tokenizer.json with a byte-level BPE. */
void gguf_tokenizer(struct gguf_writer *to, const char *json, const char *pre);
/* tests/models/storyworld-3m in F32, or as `matrices` says, but for its architecture's keys and vocabulary; part `part` of `parts`. */
void gguf_storyworld_keys(struct gguf_writer *to);
void gguf_storyworld_tensors(struct gguf_writer *to, int part, int parts);

#endif
