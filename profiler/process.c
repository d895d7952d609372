/*
 * profiler/process.c: what /proc says of a process.
 */
#include "profiler.h"

#include <fcntl.h>
#include <stdio.h>
#include <unistd.h>

void kvs_process_command(pid_t pid, char *out, size_t bytes)
{
	char path[64];
	ssize_t got = -1;
	int fd;

	snprintf(path, sizeof(path), "/proc/%d/cmdline", (int)pid);
	fd = open(path, O_RDONLY | O_CLOEXEC);
	if (fd >= 0) {
		got = read(fd, out, bytes - 1);
		close(fd);
	}
	got = got < 0 ? 0 : got;
	while (got && !out[got - 1])
		got--;
	out[got] = '\0';
	for (ssize_t i = 0; i < got; i++)
		out[i] = out[i] ? out[i] : ' ';
}

uint32_t kvs_process_parent(pid_t pid)
{
	char path[64], line[256];
	unsigned parent = 0;
	FILE *status;

	snprintf(path, sizeof(path), "/proc/%d/status", (int)pid);
	status = fopen(path, "re");
	while (status && fgets(line, sizeof(line), status))
		if (sscanf(line, "PPid: %u", &parent) == 1)
			break;
	if (status)
		fclose(status);
	return parent;
}
