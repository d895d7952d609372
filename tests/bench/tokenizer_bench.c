/*
 * tests/bench/tokenizer_bench.c: how long tokenizers take to load, and how fast they encode English prose: our documentation, up to
 * 1 MB of it. In seconds of CPU, the best of five, as other programs may be running; both are work of one thread.
 * usage: tokenizer_bench [TOKENIZER.json...]     (default: the small ones of tests/golden; make check-vocab has real ones)
 */
#include <glob.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "../../model/model.h"

#define TEXT_BYTES 1000000
#define ROUNDS 5

static double now_s(void)
{
	struct timespec now;

	clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &now);
	return now.tv_sec + 1e-9 * now.tv_nsec;
}

static size_t read_file(const char *path, char *to, size_t room)
{
	FILE *file = fopen(path, "r");
	size_t bytes = file ? fread(to, 1, room, file) : 0;

	if (file)
		fclose(file);
	return bytes;
}

static size_t read_text(char *text)
{
	size_t bytes = 0;
	glob_t found;

	if (glob("docs/*.md", 0, NULL, &found))
		return 0;
	for (size_t i = 0; i < found.gl_pathc; i++)
		bytes += read_file(found.gl_pathv[i], text + bytes, TEXT_BYTES - bytes);
	globfree(&found);
	return bytes;
}

/* Seconds of the fastest round; < 0: failed. */
static double encode_s(const kvs_tokenizer *tok, const char *text, size_t bytes, size_t *tokens)
{
	double best = 1e9;

	for (int i = 0; i < ROUNDS; i++) {
		double start = now_s(), took;
		int32_t *ids;
		if (kvs_tokenizer_encode(tok, text, bytes, false, &ids, tokens))
			return -1;
		took = now_s() - start;
		best = took < best ? took : best;
		free(ids);
	}
	return best;
}

static char *read_json(const char *path, size_t *bytes)
{
	FILE *file = fopen(path, "r");
	char *json = NULL;
	size_t room = 0;
	ssize_t read = file ? getdelim(&json, &room, EOF, file) : -1;

	if (file)
		fclose(file);
	if (read < 0) {
		fprintf(stderr, "%s: cannot be read\n", path);
		free(json);
		return NULL;
	}
	*bytes = (size_t)read;
	return json;
}

/* Opens the tokenizer; seconds of the fastest round, < 0: failed. */
static double load_s(const char *path, kvs_tokenizer **out)
{
	double best = 1e9;

	*out = NULL;
	for (int i = 0; i < ROUNDS; i++) {
		size_t bytes;
		double start = now_s(), took;
		char *json = read_json(path, &bytes);
		kvs_tokenizer_close(*out);
		*out = NULL;
		if (!json || kvs_tokenizer_parse(json, bytes, path, out)) {
			if (json)
				fprintf(stderr, "%s\n", kvs_error());
			free(json);
			return -1;
		}
		free(json);
		took = now_s() - start;
		best = took < best ? took : best;
	}
	return best;
}

static int measure(const char *path, const char *text, size_t bytes)
{
	const char *name = strrchr(path, '/');
	size_t tokens = 0;
	kvs_tokenizer *tok;
	double load = load_s(path, &tok), encode;

	if (load < 0)
		return 1;
	encode = encode_s(tok, text, bytes, &tokens);
	printf("%-24s %7d tokens: loads in %6.1f ms, encodes %6.1f MB/s, %.2f bytes a token\n", name ? name + 1 : path,
		kvs_tokenizer_vocab(tok), 1000 * load, bytes / encode / 1e6, (double)bytes / tokens);
	kvs_tokenizer_close(tok);
	return encode < 0;
}

int main(int argc, char **argv)
{
	char *text = malloc(TEXT_BYTES);
	size_t bytes = text ? read_text(text) : 0;
	glob_t found = {0};
	int failed = !bytes;

	if (argc < 2 && !glob("tests/golden/tokenizers/*.json", 0, NULL, &found)) {
		argc = (int)found.gl_pathc + 1;
		argv = found.gl_pathv - 1;
	}
	for (int i = 1; i < argc && bytes; i++)
		failed |= measure(argv[i], text, bytes);
	globfree(&found);
	free(text);
	return failed;
}
