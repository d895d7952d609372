/*
 * tools/run/streams.c: the standard streams of the program: open from the start, and checked at the end.
 *
 * Exit status 0 promises that all output was written. argp prints help and exits by itself, so the last check runs in an
 * exit handler.
 */
#include "run.h"

#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdio_ext.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

int run_flush_stdout(void)
{
	bool failed_before = ferror(stdout);
	int reason;

	errno = 0;
	if (!fflush(stdout) && !failed_before)
		return 0;
	reason = errno;
	__fpurge(stdout); /* so that the error is reported once */
	clearerr(stdout);
	return kvs_fail(-EIO, "writing to stdout: %s", reason ? strerror(reason) : "a part of it was lost");
}

bool run_is_stdout(const char *path)
{
	return !strcmp(path, "-");
}

int run_write_output(const char *path, const char *text)
{
	if (!run_is_stdout(path))
		return kvs_file_write(path, text, strlen(text));
	fputs(text, stdout);
	return run_flush_stdout();
}

int run_make_temporary(const char *name, char *out, size_t bytes)
{
	const char *folder = getenv("TMPDIR");
	int fd;

	snprintf(out, bytes, "%s/kvshare-%s-XXXXXX", folder && *folder ? folder : "/tmp", name);
	fd = mkstemp(out);
	if (fd < 0)
		return kvs_fail(-errno, "%s: %s", out, strerror(errno));
	close(fd);
	return 0;
}

static void check_at_exit(void)
{
	int err = run_flush_stdout();

	if (!err && fclose(stdout)) /* some file systems report a full disk only now */
		err = kvs_fail(-EIO, "writing to stdout: %s", strerror(errno));
	if (!err)
		return;
	run_complain();
	_exit(EXIT_FAILURE);
}

/*
 * The next file to be opened, or softcuda's memory, would take the place of a closed descriptor, and output would go
 * there. The placeholder is opened for the wrong direction, so that using it is still an error.
 */
static int fill_descriptors(void)
{
	for (int fd = STDIN_FILENO; fd <= STDERR_FILENO; fd++)
		if (fcntl(fd, F_GETFD) < 0 && open("/dev/null", fd == STDIN_FILENO ? O_WRONLY : O_RDONLY) != fd)
			return kvs_fail(-EIO, "/dev/null does not open in place of closed descriptor %d: %s", fd,
				strerror(errno));
	return 0;
}

int run_open_streams(void)
{
	int err = fill_descriptors();

	if (err)
		return err;
	signal(SIGXFSZ, SIG_IGN); /* then a file that may not grow makes write() fail, which is reported */
	return atexit(check_at_exit) ? kvs_fail(-ENOMEM, "no memory to start with") : 0;
}
