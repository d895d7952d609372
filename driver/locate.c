/*
 * driver/locate.c: finds softcuda and others of our files, which lie beside the file that holds this code.
 *
 * The kernel, which mapped that file, knows its path. The dynamic linker (dladdr) only knows the name by which it was
 * started, which may be relative to another directory, or a bare name from PATH; resolving that would load whatever
 * library lies in the current working directory.
 */
#include "internal.h"

#include <errno.h>
#include <inttypes.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define HOST_DRIVER "softcuda/libcuda.so.1"

/* In the order of cu.h. */
static const char *const places[] = {"", "../", "../lib/kvshare/", "kvshare/"};

/* A line of /proc/self/maps: "start-end rights offset device inode   /path". */
static const char *path_of_mapping(char *line, uintptr_t address)
{
	uintptr_t start, end;
	char *path;

	if (sscanf(line, "%" SCNxPTR "-%" SCNxPTR, &start, &end) != 2 || address < start || address >= end)
		return NULL;
	line[strcspn(line, "\n")] = '\0';
	path = strchr(line, '/');
	return path;
}

static int file_of_this_code(char *file, size_t bytes)
{
	FILE *maps = fopen("/proc/self/maps", "re");
	char line[PATH_MAX + 128];
	int err = -ENOENT;

	if (!maps)
		return -errno;
	while (err == -ENOENT && fgets(line, sizeof(line), maps)) {
		const char *path = path_of_mapping(line, (uintptr_t)kvs_cu_find_softcuda);

		if (path)
			err = snprintf(file, bytes, "%s", path) < (int)bytes ? 0 : -ENAMETOOLONG;
	}
	fclose(maps);
	return err;
}

int kvs_find_beside(const char *file, char *path, size_t bytes)
{
	char directory[PATH_MAX];

	if (file_of_this_code(directory, sizeof(directory)))
		return kvs_fail(-ENODEV, "cannot tell where this program lies (/proc/self/maps)");
	*strrchr(directory, '/') = '\0';
	for (size_t i = 0; i < sizeof(places) / sizeof(*places); i++) {
		if (snprintf(path, bytes, "%s/%s%s", directory, places[i], file) < (int)bytes && !access(path, R_OK))
			return 0;
	}
	return kvs_fail(-ENODEV, "%s is not beside %s", file, directory);
}

static int find_softcuda_beside(char *path, size_t bytes)
{
	char reason[PATH_MAX + 64];
	int err = kvs_find_beside(HOST_DRIVER, path, bytes);

	if (!err)
		return 0;
	snprintf(reason, sizeof(reason), "%s", kvs_error());
	return kvs_fail(
		err, "%s: `make build` leaves it in build/softcuda, or set KVSHARE_SOFTCUDA to its file", reason);
}

int kvs_cu_find_softcuda(char *path, size_t bytes)
{
	const char *asked = getenv("KVSHARE_SOFTCUDA");

	if (!asked || !*asked)
		return find_softcuda_beside(path, bytes);
	/* dlopen() would look for a bare name where libraries lie, and find a GPU's driver there. */
	if (!strchr(asked, '/'))
		return kvs_fail(
			-EINVAL, "KVSHARE_SOFTCUDA=%s is a bare name; give a path to the file (./%s)", asked, asked);
	return snprintf(path, bytes, "%s", asked) < (int)bytes
		       ? 0
		       : kvs_fail(-ENAMETOOLONG, "KVSHARE_SOFTCUDA is longer than a path can be");
}
