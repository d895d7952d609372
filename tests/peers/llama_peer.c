/*
 * tests/peers/llama_peer.c: one run of llama.cpp, by its own C interface and with its defaults, and how long its parts took.
 *
 * Reads a prompt, cuts or refuses nothing: the text must be exactly the tokens that the caller expects, so that every engine does
 * the same work. Prints one JSON object. Built by tests/peers/run.sh.
 * usage: llama_peer MODEL.gguf TEXT PROMPT_TOKENS NEW_TOKENS THREADS
 */
#include <stdio.h>
#include <stdlib.h>
#include <time.h>

#include "llama.h"

static double now_s(void)
{
	struct timespec now;

	clock_gettime(CLOCK_MONOTONIC, &now);
	return now.tv_sec + 1e-9 * now.tv_nsec;
}

static void quiet(enum ggml_log_level level, const char *text, void *arg)
{
	(void)arg;
	if (level == GGML_LOG_LEVEL_ERROR)
		fputs(text, stderr);
}

static char *read_text(const char *path, int *bytes)
{
	FILE *file = fopen(path, "r");
	char *text = NULL;
	size_t room = 0;
	ssize_t read = file ? getdelim(&text, &room, EOF, file) : -1;

	if (file)
		fclose(file);
	*bytes = (int)read;
	return text;
}

static llama_token likeliest(struct llama_context *context, int vocab)
{
	const float *logits = llama_get_logits_ith(context, -1);
	llama_token best = 0;

	for (llama_token id = 1; id < vocab; id++)
		best = logits[id] > logits[best] ? id : best;
	return best;
}

/* Decodes the prompt and `count` tokens after the first; false: llama.cpp failed. */
static bool generate(struct llama_context *context, int vocab, llama_token *ids, int prompt, int count,
	double *prefill_s, double *decode_s)
{
	double start = now_s(), between;
	bool good = !llama_decode(context, llama_batch_get_one(ids, prompt));
	llama_token next = good ? likeliest(context, vocab) : 0;

	between = now_s();
	for (int i = 0; i < count && good; i++) {
		good = !llama_decode(context, llama_batch_get_one(&next, 1));
		next = good ? likeliest(context, vocab) : 0;
	}
	*prefill_s = between - start;
	*decode_s = now_s() - between;
	return good;
}

int main(int argc, char **argv)
{
	int prompt = argc == 6 ? atoi(argv[3]) : 0, count = argc == 6 ? atoi(argv[4]) : 0, bytes, found;
	double start = now_s(), load, prefill_s, decode_s;
	struct llama_context_params settings = llama_context_default_params();
	char *text = argc == 6 ? read_text(argv[2], &bytes) : NULL;
	llama_token *ids = malloc(((size_t)prompt + 1) * sizeof(*ids));
	struct llama_model *model;
	struct llama_context *context;

	if (!text || !ids || prompt < 1)
		return 2;
	llama_log_set(quiet, NULL);
	llama_backend_init();
	model = llama_model_load_from_file(argv[1], llama_model_default_params());
	settings.n_ctx = (uint32_t)(prompt + count + 1);
	settings.n_threads = settings.n_threads_batch = atoi(argv[5]);
	settings.n_batch = (uint32_t)prompt; /* at once; n_ubatch cuts it */
	context = model ? llama_init_from_model(model, settings) : NULL;
	if (!context)
		return 1;
	load = now_s() - start;
	found = llama_tokenize(llama_model_get_vocab(model), text, bytes, ids, prompt + 1, true, false);
	if (found != prompt) {
		fprintf(stderr, "llama_peer: the text has %d tokens, expected are %d\n", found, prompt);
		return 1;
	}
	if (!generate(context, llama_vocab_n_tokens(llama_model_get_vocab(model)), ids, prompt, count, &prefill_s,
		    &decode_s))
		return 1;
	printf("{\"load_s\":%.6f,\"prefill_s\":%.6f,\"decode_s\":%.6f}\n", load, prefill_s, decode_s);
	return 0;
}
