/* model/digest.c: FNV-1a of 128 bits. */
#include "digest.h"

#include <stdio.h>

model_digest model_digest_add(model_digest digest, const void *data, size_t bytes)
{
	const model_digest prime = ((model_digest)1 << 88) + 0x13b;
	const unsigned char *at = data;

	for (size_t i = 0; i < bytes; i++)
		digest = (digest ^ at[i]) * prime;
	return digest;
}

void model_digest_print(model_digest digest, char text[MODEL_DIGEST_TEXT])
{
	snprintf(text, MODEL_DIGEST_TEXT, "%016llx%016llx", (unsigned long long)(digest >> 64),
		(unsigned long long)digest);
}
