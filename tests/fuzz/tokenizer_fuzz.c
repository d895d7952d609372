/*
 * tests/fuzz/tokenizer_fuzz.c: no file crashes the tokenizer.
 *
 * The input is a tokenizer.json, a NUL, and text. A tokenizer that loads must encode the text and decode the ids, with
 * the same text from a stream and from decode; one that does not load must leave a message.
 */
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include "../../driver/cu.h"
#include "../../model/model.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void require(bool holds)
{
	if (!holds)
		abort();
}

static void stream_all(const kvs_tokenizer *tok, const int32_t *ids, size_t count, const char *want, size_t len)
{
	kvs_text_stream *ts;
	const char *text;
	size_t bytes, done = 0;

	require(!kvs_text_stream_create(tok, true, &ts));
	for (size_t i = 0; i <= count; i++) {
		require(!(i < count ? kvs_text_stream_push(ts, ids[i], &text, &bytes)
				    : kvs_text_stream_finish(ts, &text, &bytes)));
		require(done + bytes <= len && !memcmp(want + done, text, bytes));
		done += bytes;
	}
	require(done == len);
	kvs_text_stream_free(ts);
}

static void use(const kvs_tokenizer *tok, const char *text, size_t bytes)
{
	int32_t *ids = NULL;
	size_t count, len;
	char *back;

	require(!kvs_tokenizer_encode(tok, NULL, 0, false, &ids, &count)); /* no text at all is an empty text */
	free(ids);
	if (kvs_tokenizer_encode(tok, text, bytes, true, &ids, &count)) {
		require(*kvs_error());
		return;
	}
	for (size_t i = 0; i < count; i++)
		require(ids[i] >= 0 && ids[i] < kvs_tokenizer_vocab(tok));
	require(!kvs_tokenizer_decode(tok, ids, count, true, &back, &len));
	stream_all(tok, ids, count, back, len);
	free(back);
	free(ids);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	const uint8_t *nul = memchr(data, 0, size);
	size_t json_bytes = nul ? (size_t)(nul - data) : size;
	kvs_tokenizer *tok = NULL;

	if (kvs_tokenizer_parse((const char *)data, json_bytes, "tokenizer.json", &tok)) {
		require(!strncmp(kvs_error(), "tokenizer.json", 14));
		return 0;
	}
	use(tok, nul ? (const char *)nul + 1 : "a", nul ? size - json_bytes - 1 : 1);
	kvs_tokenizer_close(tok);
	return 0;
}
