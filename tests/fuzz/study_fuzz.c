/*
 * tests/fuzz/study_fuzz.c: any bytes as the study.json from which a study continues.
 *
 * An accepted file is written again; the result must be accepted too, and give the same bytes.
 */
#include <jansson.h>
#include <math.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "../../calib/study/study.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void require(bool holds)
{
	if (!holds)
		abort();
}

/* Two texts to search with, the second cut in only one way, and two numbers of layers. */
static kvs_study *fresh_study(void)
{
	kvs_study *study = calloc(1, sizeof(*study));

	require(study != NULL);
	study->layers = 4;
	study->kv_heads = 1;
	study->head_dim = 32;
	study->full_nll = NAN;
	study->settings = json_pack("{s:i,s:s}", "layers", 4, "text_digest", "m");
	study->cut_count = 2;
	for (int c = 0; c < 2; c++) {
		study->cuts[c].samples = 2 + c;
		snprintf(study->cuts[c].text.digest, sizeof(study->cuts[c].text.digest), "d%d", c);
	}
	study->measured.windows = 1;
	study->measured.window_tokens = 16;
	study->shares[0] = 1;
	study->shares[1] = 2;
	study->share_count = 2;
	return study;
}

static int resume(kvs_study *study, const void *data, size_t size)
{
	char path[64];
	int fd = memfd_create("study", 0), err;

	require(fd >= 0 && write(fd, data, size) == (ssize_t)size);
	snprintf(path, sizeof(path), "/proc/self/fd/%d", fd);
	err = kvs_study_resume(study, path);
	require(!err || strstr(kvs_error(), path));
	close(fd);
	return err;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	kvs_study *study = fresh_study(), *again;
	char *json, *other;

	if (!resume(study, data, size)) {
		again = fresh_study();
		require(!kvs_study_json(study, &json));
		require(!resume(again, json, strlen(json)));
		require(!kvs_study_json(again, &other));
		require(!strcmp(json, other));
		free(json);
		free(other);
		kvs_study_free(again);
	}
	kvs_study_free(study);
	return 0;
}
