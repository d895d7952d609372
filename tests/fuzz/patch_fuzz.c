/*
 * tests/fuzz/patch_fuzz.c: any bytes as a plan's patch: every byte of every matrix is read, and skips are looked for in a model of
 * six layers. What passes the check has the names and shapes of the model's matrices, or both halves of a skip for layers that share.
 */
#include "../../model/engine.h"

#include <assert.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

enum { LAYERS = 6, MATRICES = 64 };
static const struct kvs_config config = {.layers = LAYERS, .hidden = 4, .ff = 8, .heads = 2, .head_dim = 2};
static volatile unsigned char sink; /* keeps the reads from being optimised away */

static void read_matrix(const struct kvs_patch_matrix *matrix)
{
	size_t bytes = (size_t)matrix->rows * matrix->cols * kvs_dtype_bytes(matrix->dtype);

	for (size_t i = 0; i < bytes; i++)
		sink = ((const unsigned char *)matrix->data)[i];
}

static void check_matrices(kvs_patch *patch, const kvs_plan *plan)
{
	struct kvs_patch_matrix all[MATRICES], a, b;
	size_t count = kvs_patch_count(patch);
	int layer;
	char which;

	bool fits = !model_patch_check_shapes(patch, plan, &config);

	if (model_patch_read(patch))
		abort();
	for (size_t i = 0; i < count && i < MATRICES; i++) {
		kvs_patch_get(patch, i, &all[i]);
		read_matrix(&all[i]);
	}
	if (!model_patch_check_numbers(patch))
		sink = 1;
	if (count > MATRICES || !fits)
		return;
	for (size_t i = 0; i < count; i++) {
		if (!model_skip_parse(all[i].name, &layer, &which)) {
			assert(!strncmp(all[i].name, "model.layers.", 13) && all[i].rows <= 8 && all[i].cols <= 8);
			continue;
		}
		assert(kvs_patch_has_skip(patch) && layer >= 0 && layer < LAYERS &&
			kvs_plan_owner(plan, layer, KVS_K) != layer);
		assert(!model_patch_skip(patch, layer, &config, &a, &b));
		assert(a.cols == config.hidden && b.rows == config.hidden && a.rows == b.cols && a.rows > 0 &&
			a.rows <= 4);
	}
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	char path[64];
	int fd = memfd_create("patch", 0);
	kvs_patch *patch;
	kvs_plan *plan;

	if (fd < 0 || write(fd, data, size) != (ssize_t)size || kvs_plan_parse("0,1,1,3,4,1", &plan))
		abort();
	snprintf(path, sizeof(path), "/proc/self/fd/%d", fd);
	if (!kvs_patch_open(path, &patch)) {
		check_matrices(patch, plan);
		kvs_patch_close(patch);
	}
	kvs_plan_free(plan);
	close(fd);
	return 0;
}
