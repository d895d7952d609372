/*
 * tools/run/text/compare.h: what `kvshare-run compare` runs, measured (compare.c) and traced (compare_page.c).
 */
#ifndef KVS_RUN_COMPARE_H
#define KVS_RUN_COMPARE_H

#include "../run.h"

#include "../../../profiler/profiler.h"

enum run_side { RUN_FULL, RUN_SHARED, RUN_SIDES };

/* Until the device is done. What the engine answers. */
int run_compare_prefill(kvs_engine *engine, const int32_t *ids, int prompt);
int run_compare_decode(kvs_engine *engine, const int32_t *ids, int count);

/*
 * Run the model once without and once with its plan, each traced into a temporary file, and write the page of both to `path`.
 * `ids` has prompt + decode tokens.
 */
int run_compare_page(const struct run_model_options *model, const int32_t *ids, int prompt, int decode,
	const struct kvs_diff_page *page, const char *path);

#endif
