/*
 * tools/run/streams.c: the standard streams of the program: open from the start, and checked at the end.
 *
 * What is written to standard output is all there when the program exits with 0. argp prints help and exits by itself, so
 * the last check is made at exit.
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
	__fpurge(stdout); /* so that this is said once */
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

static void check_at_exit(void)
{
	int err = run_flush_stdout();

	if (!err && fclose(stdout)) /* some file systems say only now that there is no room */
		err = kvs_fail(-EIO, "writing to stdout: %s", strerror(errno));
	if (!err)
		return;
	run_complain();
	_exit(EXIT_FAILURE);
}

/*
 * A closed descriptor would be taken by the next file, or by softcuda's memory, and then be written to as standard output.
 * It is opened the wrong way round, so that using it is still an error.
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
	signal(SIGXFSZ, SIG_IGN); /* a file that may not grow further is an error of the write, which is reported */
	return atexit(check_at_exit) ? kvs_fail(-ENOMEM, "no memory to start with") : 0;
}
