/*
 * tests/fuzz/gguf_fuzz.c: any bytes as a GGUF file, as a configuration and as a vocabulary; accepted tensors lie in the
 * file, and an accepted tokenizer encodes and decodes.
 */
#include "../../model/checkpoint/checkpoint.h"
#include "../../model/gguf.h"
#include "../../model/tokenizer/tokenizer.h"

#include <stdint.h>
#include <stdlib.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void check_tensors(const struct model_gguf *gguf, const uint8_t *data, size_t size)
{
	for (size_t i = 0; i < model_gguf_count(gguf); i++) {
		const struct gguf_tensor *tensor = model_gguf_tensor(gguf, i);
		float values[256];
		if (tensor->offset > size || tensor->bytes > size - tensor->offset)
			abort();
		if (!tensor->type->dequantize)
			continue;
		for (uint64_t at = 0; at < tensor->bytes; at += tensor->type->bytes)
			tensor->type->dequantize(data + tensor->offset + at, values);
	}
}

static void check_tokenizer(const struct model_gguf *gguf)
{
	static const char text[] = "the cat 12 \xc3\xa9\n";
	kvs_tokenizer *tok;
	int32_t *ids;
	size_t count, bytes;
	char *back;

	if (tok_gguf_parse(gguf, &tok))
		return;
	if (!kvs_tokenizer_encode(tok, text, sizeof(text) - 1, true, &ids, &count)) {
		if (!kvs_tokenizer_decode(tok, ids, count, false, &back, &bytes))
			free(back);
		free(ids);
	}
	kvs_tokenizer_close(tok);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	struct model_gguf *gguf;
	struct kvs_config config;

	if (model_gguf_parse(data, size, size, "fuzz", &gguf))
		return 0;
	check_tensors(gguf, data, size);
	if (!ckpt_gguf_config(&(struct ckpt_gguf_part){gguf, NULL}, 1, &config))
		kvs_config_clear(&config);
	check_tokenizer(gguf);
	model_gguf_close(gguf);
	return 0;
}
