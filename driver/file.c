/*
 * driver/file.c: the one writer of files (kvs_file_write and kvs_file_writev in cu.h).
 *
 * The data is written to a file without a name (O_TMPFILE) in the target's folder, which gets the name when it is
 * complete; so whatever ends the process on the way, nothing stays behind. A name that is taken can only be replaced by
 * rename(), which needs a name to rename: signals are blocked on this thread for these two system calls. (They cannot
 * be blocked on a program's other threads; one that ends the program there, in between, leaves a complete file under a
 * temporary name.) File systems without O_TMPFILE get a named file from the start, with signals blocked for as long as
 * it takes.
 */
#include "cu.h"

#include <ctype.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <pthread.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#define MOST_LINKS 40 /* as many as Linux follows */
#define MOST_NAMES 100

/* What a path leads to. */
struct place {
	char folder[PATH_MAX];   /* without links; "/" or no slash at its end */
	char name[NAME_MAX + 1]; /* in there; not a symbolic link */
	int descriptor;          /* one of this process's own, in place of a file; else -1 */
	bool exists;
	struct stat old; /* exists */
};

struct data {
	const struct iovec *pieces;
	size_t count;
};

/* If one of 0 to 2 is free, a file must not get its number: output printed meanwhile would land in the file. */
static int descriptor(int fd)
{
	int moved;

	if (fd < 0 || fd > STDERR_FILENO)
		return fd;
	moved = fcntl(fd, F_DUPFD_CLOEXEC, STDERR_FILENO + 1);
	close(fd);
	return moved;
}

static int write_piece(int fd, const char *bytes, size_t count)
{
	while (count) {
		ssize_t written = write(fd, bytes, count);

		if (written < 0)
			return -errno;
		bytes += written;
		count -= (size_t)written;
	}
	return 0;
}

static int write_all(int fd, struct data data)
{
	int err = 0;

	for (size_t i = 0; i < data.count && !err; i++)
		err = write_piece(fd, data.pieces[i].iov_base, data.pieces[i].iov_len);
	return err;
}

/* ---- where a path leads ---- */

/*
 * /dev/stdout and /dev/fd/N lead through here. What such a link names must not be opened again: that would start at the
 * beginning of a file that others write to, and fails for a socket.
 */
static bool is_own_descriptors(const char *folder)
{
	char own[64];

	snprintf(own, sizeof(own), "/proc/%d/", (int)getpid());
	if (strncmp(folder, own, strlen(own)))
		return false;
	folder += strlen(own);
	if (!strncmp(folder, "task/", 5))
		folder += strcspn(folder + 5, "/") + 6;
	return !strcmp(folder, "fd");
}

/* Splits `path` into the folder, with its links resolved, and the name in it. */
static int path_split(const char *path, struct place *place)
{
	char folder[PATH_MAX];
	const char *slash = strrchr(path, '/'), *name = slash ? slash + 1 : path;
	int length = slash ? (int)(slash - path) : 1;

	if (!*path)
		return -ENOENT;
	if (!*name)
		return -EISDIR;
	if (strlen(name) > NAME_MAX || length >= PATH_MAX)
		return -ENAMETOOLONG;
	strcpy(place->name, name);
	snprintf(folder, sizeof(folder), "%.*s", slash == path ? 1 : length, slash ? path : ".");
	return realpath(folder, place->folder) ? 0 : -errno;
}

static int place_join(const struct place *place, const char *name, char *path)
{
	const char *folder = strcmp(place->folder, "/") ? place->folder : "";

	return snprintf(path, PATH_MAX, "%s/%s", folder, name) < PATH_MAX ? 0 : -ENAMETOOLONG;
}

/* 1: the name was a link, and `path` is now where it leads; 0: it was none; or an error. */
static int link_follow(const struct place *place, char *path)
{
	char target[PATH_MAX];
	ssize_t length;
	int err = place_join(place, place->name, path);

	if (err)
		return err;
	length = readlink(path, target, sizeof(target) - 1);
	if (length < 0)
		return errno == EINVAL || errno == ENOENT ? 0 : -errno;
	target[length] = '\0';
	if (*target == '/')
		strcpy(path, target);
	else
		err = place_join(place, target, path);
	return err ? err : 1;
}

static int place_find(const char *asked, struct place *place)
{
	char path[PATH_MAX];
	int links = 0, err;

	place->descriptor = -1;
	if (snprintf(path, sizeof(path), "%s", asked) >= (int)sizeof(path))
		return -ENAMETOOLONG;
	do {
		err = path_split(path, place);
		if (err)
			return err;
		if (is_own_descriptors(place->folder) && isdigit((unsigned char)*place->name)) {
			place->descriptor = atoi(place->name);
			return 0;
		}
		err = link_follow(place, path);
		if (err < 0)
			return err;
	} while (err && ++links <= MOST_LINKS);
	if (err)
		return -ELOOP;
	place->exists = !stat(path, &place->old);
	return place->exists || errno == ENOENT ? 0 : -errno;
}

/* ---- not a regular file, or one that cannot be replaced ---- */

/* `fd` negative: opening it failed, and errno says why. */
static int write_and_close(int fd, struct data data)
{
	int err;

	if (fd < 0)
		return -errno;
	err = write_all(fd, data);
	if (close(fd) && !err)
		err = -errno;
	return err;
}

static int through_descriptor(int number, struct data data)
{
	/* A copy, so that a descriptor that is not open is told from one that takes no data. */
	return write_and_close(fcntl(number, F_DUPFD_CLOEXEC, STDERR_FILENO + 1), data);
}

static int through_path(const char *path, int more_flags, struct data data)
{
	return write_and_close(descriptor(open(path, O_WRONLY | O_CLOEXEC | O_NOCTTY | more_flags)), data);
}

static int write_in_place(const char *path, struct data data)
{
	return through_path(path, O_TRUNC, data);
}

/* ---- a regular file ---- */

static int owner_and_mode_set(int fd, const struct place *place)
{
	struct stat now;

	if (!place->exists)
		return 0;
	if (fstat(fd, &now))
		return -errno;
	if ((now.st_uid != place->old.st_uid || now.st_gid != place->old.st_gid) &&
		fchown(fd, place->old.st_uid, place->old.st_gid))
		return -errno;
	return fchmod(fd, place->old.st_mode & 07777) ? -errno : 0;
}

/* Makes `aside` another name each time, in the same folder. */
static void name_aside(const struct place *place, char *aside)
{
	static unsigned int count;
	struct timespec now;
	char name[64];

	clock_gettime(CLOCK_REALTIME, &now);
	snprintf(name, sizeof(name), ".kvshare-%d-%u-%lx", (int)getpid(),
		__atomic_fetch_add(&count, 1, __ATOMIC_RELAXED), now.tv_nsec);
	if (place_join(place, name, aside))
		*aside = '\0';
}

static void signals_hold(sigset_t *before)
{
	sigset_t all;

	sigfillset(&all);
	pthread_sigmask(SIG_BLOCK, &all, before);
}

static int give_name(int fd, const char *name)
{
	char source[64];

	snprintf(source, sizeof(source), "/proc/self/fd/%d", fd);
	return linkat(AT_FDCWD, source, AT_FDCWD, name, AT_SYMLINK_FOLLOW) ? -errno : 0;
}

static int replace_by(int fd, const char *aside, const char *path)
{
	sigset_t before;
	int err;

	signals_hold(&before);
	err = give_name(fd, aside);
	if (!err && rename(aside, path)) {
		err = -errno;
		unlink(aside);
	}
	pthread_sigmask(SIG_SETMASK, &before, NULL);
	return err;
}

/* The nameless file becomes `path`. */
static int take_place(int fd, const struct place *place, const char *path)
{
	char aside[PATH_MAX];
	int err = place->exists ? -EEXIST : give_name(fd, path);

	for (int i = 0; err == -EEXIST && i < MOST_NAMES; i++) {
		name_aside(place, aside);
		err = replace_by(fd, aside, path);
	}
	return err;
}

static int fill(int fd, const struct place *place, struct data data)
{
	int err = write_all(fd, data);

	if (!err)
		err = owner_and_mode_set(fd, place);
	return !err && fsync(fd) ? -errno : err;
}

static int replace_nameless(const struct place *place, const char *path, struct data data)
{
	int fd = descriptor(open(place->folder, O_TMPFILE | O_WRONLY | O_CLOEXEC, 0666)), err;

	if (fd < 0)
		return -errno;
	err = fill(fd, place, data);
	if (!err)
		err = take_place(fd, place, path);
	if (close(fd) && !err)
		err = -errno;
	return err;
}

static int named_create(const struct place *place, char *aside)
{
	int fd;

	for (int i = 0; i < MOST_NAMES; i++) {
		name_aside(place, aside);
		fd = descriptor(open(aside, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0666));
		if (fd >= 0 || errno != EEXIST)
			break;
	}
	return fd < 0 ? -errno : fd;
}

static int replace_named(const struct place *place, const char *path, struct data data)
{
	char aside[PATH_MAX];
	sigset_t before;
	int fd, err;

	signals_hold(&before);
	fd = named_create(place, aside);
	err = fd < 0 ? fd : fill(fd, place, data);
	if (fd >= 0 && close(fd) && !err)
		err = -errno;
	if (!err && rename(aside, path))
		err = -errno;
	if (fd >= 0 && err)
		unlink(aside);
	pthread_sigmask(SIG_SETMASK, &before, NULL);
	return err;
}

/*
 * Errors of open(O_TMPFILE), and of naming such a file, where it is not possible (EISDIR: the kernel does not know it).
 */
static bool is_no_nameless(int err)
{
	return err == -EOPNOTSUPP || err == -EISDIR || err == -EINVAL || err == -ENOENT;
}

/*
 * The folder takes no new file, the owner cannot be kept, or the name is a mount point: the file itself may be
 * writable.
 */
static bool is_no_replacing(int err)
{
	return err == -EACCES || err == -EPERM || err == -EBUSY;
}

static int write_regular(const struct place *place, const char *path, struct data data)
{
	int err;

	if (place->exists && faccessat(AT_FDCWD, path, W_OK, AT_EACCESS))
		return -errno;
	if (place->exists && place->old.st_nlink > 1)
		return write_in_place(path, data);
	err = replace_nameless(place, path, data);
	if (is_no_nameless(err))
		err = replace_named(place, path, data);
	return place->exists && is_no_replacing(err) ? write_in_place(path, data) : err;
}

/* ---- all of it ---- */

static int write_place(const struct place *place, struct data data)
{
	char path[PATH_MAX];
	int err;

	if (place->descriptor >= 0)
		return through_descriptor(place->descriptor, data);
	err = place_join(place, place->name, path);
	if (err)
		return err;
	if (!place->exists || S_ISREG(place->old.st_mode))
		return write_regular(place, path, data);
	return S_ISDIR(place->old.st_mode) ? -EISDIR : through_path(path, 0, data);
}

/* Both are sent to the thread that writes, so this thread can discard them. */
static void quiet_signals(sigset_t *set)
{
	sigemptyset(set);
	sigaddset(set, SIGPIPE);
	sigaddset(set, SIGXFSZ);
}

static void quiet_signals_drop(const sigset_t *pending_before)
{
	const struct timespec at_once = {0};
	sigset_t one;

	for (int i = 0; i < 2; i++) {
		int number = i ? SIGXFSZ : SIGPIPE;

		sigemptyset(&one);
		sigaddset(&one, number);
		if (!sigismember(pending_before, number))
			sigtimedwait(&one, NULL, &at_once);
	}
}

int kvs_file_write(const char *path, const void *data, size_t bytes)
{
	return kvs_file_writev(path, &(struct iovec){(void *)data, bytes}, 1);
}

int kvs_file_writev(const char *path, const struct iovec *pieces, size_t count)
{
	struct place place = {.descriptor = -1};
	sigset_t quiet, before, pending;
	int err;

	quiet_signals(&quiet);
	sigpending(&pending);
	pthread_sigmask(SIG_BLOCK, &quiet, &before);
	err = place_find(path, &place);
	if (!err)
		err = write_place(&place, (struct data){pieces, count});
	quiet_signals_drop(&pending);
	pthread_sigmask(SIG_SETMASK, &before, NULL);
	return err ? kvs_fail(err, "%s: cannot write: %s", path, strerror(-err)) : 0;
}
