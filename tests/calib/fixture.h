/*
 * tests/calib/fixture.h: a small random model with a text of random tokens, captured if wanted, for the tests of searches and of what
 * they run.
 */
#ifndef KVS_TESTS_CALIB_FIXTURE_H
#define KVS_TESTS_CALIB_FIXTURE_H

#include "../../calib/calib.h"

#include <errno.h>
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include <cmocka.h>

#define MODEL "tests/golden/models/llama3.2"
#define WINDOWED "tests/golden/models/qwen2-window"
#define SAMPLES 3
#define SAMPLE_TOKENS 12
#define WINDOWS 3
#define WINDOW_TOKENS 20

static kvs_cu *cu;

struct fixture {
	kvs_checkpoint *ckpt;
	kvs_engine *engine;
	struct kvs_calib_text text;
	struct kvs_capture capture;
	kvs_rerun *rerun; /* NULL: none yet */
	int layers, vocab;
};

static inline void must(int err)
{
	if (err)
		fail_msg("%s", kvs_error());
}

static inline int32_t *random_ids(size_t count, int vocab)
{
	int32_t *ids = malloc(sizeof(*ids) * count);
	unsigned seed = 7;

	assert_non_null(ids);
	for (size_t i = 0; i < count; i++)
		ids[i] = rand_r(&seed) % vocab;
	return ids;
}

/* Without a capture. */
static inline struct fixture open_fixture_with(
	const char *model, const struct kvs_engine_options *options, int windows, int window_tokens)
{
	struct fixture f = {.text = {.samples = SAMPLES,
				    .sample_tokens = SAMPLE_TOKENS,
				    .windows = windows,
				    .window_tokens = window_tokens,
				    .held_back = true,
				    .digest = "0123456789abcdef"}};

	must(kvs_checkpoint_open(model, &f.ckpt));
	f.layers = kvs_checkpoint_config(f.ckpt)->layers;
	f.vocab = kvs_checkpoint_config(f.ckpt)->vocab;
	f.text.ids = random_ids(SAMPLES * SAMPLE_TOKENS, f.vocab);
	f.text.window_ids = random_ids((size_t)windows * window_tokens, f.vocab);
	f.text.window_targets = random_ids((size_t)windows * window_tokens, f.vocab);
	must(kvs_calib_open_engine(cu, f.ckpt, options, &f.text, 1, &f.engine));
	return f;
}

static inline struct fixture open_fixture_of(const char *model, int rows, int windows, int window_tokens)
{
	struct kvs_engine_options options = {.kv_dtype = KVS_F32, .kv_dtype_set = true, .chunk_tokens = rows};
	struct fixture f = open_fixture_with(model, &options, windows, window_tokens);

	must(kvs_capture_run(f.engine, &f.text, NULL, &f.capture));
	return f;
}

static inline struct fixture open_fixture(const char *model, int rows)
{
	return open_fixture_of(model, rows, WINDOWS, WINDOW_TOKENS);
}

/* Replaces the rerun. */
static inline void keep_residuals(struct fixture *f, int tokens, int copies)
{
	kvs_rerun_free(f->rerun);
	must(kvs_rerun_create(f->engine, tokens, copies, &f->rerun));
}

static inline void close_fixture(struct fixture *f)
{
	kvs_rerun_free(f->rerun);
	kvs_capture_clear(&f->capture);
	kvs_engine_close(f->engine);
	kvs_calib_text_clear(&f->text);
	kvs_checkpoint_close(f->ckpt);
}

static inline struct kvs_search_result search(struct fixture *f, const struct kvs_search_options *options)
{
	struct kvs_search_result result;

	must(kvs_search_run(f->engine, &f->text, &f->capture, options, &result));
	return result;
}

static inline kvs_plan *plan_of(const char *owners)
{
	kvs_plan *plan;

	must(kvs_plan_parse(owners, &plan));
	return plan;
}

static inline int open_device(void **state)
{
	const char *device = getenv("KVS_TEST_DEVICE");

	(void)state;
	return kvs_cu_open(device ? device : "host", &cu);
}

static inline int close_device(void **state)
{
	(void)state;
	kvs_cu_close(cu);
	return 0;
}

#endif
