/*
 * tests/fuzz/safetensors_fuzz.c: any bytes as a safetensors file; every byte of every accepted tensor is read.
 */
#include "../../model/model.h"

#include <stdint.h>
#include <stdlib.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static volatile unsigned char sink; /* keeps the reads from being optimised away */

static void read_tensor(const uint8_t *file, const struct kvs_weight *weight)
{
	const unsigned char *bytes = file + weight->offset;
	size_t elements = 1;

	for (int i = 0; i < weight->rank; i++)
		elements *= (size_t)weight->shape[i];
	if (elements * kvs_dtype_bytes(weight->dtype) != weight->bytes)
		abort();
	for (size_t i = 0; i < weight->bytes; i++)
		sink = bytes[i];
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	struct kvs_safetensors *st;

	if (kvs_safetensors_parse(data, size, "fuzz", &st))
		return 0;
	for (size_t i = 0; i < kvs_safetensors_count(st); i++) {
		struct kvs_weight weight;
		const char *name;
		if (!kvs_safetensors_get(st, i, &name, &weight))
			read_tensor(data, &weight);
	}
	kvs_safetensors_free(st);
	return 0;
}
