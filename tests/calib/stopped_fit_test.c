/*
 * tests/calib/stopped_fit_test.c: a fit that is stopped, wherever, and gone on with gives the bits of one that was not; a file
 * of a stopped fit that was cut, changed, or is of another text, plan, model or of other options is not taken.
 */
#include "../../calib/calib.h"
#include "../../calib/measure.h"

#include <errno.h>
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <cmocka.h>

#define MODEL "tests/models/storyworld-3m"
#define OTHER "tests/golden/models/llama2"
#define OWNERS "0,1,2,3,4,5,6,7,8,9,10,11,11,13,10,15"
#define SAMPLES 8
#define TOKENS 32 /* 256 in all: the least for 4 heads of 32 */
#define HIDDEN 128
#define FF 352
#define MOST_BYTES (1 << 20)
#define DIGEST_CHARS (CALIB_DIGEST - 1)

static kvs_cu *cu;
static kvs_checkpoint *ckpt, *other;
static kvs_plan *plan;
static struct kvs_calib_text story;
static char path[] = "/tmp/stopped-fit-XXXXXX";
static struct kvs_compensation whole;
static size_t whole_steps;
static char kept[MOST_BYTES]; /* the file of a fit that was stopped near its end */
static size_t kept_bytes;

/* ---- runs ---- */

struct steps {
	size_t heard, last; /* it asks to stop when it hears the last; 0: never */
};

static bool step(void *arg, const char *what, size_t done, size_t total)
{
	struct steps *steps = arg;

	assert_string_equal(what, "compensating");
	assert_true(done <= total);
	return ++steps->heard != steps->last;
}

/* What may differ between the fit that was stopped and the one that is to go on. */
struct setting {
	const char *owners, *digest;
	int batch;     /* samples; 0: all */
	bool poisoned; /* with another matrix, as another device would round otherwise */
	struct kvs_compensate_options options;
};

static struct setting usual(void)
{
	return (struct setting){
		.owners = OWNERS, .digest = "0123456789abcdef", .options = {.ridge = 0.1, .skip = 4, .stopped = path}};
}

static void poison(kvs_engine *engine)
{
	static float values[FF * HIDDEN];

	assert_int_equal(
		kvs_engine_set_matrix(engine, "model.layers.15.mlp.up_proj.weight", FF, HIDDEN, KVS_BF16, values), 0);
}

/* On an engine of its own: a fit leaves its matrices there. */
static int run(
	const kvs_checkpoint *model, const struct setting *setting, struct steps *steps, struct kvs_compensation *out)
{
	struct kvs_calib_text text = story;
	struct kvs_engine_options options = {.no_premap = true, .chunk_tokens = setting->batch * TOKENS};
	kvs_engine *engine;
	kvs_plan *owners;
	int err;

	snprintf(text.digest, sizeof(text.digest), "%s", setting->digest);
	assert_int_equal(kvs_plan_parse(setting->owners, &owners), 0);
	assert_int_equal(kvs_calib_open_engine(cu, model, &options, &text, 1, &engine), 0);
	if (setting->poisoned)
		poison(engine);
	err = kvs_compensate(
		engine, model, &text, owners, &setting->options, &(struct kvs_calib_progress){step, steps}, out);
	kvs_engine_close(engine);
	kvs_plan_free(owners);
	return err;
}

/* Stopped at a step, from the start or from what is kept. */
static void stop_at(size_t last, bool resume, int *layers)
{
	struct kvs_compensation out;
	struct setting setting = usual();
	int err;

	setting.options.resume = resume;
	err = run(ckpt, &setting, &(struct steps){.last = last}, &out);
	if (err != -ECANCELED)
		fail_msg("stopped at step %zu: %d, %s", last, err, kvs_error());
	assert_true(!out.refits && !out.count);
	*layers = out.layers;
}

static void assert_same(const struct kvs_compensation *out, size_t last)
{
	assert_int_equal(out->count, whole.count);
	assert_true(out->nll == whole.nll && out->plain_nll == whole.plain_nll && out->applied == whole.applied);
	assert_int_equal(out->layers, whole.layers);
	for (size_t i = 0; i < out->count; i++) {
		const struct kvs_refit *a = &out->refits[i], *b = &whole.refits[i];
		assert_string_equal(a->name, b->name);
		assert_true(a->kind == b->kind && a->layer == b->layer && a->dtype == b->dtype);
		assert_true(a->rows == b->rows && a->cols == b->cols);
		assert_true(a->strength == b->strength || (isnan(a->strength) && isnan(b->strength)));
		assert_true(a->before == b->before && a->after == b->after);
		if (memcmp(a->values, b->values, sizeof(float) * a->rows * a->cols))
			fail_msg("stopped at step %zu: another %s", last, a->name);
	}
}

static void go_on(size_t last, struct steps *steps)
{
	struct setting setting = usual();
	struct kvs_compensation out;

	setting.options.resume = true;
	if (run(ckpt, &setting, steps, &out))
		fail_msg("stopped at step %zu: %s", last, kvs_error());
	assert_same(&out, last);
	kvs_compensation_clear(&out);
}

/* ---- files ---- */

static size_t read_file(char *bytes)
{
	FILE *file = fopen(path, "rb");
	size_t count;

	assert_non_null(file);
	count = fread(bytes, 1, MOST_BYTES, file);
	assert_true(count > 0 && count < MOST_BYTES);
	fclose(file);
	return count;
}

static void write_file(const char *bytes, size_t count)
{
	FILE *file = fopen(path, "wb");

	assert_non_null(file);
	assert_int_equal(fwrite(bytes, 1, count, file), count);
	assert_int_equal(fclose(file), 0);
}

static void assert_refused(const kvs_checkpoint *model, struct setting setting, int expected, const char *words)
{
	struct kvs_compensation out;
	int err;

	setting.options.resume = true;
	err = run(model, &setting, &(struct steps){0}, &out);
	if (err != expected)
		fail_msg("%d in place of %d, for \"%s\": %s", err, expected, words, err ? kvs_error() : "it ran");
	if (!strstr(kvs_error(), words))
		fail_msg("\"%s\" does not say \"%s\"", kvs_error(), words);
	assert_true(!out.refits && !out.layers);
}

/* ---- tests ---- */

/* Until a layer is finished there is no file; afterwards it grows, and leads to the same bits. */
static void stopped_anywhere_it_gives_the_same_bits(void **state)
{
	int before = 0, layers;

	(void)state;
	for (size_t last = 1; last <= whole_steps; last += 1 + whole_steps / 12) {
		struct steps steps = {0};
		unlink(path);
		stop_at(last, false, &layers);
		assert_true(layers >= before);
		assert_int_equal(!access(path, F_OK), layers > 0);
		before = layers;
		if (!layers)
			continue;
		go_on(last, &steps);
		assert_true(steps.heard < whole_steps);
	}
	assert_in_range(before, 13, 15);
}

/* In the last step of layer 14, W_q and W_o are new already and W_down is not: of such a layer nothing is kept. */
static void half_a_layer_is_not_kept(void **state)
{
	size_t below = 1,
	       first = whole_steps; /* the first step at which layer 14 is finished lies above `below`, up to `first` */
	int layers;

	(void)state;
	while (first - below > 1) {
		size_t middle = (below + first) / 2;
		unlink(path);
		stop_at(middle, false, &layers);
		if (layers < 15)
			below = middle;
		else
			first = middle;
	}
	unlink(path);
	stop_at(below, false, &layers);
	assert_int_equal(layers, 14);
	go_on(below, &(struct steps){0});
}

/* A resumed fit may be stopped again: on the way up to where it was, the file stays; above, it has more. */
static void stopped_twice_it_gives_the_same_bits(void **state)
{
	int first, again;
	size_t bytes;
	static char file[MOST_BYTES], now[MOST_BYTES];

	(void)state;
	unlink(path);
	stop_at(whole_steps * 2 / 3, false, &first);
	assert_in_range(first, 13, 14);
	bytes = read_file(file);
	stop_at(2, true, &again);
	assert_int_equal(again, first);
	assert_int_equal(read_file(now), bytes);
	assert_memory_equal(now, file, bytes);
	for (size_t last = whole_steps / 4; again == first; last += 10)
		stop_at(last, true, &again);
	assert_int_equal(again, first + 1);
	assert_true(read_file(now) > bytes);
	go_on(0, &(struct steps){0});
}

/* A fit that began anew leaves the file of the same fit that has more layers, and replaces one of another. */
static void stopped_anew_it_keeps_what_is_more(void **state)
{
	static char file[MOST_BYTES], now[MOST_BYTES];
	struct setting other = usual();
	struct kvs_compensation out;
	size_t bytes;
	int more, layers;

	(void)state;
	unlink(path);
	stop_at(whole_steps - 1, false, &more);
	bytes = read_file(file);
	stop_at(whole_steps * 2 / 3, false, &layers);
	assert_int_equal(layers, more);
	assert_int_equal(read_file(now), bytes);
	assert_memory_equal(now, file, bytes);
	other.options.ridge = 0.5;
	assert_int_equal(run(ckpt, &other, &(struct steps){.last = whole_steps * 2 / 3}, &out), -ECANCELED);
	assert_in_range(out.layers, 13, more - 1);
	assert_int_not_equal(read_file(now), bytes);
	unlink(path);
}

/* Without a file to leave anything in, a stopped fit is as it was before there was one. */
static void without_a_file_nothing_is_kept(void **state)
{
	struct setting setting = usual();
	struct kvs_compensation out;

	(void)state;
	unlink(path);
	setting.options.stopped = NULL;
	assert_int_equal(run(ckpt, &setting, &(struct steps){.last = whole_steps - 1}, &out), -ECANCELED);
	assert_true(!out.refits && !out.layers);
	assert_int_not_equal(access(path, F_OK), 0);
}

/* What cannot be kept is an error of its own, not a stop that lost everything silently. */
static void a_file_that_cannot_be_written_is_told(void **state)
{
	struct setting setting = usual();
	struct kvs_compensation out;

	(void)state;
	setting.options.stopped = "/nowhere/at/all.part";
	assert_int_not_equal(run(ckpt, &setting, &(struct steps){.last = whole_steps - 1}, &out), -ECANCELED);
	assert_non_null(strstr(kvs_error(), "/nowhere/at/all.part"));
	assert_true(!out.refits && !out.layers);
}

static void other_fits_are_refused_by_name(void **state)
{
	struct setting setting = usual();

	(void)state;
	write_file(kept, kept_bytes);
	setting.digest = "fedcba9876543210";
	assert_refused(ckpt, setting, -EINVAL, "its text_digest is \"0123456789abcdef\", this fit's is \"fedc");
	setting = usual();
	setting.batch = 3;
	assert_refused(ckpt, setting, -EINVAL, "batch_tokens");
	setting = usual();
	setting.owners = "0,1,2,3,4,5,6,7,8,9,10,11,11,13,11,15";
	assert_refused(ckpt, setting, -EINVAL, "its k_owners is [");
	setting = usual();
	setting.options.skip = 5;
	assert_refused(ckpt, setting, -EINVAL, "its skip_rank is 4, this fit's is 5");
	setting = usual();
	setting.options.matrices = KVS_REFIT_OUTPUTS;
	assert_refused(ckpt, setting, -EINVAL, "its refit is 15, this fit's is 2");
	setting = usual();
	setting.options.ridge = 0.5;
	assert_refused(ckpt, setting, -EINVAL, "ridge");
	setting = usual();
	setting.owners = "0,1,2,2";
	assert_refused(other, setting, -EINVAL, "its model is");
	setting = usual();
	setting.poisoned = true;
	assert_refused(ckpt, setting, -EINVAL, "another device");
	unlink(path);
	assert_refused(ckpt, usual(), -ENOENT, "no stopped fit to go on from");
}

static void cut_and_changed_files_are_refused(void **state)
{
	static char file[MOST_BYTES];

	(void)state;
	for (size_t bytes = 0; bytes < kept_bytes; bytes += 1 + kept_bytes / 7) {
		write_file(kept, bytes);
		assert_refused(ckpt, usual(), -EINVAL, "was cut or changed");
	}
	for (size_t at = 0; at < kept_bytes; at += 1 + kept_bytes / 7) {
		memcpy(file, kept, kept_bytes);
		file[at] ^= 4;
		write_file(file, kept_bytes);
		assert_refused(ckpt, usual(), -EINVAL, "was cut or changed");
	}
	write_file(kept, kept_bytes - 1);
	assert_refused(ckpt, usual(), -EINVAL, "was cut or changed");
}

/* `old` in the first line becomes `new`; the digest is right, as whoever means harm would make it. */
static void write_edited(const char *old, const char *new)
{
	static char file[MOST_BYTES];
	char *at;
	size_t body = kept_bytes - DIGEST_CHARS, head, rest;

	kept[kept_bytes] = 0;
	at = strstr(kept, old);
	assert_true(at && at < (char *)memchr(kept, '\n', kept_bytes));
	head = at - kept;
	rest = body - head - strlen(old);
	memcpy(file, kept, head);
	memcpy(file + head, new, strlen(new));
	memcpy(file + head + strlen(new), at + strlen(old), rest);
	body = head + strlen(new) + rest;
	calib_digest(file, body, file + body);
	write_file(file, body + DIGEST_CHARS);
}

static void files_made_to_harm_are_refused(void **state)
{
	static const char *const edits[][2] = {
		{"{\"kvshare_stopped_fit\":1", "{\"kvshare_stopped_fit\":2"},
		{"{\"kvshare_stopped_fit\":1", "[\"kvshare_stopped_fit\":1"},
		{"\"kind\":1", "\"kind\":3"},
		{"\"kind\":1", "\"kind\":-1"},
		{"\"kind\":1", "\"kind\":4294967297"},
		{"\"kind\":16", "\"kind\":32"},
		{"\"kind\":32", "\"kind\":16"},
		{"\"layer\":12", "\"layer\":99"},
		{"\"layer\":12", "\"layer\":-1"},
		{"\"layer\":14", "\"layer\":11"},
		{"\"dtype\":", "\"dtype\":77"},
		{"\"layers\":15", "\"layers\":12"},
		{"\"layers\":15", "\"layers\":17"},
		{"\"matrices\":[", "\"matrices\":[{\"kind\":8,\"layer\":1,\"dtype\":0},"},
		{"\"matrices\":[", "\"matrices\":{\"a\":"},
		{"\"settings\":{", "\"settlings\":{"},
	};

	(void)state;
	for (size_t i = 0; i < sizeof(edits) / sizeof(*edits); i++) {
		write_edited(edits[i][0], edits[i][1]);
		assert_refused(ckpt, usual(), -EINVAL, path);
	}
}

static int cut_story(void)
{
	struct kvs_calib_text_options cut = {
		.samples = SAMPLES, .sample_tokens = TOKENS, .window_tokens = TOKENS, .held_tokens = 2 * TOKENS};
	kvs_tokenizer *tokenizer;
	static char text[8192];
	FILE *file = fopen(MODEL "/calib.txt", "rb");
	size_t bytes = file ? fread(text, 1, sizeof(text), file) : 0;
	int err = kvs_tokenizer_open(MODEL, &tokenizer);

	assert_non_null(file);
	fclose(file);
	if (err)
		return err;
	err = kvs_calib_text_cut(tokenizer, text, bytes, &cut, &story);
	kvs_tokenizer_close(tokenizer);
	return err;
}

static int set_up(void **state)
{
	struct setting setting = usual();
	struct steps steps = {0};
	int layers, fd = mkstemp(path);

	(void)state;
	setenv("SOFTCUDA_WORKERS", "1", true); /* how many heads' steps this thread hears depends on the others */
	if (fd < 0 || close(fd) || kvs_cu_open("host", &cu) || kvs_checkpoint_open(MODEL, &ckpt) ||
		kvs_checkpoint_open(OTHER, &other) || kvs_plan_parse(OWNERS, &plan)) {
		fprintf(stderr, "%s\n", kvs_error());
		return -1;
	}
	if (cut_story()) {
		fprintf(stderr, "%s\n", kvs_error());
		return -1;
	}
	setting.options.stopped = NULL;
	if (run(ckpt, &setting, &steps, &whole)) {
		fprintf(stderr, "%s\n", kvs_error());
		return -1;
	}
	whole_steps = steps.heard;
	stop_at(whole_steps, false, &layers);
	kept_bytes = read_file(kept);
	return 0;
}

static int tear_down(void **state)
{
	(void)state;
	unlink(path);
	kvs_calib_text_clear(&story);
	kvs_compensation_clear(&whole);
	kvs_plan_free(plan);
	kvs_checkpoint_close(ckpt);
	kvs_checkpoint_close(other);
	kvs_cu_close(cu);
	return 0;
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(stopped_anywhere_it_gives_the_same_bits),
		cmocka_unit_test(half_a_layer_is_not_kept),
		cmocka_unit_test(stopped_twice_it_gives_the_same_bits),
		cmocka_unit_test(stopped_anew_it_keeps_what_is_more),
		cmocka_unit_test(without_a_file_nothing_is_kept),
		cmocka_unit_test(a_file_that_cannot_be_written_is_told),
		cmocka_unit_test(other_fits_are_refused_by_name),
		cmocka_unit_test(cut_and_changed_files_are_refused),
		cmocka_unit_test(files_made_to_harm_are_refused),
	};

	return cmocka_run_group_tests(tests, set_up, tear_down);
}
