/*
 * model/moved.c: quantised tensors of which a matrix is replaced.
 *
 * They take no other numbers. So such a tensor moves to memory of its own, in f32, where its other parts stay exact. What was loaded
 * stays where it is, and once the checkpoint's matrix is wanted again, the tensor moves back: the same numbers in f32 are
 * multiplied otherwise on some devices.
 */
#include "engine.h"
#include "gguf.h"

#include <errno.h>
#include <stdlib.h>

/* The move of a tensor whose data are, or were, there. NULL: none. */
static struct model_moved *find(const struct model_weights *weights, CUdeviceptr data)
{
	for (int i = 0; i < weights->moved_count; i++)
		if (weights->moved[i].data == data || weights->moved[i].stored.data == data)
			return &weights->moved[i];
	return NULL;
}

/* Memory for a tensor in f32, which it keeps for its next move. */
static int make_room(kvs_engine *e, const kvs_tensor *tensor, const char *name, struct model_moved **out)
{
	struct model_weights *weights = &e->weights;
	struct model_moved *moved = realloc(weights->moved, (weights->moved_count + 1) * sizeof(*moved));
	size_t bytes = (size_t)tensor->rows * tensor->cols * sizeof(float);
	CUresult result;

	if (!moved)
		return kvs_fail(-ENOMEM, "no memory for the list of weights");
	weights->moved = moved;
	moved += weights->moved_count;
	moved->stored = *tensor;
	result = e->cu->cuMemAlloc(&moved->data, bytes);
	if (result)
		return kvs_cu_fail(e->cu, result, "%zu bytes for %s in f32", bytes, name);
	weights->moved_count++;
	weights->bytes += bytes;
	model_note(e, (struct kvs_engine_note){.kind = KVS_NOTE_WEIGHTS, .address = moved->data, .bytes = bytes});
	*out = moved;
	return 0;
}

/* All of a quantised tensor as f32 at `to`. */
static int copy_expanded(kvs_cu *cu, const kvs_tensor *tensor, CUdeviceptr to, const char *name)
{
	size_t row_bytes = kvs_row_bytes(tensor->dtype, tensor->cols), cols = tensor->cols;
	char *row = malloc(row_bytes);
	float *expanded = malloc(cols * sizeof(*expanded));
	int err = row && expanded ? 0 : kvs_fail(-ENOMEM, "no memory for a row of %s", name);
	CUresult result = CUDA_SUCCESS;

	for (int r = 0; r < tensor->rows && !err && !result; r++) {
		result = cu->cuMemcpyDtoH(row, tensor->data + r * row_bytes, row_bytes);
		if (result)
			break;
		model_gguf_dequantize(tensor->dtype, row, expanded, cols);
		result = cu->cuMemcpyHtoD(to + r * cols * sizeof(*expanded), expanded, cols * sizeof(*expanded));
	}
	free(row);
	free(expanded);
	return result ? kvs_cu_fail(cu, result, "expanding %s", name) : err;
}

int model_move_to_f32(kvs_engine *e, kvs_tensor *tensor, const char *name)
{
	struct model_moved *moved = find(&e->weights, tensor->data);
	int err = moved ? 0 : make_room(e, tensor, name, &moved);

	if (!err)
		err = copy_expanded(e->cu, tensor, moved->data, name);
	if (err)
		return err;
	tensor->data = moved->data;
	tensor->dtype = KVS_F32;
	return 0;
}

bool model_move_back(const kvs_engine *e, kvs_tensor *tensor)
{
	const struct model_moved *moved = find(&e->weights, tensor->data);

	if (moved)
		*tensor = moved->stored;
	return kvs_dtype_quantised(tensor->dtype);
}
