/*
 * tests/profiler/nvml_test.c: what NVML says of a process comes into its trace, whoever else watches; and nothing changes where it
 * is not, or fails. The library is a fake one (nvml_fake.c): what a real one says, only a GPU can show.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <cmocka.h>
#include <jansson.h>

#include "../../driver/cu.h"
#include "../../profiler/profiler.h"
#include "../support/process.h"

#define MIB (1l << 20)
#define FAKE                                                                                                           \
	"export FAKE_NVML=$(mktemp) KVSHARE_NVML=${BUILD:-build}/tests/profiler/fake-nvml/libnvidia-ml.so.1; "         \
	"T=$(mktemp -u); "
#define CLEAN "; status=$?; rm -f $T $FAKE_NVML; exit $status"

static json_int_t figure(json_t *report, const char *object, const char *key)
{
	json_t *value = json_object_get(json_object_get(report, object), key);

	if (!json_is_integer(value))
		fail_msg("no number %s.%s", object, key);
	return json_integer_value(value);
}

/*
 * The program writes down its own number; what it runs has memory on both devices, and a stranger's does not count. It runs
 * for a good while, as NVML is asked ten times a second, and not at the moment at which a busy machine finishes the list.
 */
static void what_it_says_of_the_program_and_its_children_is_in_the_trace(void **state)
{
	json_t *report = run_json(FAKE
		"kvshare-run profile --source ours -o $T -- sh -c '"
		"echo 0 1 99999999 >$FAKE_NVML; "
		"kvshare-run generate -q -m tests/models/storyworld-3m --device host -p Anna -n 750 "
		"--ctx 800 --ignore-eos >/dev/null & "
		"echo 0 $! 18446744073709551615 >>$FAKE_NVML; "
		"for device in 0 1 1; do echo $device $! 104857600 >>$FAKE_NVML; done; wait' >&2; "
		"kvshare-run report $T >$T.text; grep -q '; 300.0 MiB by NVML, .* of it told by no call' $T.text || "
		"{ cat $T.text >&2; exit 1; }; rm $T.text; kvshare-run report $T --json" CLEAN);

	(void)state;
	assert_int_equal(figure(report, "memory", "nvml_bytes"), 300 * MIB);
	assert_in_range(figure(report, "memory", "nvml_untracked_bytes"), 1,
		300 * MIB); /* the first answer may come before the first call */
	json_decref(report);
}

static void where_it_fails_nothing_is_said(void **state)
{
	static const char *const words[] = {"fail", "no start"};
	char command[1024];

	(void)state;
	for (size_t i = 0; i < 2; i++) {
		snprintf(command, sizeof(command),
			FAKE
			"echo %s >$FAKE_NVML; kvshare-run profile --source ours -o $T -- kvshare-run generate -q -m "
			"tests/models/storyworld-3m --device host -p Anna -n 2 >&2; kvshare-run report $T --json" CLEAN,
			words[i]);
		json_t *report = run_json(command);
		assert_true(json_is_null(json_object_get(json_object_get(report, "memory"), "nvml_bytes")));
		json_decref(report);
	}
}

static void says(const char *command, const char *text)
{
	struct process process = run_shell(command, 60);

	if (!strstr(process.out, text))
		fail_msg("%s: %s%s", command, process.out, process.err);
	process_free(&process);
}

static void the_doctor_knows(void **state)
{
	(void)state;
	says(FAKE "kvshare-run doctor" CLEAN, "tells of 2 GPUs");
	says(FAKE "echo no start >$FAKE_NVML; kvshare-run doctor" CLEAN, "NVML does not start: Driver Not Loaded");
	says("KVSHARE_NVML=/nowhere/nvml.so kvshare-run doctor", "NVML is not there: /nowhere/nvml.so");
}

/* More of them than there was room for; some that it cannot tell. */
static void a_long_list_is_whole(void **state)
{
	struct kvs_nvml_process list[64];
	char path[] = "/tmp/kvs-nvml-XXXXXX", library[512];
	FILE *file = fdopen(mkstemp(path), "w");
	size_t count;
	kvs_nvml *nvml;

	(void)state;
	for (unsigned i = 0; i < 40; i++)
		fprintf(file, "%u %u %llu\n", i % 2, 100 + i, i == 7 ? ~0ull : 1000ull * i);
	fclose(file);
	snprintf(library, sizeof(library), "%s/tests/profiler/fake-nvml/libnvidia-ml.so.1",
		getenv("BUILD") ? getenv("BUILD") : "build");
	setenv("KVSHARE_NVML", library, 1);
	setenv("FAKE_NVML", path, 1);
	if (kvs_nvml_open(&nvml))
		fail_msg("%s", kvs_error());
	assert_int_equal(kvs_nvml_list(nvml, list, 64, &count), 0);
	assert_int_equal(count, 40);
	for (size_t i = 0; i < count; i++) {
		assert_int_equal(list[i].device, list[i].pid % 2);
		assert_true(list[i].bytes == (list[i].pid == 107 ? KVS_EVENT_NONE : 1000 * (list[i].pid - 100)));
	}
	assert_int_equal(kvs_nvml_list(nvml, list, 5, &count), 0);
	assert_int_equal(count, 5);
	kvs_nvml_close(nvml);
	unlink(path);
	unsetenv("KVSHARE_NVML");
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(what_it_says_of_the_program_and_its_children_is_in_the_trace),
		cmocka_unit_test(where_it_fails_nothing_is_said),
		cmocka_unit_test(the_doctor_knows),
		cmocka_unit_test(a_long_list_is_whole),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
