/*
 * calib/compensate/spool.c: arrays that grow with the text, in a file without a name.
 *
 * A fit goes over its text once for each step, batch by batch, and keeps a few rows for each token between the steps. They are
 * in a file, so that its memory does not depend on the text; as far as memory is free, the kernel's page cache holds
 * them anyway. The file has no name, and is gone with the process.
 */
#include "spool.h"

#include "../../driver/cu.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

struct calib_spool {
	int fd;
	size_t record_bytes;
	const char *where;
};

/* Some file systems know no files without a name: there it has one for a moment. */
static int open_in(const char *dir)
{
	char path[4096];
	int fd = open(dir, O_TMPFILE | O_RDWR | O_CLOEXEC, 0600);

	if (fd >= 0 || (size_t)snprintf(path, sizeof(path), "%s/kvshare-XXXXXX", dir) >= sizeof(path))
		return fd;
	fd = mkostemp(path, O_CLOEXEC);
	if (fd >= 0)
		unlink(path);
	return fd;
}

int calib_spool_open(size_t floats, struct calib_spool **out)
{
	const char *chosen = getenv("TMPDIR"),
		   *dirs[] = {chosen && *chosen ? chosen : "/var/tmp", chosen && *chosen ? chosen : "/tmp"};
	struct calib_spool *spool = malloc(sizeof(*spool));
	int err;

	*out = NULL;
	if (!spool)
		return kvs_fail(-ENOMEM, "no memory for a temporary file");
	*spool = (struct calib_spool){.fd = -1, .record_bytes = floats * sizeof(float)};
	for (size_t i = 0; i < sizeof(dirs) / sizeof(*dirs) && spool->fd < 0; i++) {
		spool->where = dirs[i];
		spool->fd = open_in(dirs[i]);
	}
	if (spool->fd < 0) {
		err = kvs_fail(-EIO, "%s: no temporary file can be made there: %s (TMPDIR names another place)",
			spool->where, strerror(errno));
		free(spool);
		return err;
	}
	*out = spool;
	return 0;
}

void calib_spool_close(struct calib_spool *spool)
{
	if (!spool)
		return;
	close(spool->fd);
	free(spool);
}

int calib_spool_write(struct calib_spool *spool, size_t first, size_t count, const float *from)
{
	const char *bytes = (const char *)from;
	size_t left = count * spool->record_bytes;
	off_t at = (off_t)(first * spool->record_bytes);

	while (left) {
		ssize_t now = pwrite(spool->fd, bytes, left, at);
		if (now < 0 && errno == EINTR)
			continue;
		if (now <= 0)
			return kvs_fail(-EIO, "%s: a temporary file cannot be written: %s (TMPDIR names another place)",
				spool->where, now ? strerror(errno) : "nothing was taken");
		bytes += now;
		left -= now;
		at += now;
	}
	return 0;
}

int calib_spool_read(const struct calib_spool *spool, size_t first, size_t count, float *to)
{
	char *bytes = (char *)to;
	size_t left = count * spool->record_bytes;
	off_t at = (off_t)(first * spool->record_bytes);

	while (left) {
		ssize_t now = pread(spool->fd, bytes, left, at);
		if (now < 0 && errno == EINTR)
			continue;
		if (now <= 0)
			return kvs_fail(-EIO, "%s: a temporary file cannot be read: %s", spool->where,
				now ? strerror(errno) : "it ended early");
		bytes += now;
		left -= now;
		at += now;
	}
	return 0;
}
