/*
 * profiler/bpf/mappings.c: reads /proc/PID/maps.
 */
#include "mappings.h"

#include "../../driver/cu.h"

#include <errno.h>
#include <inttypes.h>
#include <string.h>

int prof_mappings_open(struct prof_mappings *mappings, pid_t pid)
{
	char name[64];

	snprintf(name, sizeof(name), "/proc/%d/maps", pid);
	mappings->file = fopen(name, "re");
	if (mappings->file)
		return 0;
	if (errno == ENOENT || errno == ESRCH)
		return kvs_fail(-ESRCH, "there is no process %d", pid);
	return kvs_fail(-errno, "%s: %s", name, strerror(errno));
}

/* "start-end r-xp offset device inode   /path", with " (deleted)" behind some. */
static bool parse(char *line, struct prof_mapping *out)
{
	int path = 0;
	char rights[8];

	line[strcspn(line, "\n")] = '\0';
	if (sscanf(line, "%" SCNx64 "-%" SCNx64 " %7s %" SCNx64 " %*s %" SCNu64 " %n", &out->start, &out->end, rights,
		    &out->offset, &out->inode, &path) != 5)
		return false;
	out->path = line + path;
	return rights[2] == 'x' && out->path[0] == '/';
}

bool prof_mappings_next(struct prof_mappings *mappings, struct prof_mapping *out)
{
	while (fgets(mappings->line, sizeof(mappings->line), mappings->file))
		if (parse(mappings->line, out))
			return true;
	return false;
}

void prof_mappings_close(struct prof_mappings *mappings)
{
	fclose(mappings->file);
}
