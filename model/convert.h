/*
 * model/convert.h: numbers of the types that weights have. Private to model/.
 */
#ifndef KVS_MODEL_CONVERT_H
#define KVS_MODEL_CONVERT_H

#include "model.h"

/* Elements first .. first + count - 1 of `in`, which has any float type and any alignment. */
void model_to_f32(float *out, const void *in, enum kvs_dtype dtype, size_t first, size_t count);
/* The other way, rounded to the nearest; `out` of any alignment. */
void model_from_f32(void *out, const float *in, enum kvs_dtype dtype, size_t count);
/* To `dtype` and back: what a checkpoint of that type would hold. */
void model_round(float *values, enum kvs_dtype dtype, size_t count);

#endif
