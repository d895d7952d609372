/*
 * tools/run/exec/accounts.c: what `inspect` and `probe` have from the processes of a run. A program may have children that run its
 * model, as servers and launchers do, so each process has a file of its own.
 */
#include "exec.h"

#include <glob.h>
#include <limits.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

/* What `path` has of a pattern's signs is meant as it stands. */
static int files_find(const char *path, glob_t *out)
{
	char pattern[2 * PATH_MAX + 16];
	size_t length = 0;

	for (; *path && length < 2 * PATH_MAX; path++) {
		if (strchr("*?[\\", *path))
			pattern[length++] = '\\';
		pattern[length++] = *path;
	}
	strcpy(pattern + length, ".[0-9]*");
	return glob(pattern, 0, NULL, out);
}

json_t *exec_account_take(const char *path, size_t (*weigh)(const json_t *account))
{
	json_t *best = NULL;
	const char *process = "";
	size_t count = 0;
	glob_t files;

	unlink(path);
	if (files_find(path, &files))
		return NULL;
	for (size_t i = 0; i < files.gl_pathc; i++) {
		json_t *account = json_load_file(files.gl_pathv[i], 0, NULL);

		unlink(files.gl_pathv[i]);
		count += account != NULL;
		if (!account || (best && weigh(account) <= weigh(best))) {
			json_decref(account);
			continue;
		}
		json_decref(best);
		best = account;
		process = files.gl_pathv[i] + strlen(path) + 1;
	}
	if (count > 1)
		fprintf(stderr, "kvshare-run: %zu processes have used device memory; this is process %s\n", count,
			process);
	globfree(&files);
	return best;
}
