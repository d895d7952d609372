/* The examples of docs/vmm.md, linked with libkvshare.so like a user's programs, run and share memory. */
#include "fixture.h"

#include <limits.h>
#include <unistd.h>

static void run_example(const char *name, const char *expected)
{
	char self[PATH_MAX], command[PATH_MAX + 64], line[256] = "";
	ssize_t length = readlink("/proc/self/exe", self, sizeof(self) - 1);
	FILE *output;

	assert_true(length > 0);
	self[length] = '\0';
	*strrchr(self, '/') = '\0';
	snprintf(command, sizeof(command), "'%s/../../docs/examples/%s'", self, name);
	output = popen(command, "r");
	assert_non_null(output);
	assert_non_null(fgets(line, sizeof(line), output));
	assert_int_equal(pclose(output), 0);
	assert_non_null(strstr(line, expected));
}

static void the_examples_run_and_share(void **state)
{
	(void)state;
	run_example("cache", "layer 3 reads 0x5eed");
	run_example("slab", "layer 3 reads 0x5eed; 52428800 of 67108864 bytes held, 8388608 of addresses in the sink");
}

int main(void)
{
	const struct CMUnitTest tests[] = {cmocka_unit_test(the_examples_run_and_share)};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
