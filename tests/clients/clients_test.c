/*
 * tests/clients/clients_test.c: programs that know nothing of kvshare run on softcuda, with LD_LIBRARY_PATH and nothing
 * else.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

static const char *build(void)
{
	const char *folder = getenv("BUILD");

	return folder ? folder : "build";
}

static void a_plain_program_finds_softcuda_by_the_library_path(void **state)
{
	char command[2048], line[256] = "";
	FILE *output;

	(void)state;
	snprintf(command, sizeof(command),
		"LD_LIBRARY_PATH=%s/softcuda %s/tests/clients/vector_add %s/tests/softcuda/softcuda_kernels.so",
		build(), build(), build());
	output = popen(command, "r");
	assert_non_null(output);
	assert_non_null(fgets(line, sizeof(line), output));
	assert_int_equal(pclose(output), 0);
	assert_string_equal(line, "PASS on softcuda (host memory)\n");
}

int main(void)
{
	const struct CMUnitTest tests[] = {cmocka_unit_test(a_plain_program_finds_softcuda_by_the_library_path)};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
