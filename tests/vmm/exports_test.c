/*
 * libkvshare.so exports exactly the functions that its two headers declare, and names that the files of vmm/ share
 * among themselves have the folder's prefix.
 */
#include "fixture.h"

#include <ctype.h>
#include <limits.h>
#include <unistd.h>

enum { MAX_NAMES = 512, NAME_BYTES = 64 };

struct names {
	char name[MAX_NAMES][NAME_BYTES];
	size_t count;
};

static bool holds(const struct names *names, const char *name)
{
	for (size_t i = 0; i < names->count; i++)
		if (!strcmp(names->name[i], name))
			return true;
	return false;
}

static void add(struct names *names, const char *name)
{
	if (holds(names, name))
		return;
	assert_true(names->count < MAX_NAMES && strlen(name) < NAME_BYTES);
	strcpy(names->name[names->count++], name);
}

/* The functions that a header declares: lines that start with a type and have a name with kvs_ before a parenthesis. */
static void read_header(const char *path, struct names *names)
{
	FILE *file = fopen(path, "r");
	char line[512], name[NAME_BYTES];

	assert_non_null(file);
	while (fgets(line, sizeof(line), file)) {
		char *at = strstr(line, "kvs_");
		size_t length;

		if (!isalpha((unsigned char)line[0]) || !strncmp(line, "typedef", 7))
			continue;
		for (; at; at = strstr(at + length, "kvs_")) {
			length = strspn(at, "abcdefghijklmnopqrstuvwxyz0123456789_");
			if (at[length] != '(')
				continue;
			snprintf(name, sizeof(name), "%.*s", (int)length, at);
			add(names, name);
			break;
		}
	}
	fclose(file);
}

/* The symbols that nm lists for the built files `files`, which are relative to the build directory. */
static void read_symbols(const char *options, const char *files, struct names *names)
{
	char self[PATH_MAX], command[PATH_MAX + 128], line[512], name[256];
	ssize_t length = readlink("/proc/self/exe", self, sizeof(self) - 1);
	FILE *output;

	assert_true(length > 0);
	self[length] = '\0';
	*strrchr(self, '/') = '\0';
	snprintf(command, sizeof(command), "cd '%s/../..' && nm %s --defined-only %s", self, options, files);
	output = popen(command, "r");
	assert_non_null(output);
	while (fgets(line, sizeof(line), output)) {
		char kind;

		if (sscanf(line, "%*s %c %255[^@\n]", &kind, name) == 2 && strchr("TDBRW", kind) &&
			strncmp(name, "_", 1))
			add(names, name);
	}
	assert_int_equal(pclose(output), 0);
}

static void the_library_exports_what_its_headers_declare(void **state)
{
	static struct names declared, exported;

	(void)state;
	read_header("vmm/kvshare.h", &declared);
	read_header("driver/cu.h", &declared);
	read_symbols("-D", "libkvshare.so", &exported);
	assert_true(holds(&declared, "kvs_region_owner") && holds(&declared, "kvs_error"));
	for (size_t i = 0; i < exported.count; i++)
		if (!holds(&declared, exported.name[i]))
			fail_msg("%s is exported and in no header", exported.name[i]);
	for (size_t i = 0; i < declared.count; i++)
		if (!holds(&exported, declared.name[i]))
			fail_msg("%s is declared and not exported", declared.name[i]);
}

static void what_is_internal_says_so(void **state)
{
	static struct names declared, defined;

	(void)state;
	read_header("vmm/kvshare.h", &declared);
	read_symbols("-g", "vmm/*.o", &defined);
	for (size_t i = 0; i < defined.count; i++)
		if (!holds(&declared, defined.name[i]) && strncmp(defined.name[i], "vmm_", 4))
			fail_msg("%s is not in kvshare.h and does not start with vmm_", defined.name[i]);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(the_library_exports_what_its_headers_declare),
		cmocka_unit_test(what_is_internal_says_so),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
