/* The example of docs/vmm.md, linked with libkvshare.so as a user's program is, runs and shares. */
#include "fixture.h"

#include <limits.h>
#include <unistd.h>

static void the_example_runs_and_shares(void **state)
{
	char self[PATH_MAX], command[PATH_MAX + 64], line[256] = "";
	ssize_t length = readlink("/proc/self/exe", self, sizeof self - 1);
	FILE *output;

	(void)state;
	assert_true(length > 0);
	self[length] = '\0';
	*strrchr(self, '/') = '\0';
	snprintf(command, sizeof command, "'%s/../../docs/examples/cache'", self);
	output = popen(command, "r");
	assert_non_null(output);
	assert_non_null(fgets(line, sizeof line, output));
	assert_int_equal(pclose(output), 0);
	assert_non_null(strstr(line, "layer 3 reads 0x5eed"));
}

int main(void)
{
	const struct CMUnitTest tests[] = {cmocka_unit_test(the_example_runs_and_shares)};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
