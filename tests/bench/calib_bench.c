/*
 * tests/bench/calib_bench.c: the time of a search, in passes of the model, and its memory.
 *
 * kvsharer passes over the samples, nll over the held-back text, for which it runs the upper layers only.
 *
 * The aim: time at most (1 + trials) passes and a tenth, memory at most the mean K and V of all layers and the hidden
 * states of the samples; for kvsharer, which starts trials in the middle of the model, eight residuals of the samples and their K and V
 * too. A pass is timed before and after the search, and the mean taken, so that a noisy machine is
 * noisy for both.
 *
 * Memory is the peak of allocated host memory, counted here in malloc, plus the device memory in use according to the
 * driver, less the peak of a pass alone. The host device's launches under way are in malloc too: hundreds of KiB for a
 * pass, and the more the more sequences it has. So the pass to compare with is the more expensive of the two that the
 * search makes: over the samples, by capture, or over the text of the trials.
 */
#include "../../calib/calib.h"

#include <errno.h>
#include <malloc.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#define MODEL "tests/models/storyworld-3m"
#define TEXT MODEL "/calib.txt"
#define SHARE 4

/* ---- malloc, counted ---- */

extern void *__libc_malloc(size_t bytes);
extern void *__libc_calloc(size_t count, size_t bytes);
extern void *__libc_realloc(void *old, size_t bytes);
extern void __libc_free(void *old);

static atomic_size_t held_bytes, peak_bytes;
static atomic_size_t device_bytes, peak_both; /* of the device, since the search began; the peak of both together */

static void raise_peak(atomic_size_t *to, size_t now)
{
	size_t peak = atomic_load(to);

	while (now > peak && !atomic_compare_exchange_weak(to, &peak, now))
		;
}

static void *count_in(void *memory)
{
	size_t now =
		memory ? atomic_fetch_add(&held_bytes, malloc_usable_size(memory)) + malloc_usable_size(memory) : 0;

	raise_peak(&peak_bytes, now);
	raise_peak(&peak_both, now + atomic_load(&device_bytes));
	return memory;
}

void *malloc(size_t bytes)
{
	return count_in(__libc_malloc(bytes));
}

void *calloc(size_t count, size_t bytes)
{
	return count_in(__libc_calloc(count, bytes));
}

void *realloc(void *old, size_t bytes)
{
	atomic_fetch_sub(&held_bytes, old ? malloc_usable_size(old) : 0);
	return count_in(__libc_realloc(old, bytes));
}

void free(void *old)
{
	atomic_fetch_sub(&held_bytes, old ? malloc_usable_size(old) : 0);
	__libc_free(old);
}

/* ---- the search ---- */

struct bench {
	kvs_cu *cu;
	kvs_checkpoint *ckpt;
	kvs_tokenizer *tokenizer;
	kvs_engine *engine;
	struct kvs_calib_text text;
	size_t device_free, peak_device; /* before the search; the most used since */
};

static double now_s(void)
{
	struct timespec now;

	clock_gettime(CLOCK_MONOTONIC, &now);
	return now.tv_sec + now.tv_nsec * 1e-9;
}

static size_t device_free(const struct bench *bench)
{
	size_t left = 0, total;

	bench->cu->cuMemGetInfo(&left, &total);
	return left;
}

static void look_at_device(struct bench *bench)
{
	size_t left = device_free(bench), now = left < bench->device_free ? bench->device_free - left : 0;

	if (now > bench->peak_device)
		bench->peak_device = now;
	atomic_store(&device_bytes, now);
	raise_peak(&peak_both, atomic_load(&held_bytes) + now);
}

/* Called once a trial, which catches blocks of the cache, and (below) wherever something is allocated or freed. */
static bool watch_device(void *arg, const char *what, size_t done, size_t total)
{
	(void)what, (void)done, (void)total;
	look_at_device(arg);
	return true;
}

static struct bench *watched;
static CUresult(CUDAAPI *device_alloc)(CUdeviceptr *out, size_t bytes);
static CUresult(CUDAAPI *device_release)(CUdeviceptr address);

static CUresult CUDAAPI watched_alloc(CUdeviceptr *out, size_t bytes)
{
	CUresult result = device_alloc(out, bytes);

	look_at_device(watched);
	return result;
}

static CUresult CUDAAPI watched_release(CUdeviceptr address)
{
	CUresult result = device_release(address);

	look_at_device(watched);
	return result;
}

static void watch_allocations(struct bench *bench)
{
	watched = bench;
	device_alloc = bench->cu->cuMemAlloc;
	device_release = bench->cu->cuMemFree;
	bench->cu->cuMemAlloc = watched_alloc;
	bench->cu->cuMemFree = watched_release;
}

static int open_bench(struct bench *bench, const char *device)
{
	static char story[1 << 20];
	FILE *file = fopen(TEXT, "rb");
	size_t bytes = file ? fread(story, 1, sizeof(story), file) : 0;
	struct kvs_calib_text_options options = {0}; /* calibrate's defaults */
	int err = file ? 0 : kvs_fail(-ENOENT, TEXT " is not there");

	if (file)
		fclose(file);
	if (!err)
		err = kvs_cu_open(device, &bench->cu);
	if (!err)
		watch_allocations(bench);
	if (!err)
		err = kvs_checkpoint_open(MODEL, &bench->ckpt);
	if (!err)
		err = kvs_tokenizer_open(MODEL, &bench->tokenizer);
	if (!err)
		err = kvs_calib_text_cut(bench->tokenizer, story, bytes, &options, &bench->text);
	return err ? err : kvs_calib_open_engine(bench->cu, bench->ckpt, NULL, &bench->text, 1, &bench->engine);
}

static void close_bench(struct bench *bench)
{
	kvs_engine_close(bench->engine);
	kvs_calib_text_clear(&bench->text);
	kvs_tokenizer_close(bench->tokenizer);
	kvs_checkpoint_close(bench->ckpt);
	kvs_cu_close(bench->cu);
}

/* A pass of the unshared model over the text of a search: the samples, or (nll) the windows. */
static int pass(struct bench *bench, enum kvs_method method, double *seconds)
{
	const struct kvs_calib_text *text = &bench->text;
	bool windows = method == KVS_METHOD_NLL;
	struct kvs_batch batch = {.tokens = windows ? text->window_tokens : text->sample_tokens};
	const int32_t *ids = windows ? text->window_ids : text->ids;
	int count = windows ? text->windows : text->samples;
	int together = kvs_engine_batch_rows(bench->engine) / batch.tokens;
	double start = now_s();
	int err = kvs_engine_set_plan(bench->engine, NULL);

	for (int s = 0; s < count && !err; s += batch.sequences) {
		batch.sequences = count - s < together ? count - s : together;
		batch.ids = ids + (size_t)s * batch.tokens;
		err = kvs_engine_run_batch(bench->engine, &batch);
	}
	if (!err)
		err = kvs_engine_wait(bench->engine);
	*seconds = now_s() - start;
	return err;
}

/*
 * Uses everything in an engine once, so that memory that it and OpenBLAS set up on first use is not counted for the
 * search.
 */
static int warm_up(struct bench *bench)
{
	double nll;

	return kvs_measure_nll(bench->engine, &bench->text, NULL, NULL, &nll);
}

struct figures {
	double passes; /* the time of the search, in passes */
	size_t trials, host_bytes, device_bytes, both_bytes;
};

/* Capture and walk, without the two measurements of whole plans that calibrate adds. */
static int search(struct bench *bench, enum kvs_method method, struct figures *out)
{
	struct kvs_search_options options = {.method = method,
		.share = SHARE,
		.threshold = 0.5,
		.drop_means = true,
		.progress = {watch_device, bench}};
	struct kvs_search_result result;
	struct kvs_capture capture;
	double before, after, start;
	size_t of_a_pass;
	int err;

	atomic_store(&peak_bytes, atomic_load(&held_bytes));
	err = pass(bench, KVS_METHOD_KVSHARER, &before);
	if (!err)
		err = pass(bench, method, &before);
	if (err)
		return err;
	of_a_pass = atomic_load(&peak_bytes);
	bench->device_free = device_free(bench);
	bench->peak_device = 0;
	atomic_store(&device_bytes, 0);
	atomic_store(&peak_both, 0);
	start = now_s();
	err = kvs_capture_run(bench->engine, &bench->text, &options.progress, &capture);
	if (err)
		return err;
	err = kvs_search_run(bench->engine, &bench->text, &capture, &options, &result);
	kvs_capture_clear(&capture);
	if (err)
		return err;
	out->passes = now_s() - start - result.measure_s;
	out->host_bytes = atomic_load(&peak_bytes) - of_a_pass;
	out->device_bytes = bench->peak_device;
	out->both_bytes = atomic_load(&peak_both) - of_a_pass;
	out->trials = result.trial_count;
	kvs_search_result_clear(&result);
	err = pass(bench, method, &after);
	out->passes /= (before + after) / 2;
	return err;
}

static void print(const char *name, const struct bench *bench, const struct figures *figures, bool reruns_samples)
{
	const struct kvs_config *config = kvs_engine_config(bench->engine);
	size_t tokens = bench->text.sample_tokens,
	       kv = 2 * (size_t)config->layers * config->kv_heads * config->head_dim;
	size_t rows = bench->text.samples * tokens, hidden = sizeof(float) * rows * config->hidden;
	size_t kept = reruns_samples ? 8 * hidden + 2 * rows * kv : 0; /* the fixture has bf16 */
	size_t held = sizeof(double) * tokens * kv + hidden + kept;

	printf("search, %-8s %4zu trials   %8.2f passes       %5.2f of 1 + trials (aim 1.1)\n", name, figures->trials,
		figures->passes, figures->passes / (1 + figures->trials));
	printf("  its memory, host and device  %8.2f MiB          %5.3f of mean KV and hidden states%s (aim 1)\n",
		figures->both_bytes / 1048576.0, (double)figures->both_bytes / held,
		reruns_samples ? ", residuals, K and V" : "");
	printf("  on the host, on the device   %8.2f MiB and %.2f MiB, each at its own peak\n",
		figures->host_bytes / 1048576.0, figures->device_bytes / 1048576.0);
}

/* An argument names a device other than the host. */
int main(int argc, char **argv)
{
	struct bench bench = {0};
	struct figures figures;
	int err = open_bench(&bench, argc > 1 ? argv[1] : "host");

	if (!err)
		err = warm_up(&bench);
	if (!err)
		err = search(&bench, KVS_METHOD_KVSHARER, &figures);
	if (!err) {
		print("kvsharer", &bench, &figures, true);
		err = search(&bench, KVS_METHOD_NLL, &figures);
	}
	if (!err)
		print("nll", &bench, &figures, false);
	else
		fprintf(stderr, "calib_bench: %s\n", kvs_error());
	close_bench(&bench);
	return err ? EXIT_FAILURE : EXIT_SUCCESS;
}
