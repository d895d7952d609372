/*
 * model/digest.h: FNV-1a of 128 bits (Fowler, Noll, Vo): notices mistakes, not forgery. Private to model/.
 */
#ifndef KVS_MODEL_DIGEST_H
#define KVS_MODEL_DIGEST_H

#include <stddef.h>

typedef unsigned __int128 model_digest;
#define MODEL_DIGEST_START ((model_digest)0x6c62272e07bb0142 << 64 | 0x62b821756295c58d)
#define MODEL_DIGEST_TEXT 33 /* bytes: 32 hex digits and NUL */

model_digest model_digest_add(model_digest digest, const void *data, size_t bytes);
void model_digest_print(model_digest digest, char text[MODEL_DIGEST_TEXT]);

#endif
