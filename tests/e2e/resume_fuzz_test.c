/*
 * tests/e2e/resume_fuzz_test.c: a run that continues from a damaged file ends in a result or in a message, never in a
 * crash.
 *
 * The plan of a search and the record of a study are damaged at random and given to the program that wrote them;
 * sanitizers show double frees and reads past the end. KVS_TEST_SEED repeats a run, KVS_TEST_SECONDS is the time for
 * each of the two (6).
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include "../support/process.h"

#define MODEL "tests/models/storyworld-3m"
#define SMALL " --samples 4 --sample-tokens 16 --held-tokens 32 --ctx 16 --kv-dtype f32 -q "
#define CALIBRATE "kvshare-run calibrate -m " MODEL " --text " MODEL "/calib.txt" SMALL "--method nll --share 1 -o "
#define STUDY                                                                                                          \
	"kvshare-run study -m " MODEL " --calib " MODEL "/calib.txt --text " MODEL "/heldout.txt" SMALL                \
	"--max-tokens 32 --rates 0.25 --methods adjacent,merge -o "
#define MOST_BYTES 65536
#define LEAST_ROUNDS 4

static uint64_t seed;

static size_t random_below(size_t bound)
{
	seed = seed * 6364136223846793005u + 1442695040888963407u; /* Knuth's MMIX */
	return (size_t)(seed >> 33) % bound;
}

static void start_seed(void)
{
	const char *set = getenv("KVS_TEST_SEED");

	seed = set ? strtoull(set, NULL, 0) : (uint64_t)time(NULL);
	print_message("KVS_TEST_SEED=%llu\n", (unsigned long long)seed);
}

/* ---- damage ---- */

/* Replaces `cut` bytes at `at` by `with`; the rest moves. */
static size_t replace(char *text, size_t len, size_t at, size_t cut, const char *with, size_t with_len)
{
	cut = cut < len - at ? cut : len - at;
	if (len - cut + with_len > MOST_BYTES)
		return len;
	memmove(text + at + with_len, text + at + cut, len - at - cut);
	memmove(text + at, with, with_len);
	return len - cut + with_len;
}

/* Something that may follow a colon: a number, a name, or the start of a larger value. */
static size_t replace_value(char *text, size_t len)
{
	static const char *const values[] = {"999", "-1", "0", "1e999", "1.5", "null", "true", "\"x\"", "[]", "{}",
		"18446744073709551616", "2147483648", "\"\\u0000\"", "-0.0", "\"nll\""};
	const char *value = values[random_below(sizeof(values) / sizeof(values[0]))];
	size_t at = random_below(len);

	while (at < len && text[at] != ':')
		at++;
	if (at + 2 >= len)
		return len;
	at++;
	at += text[at] == ' ';
	return replace(text, len, at, strcspn(text + at, ",}]\n"), value, strlen(value));
}

static size_t damage(char *text, size_t len)
{
	char span[200];
	size_t at = random_below(len), some = 1 + random_below(sizeof(span) - 1);

	some = some < len - at ? some : len - at;
	switch (random_below(8)) {
	case 0: /* one bit */
		text[at] ^= (char)(1 << random_below(7));
		return len;
	case 1: /* the end is missing */
		return at ? at : 1;
	case 2: /* some of it is missing */
		return len > some ? replace(text, len, at, some, "", 0) : len;
	case 3: /* some of it is there twice */
		memcpy(span, text + at, some);
		return replace(text, len, at, 0, span, some);
	default:
		return replace_value(text, len);
	}
}

/* ---- runs ---- */

static size_t read_whole(const char *path, char *text)
{
	FILE *file = fopen(path, "rb");
	size_t len;

	assert_non_null(file);
	len = fread(text, 1, MOST_BYTES, file);
	assert_true(len > 0 && len < MOST_BYTES);
	text[len] = 0;
	fclose(file);
	return len;
}

static void write_whole(const char *path, const char *text, size_t len)
{
	FILE *file = fopen(path, "wb");

	assert_non_null(file);
	assert_int_equal(fwrite(text, 1, len, file), len);
	assert_int_equal(fclose(file), 0);
}

static void assert_ended_well(const struct process *process, uint64_t began)
{
	bool said = strstr(process->err, "kvshare-run: ") != NULL;

	if ((process->status == 0 || (process->status == 1 && said)) && !strstr(process->err, "Sanitizer") &&
		!strstr(process->err, "runtime error"))
		return;
	fail_msg("KVS_TEST_SEED=%llu: status %d: %s", (unsigned long long)began, process->status, process->err);
}

/* `make` writes `file`, `again` continues from it; $T is a new folder for both. */
static void damaged_files_end_in_a_result_or_a_message(const char *make, const char *again, const char *name)
{
	const char *set = getenv("KVS_TEST_SECONDS");
	time_t end = time(NULL) + (set ? atoi(set) : 6);
	char folder[] = "/tmp/kvs-resume-XXXXXX", path[64], command[1024];
	char *whole = malloc(MOST_BYTES + 1), *text = malloc(MOST_BYTES + 1);
	size_t len;

	assert_non_null(mkdtemp(folder));
	assert_true(whole && text);
	snprintf(path, sizeof(path), "%s/%s", folder, name);
	snprintf(command, sizeof(command), "T=%s; %s", folder, make);
	struct process process = run_shell(command, 300);
	assert_int_equal(process.status, 0);
	process_free(&process);
	len = read_whole(path, whole);
	snprintf(command, sizeof(command), "T=%s; %s", folder, again);
	for (int round = 0; round < LEAST_ROUNDS || time(NULL) < end; round++) {
		uint64_t began = seed;
		size_t damaged_len = len;

		memcpy(text, whole, len + 1);
		for (size_t times = 1 + random_below(3); times; times--) {
			damaged_len = damage(text, damaged_len);
			text[damaged_len] = 0;
		}
		write_whole(path, text, damaged_len);
		process = run_shell(command, 300);
		assert_ended_well(&process, began);
		process_free(&process);
	}
	snprintf(command, sizeof(command), "rm -r %s", folder);
	process = run_shell(command, 60);
	process_free(&process);
	free(text);
	free(whole);
}

static void calibrate_goes_on_from_a_damaged_plan(void **state)
{
	(void)state;
	start_seed();
	damaged_files_end_in_a_result_or_a_message(CALIBRATE "$T/p", CALIBRATE "$T/p --resume", "p");
}

static void study_goes_on_from_a_damaged_record(void **state)
{
	(void)state;
	start_seed();
	damaged_files_end_in_a_result_or_a_message(STUDY "$T/s", STUDY "$T/s", "s/study.json");
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(calibrate_goes_on_from_a_damaged_plan),
		cmocka_unit_test(study_goes_on_from_a_damaged_record),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
