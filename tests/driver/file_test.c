/*
 * kvs_file_write() replaces regular files, writes through everything else, and leaves nothing half done: whatever a
 * path leads to, whoever owns it, when the disk is full, when the reader is gone, and when a signal ends the program on
 * the way.
 *
 * Nothing here writes to a name outside the test's own folder, but for /proc/self/fd and a terminal of its own: the tests also
 * run on writers that are broken on purpose (make mutants), as root, and these must not reach the machine's devices.
 */
#include "../../driver/cu.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <linux/filter.h>
#include <linux/seccomp.h>
#include <pthread.h>
#include <pty.h>
#include <sched.h>
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mount.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/sysmacros.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include <cmocka.h>

#define BIG ((size_t)4 << 20)
#define KILLS 25
#define NOBODY 65534

static char folder[64]; /* of this test; the working directory */

static int folder_make(void **state)
{
	(void)state;
	strcpy(folder, "/tmp/kvshare-file-XXXXXX");
	umask(022);
	return !mkdtemp(folder) || chdir(folder);
}

static int folder_remove(void **state)
{
	char command[128];

	(void)state;
	snprintf(command, sizeof(command), "rm -rf '%s'", folder);
	return chdir("/") || system(command);
}

static int put(const char *path, const char *text)
{
	return kvs_file_write(path, text, strlen(text));
}

static void put_old(const char *path, const char *text)
{
	FILE *file = fopen(path, "w");

	assert_non_null(file);
	assert_true(fputs(text, file) >= 0);
	assert_int_equal(fclose(file), 0);
}

static void assert_holds(const char *path, const char *text)
{
	char found[256] = "";
	FILE *file = fopen(path, "r");

	assert_non_null(file);
	found[fread(found, 1, sizeof(found) - 1, file)] = '\0';
	fclose(file);
	assert_string_equal(found, text);
}

static int entries(const char *path)
{
	DIR *directory = opendir(path);
	int count = -2; /* . and .. */

	assert_non_null(directory);
	while (readdir(directory))
		count++;
	closedir(directory);
	return count;
}

static struct stat look(const char *path)
{
	struct stat found;

	assert_int_equal(lstat(path, &found), 0);
	return found;
}

/*
 * Runs `body` in a child, whose limits, mounts and user are its own; its exit status, or 256 + the signal that ended
 * it.
 */
static int in_child(int (*body)(void))
{
	pid_t child = fork();
	int status;

	if (!child)
		_exit(body());
	assert_int_equal(waitpid(child, &status, 0), child);
	return WIFEXITED(status) ? WEXITSTATUS(status) : 256 + WTERMSIG(status);
}

/* In a child, where cmocka's asserts don't work: says what was wrong and gives 1. */
static int wrong(const char *what)
{
	fprintf(stderr, "in the child: %s: %s (errno %d)\n", what, kvs_error(), errno);
	return 1;
}

static bool holds(const char *path, const char *text)
{
	char found[256] = "";
	int fd = open(path, O_RDONLY);
	ssize_t bytes = fd < 0 ? -1 : read(fd, found, sizeof(found) - 1);

	if (fd >= 0)
		close(fd);
	return bytes >= 0 && !strcmp(found, text);
}

/* ---- regular files ---- */

static void a_new_file_has_the_usual_mode(void **state)
{
	(void)state;
	umask(027);
	assert_int_equal(put("new", "one"), 0);
	assert_int_equal(umask(022), 027);
	assert_int_equal(look("new").st_mode & 07777, 0640);
	assert_int_equal(put("./usual", "two"), 0);
	assert_int_equal(look("usual").st_mode & 07777, 0644);
	assert_holds("new", "one");
	assert_int_equal(put("empty", ""), 0);
	assert_int_equal(look("empty").st_size, 0);
	assert_int_equal(entries("."), 3);
}

static void pieces_lie_one_behind_the_other(void **state)
{
	const struct iovec pieces[] = {{"one", 3}, {NULL, 0}, {"two", 3}, {"three", 5}};

	(void)state;
	put_old("old", "a longer text than the new one");
	assert_int_equal(kvs_file_writev("old", pieces, 4), 0);
	assert_holds("old", "onetwothree");
	assert_int_equal(kvs_file_writev("new", pieces, 3), 0);
	assert_holds("new", "onetwo");
	assert_int_equal(kvs_file_writev("none", pieces, 0), 0);
	assert_int_equal(look("none").st_size, 0);
	assert_int_equal(entries("."), 3);
}

static void an_old_file_keeps_mode_and_owner(void **state)
{
	struct stat before, after;

	(void)state;
	put_old("old", "a longer text than the new one");
	assert_int_equal(chmod("old", 0640), 0);
	if (!geteuid())
		assert_int_equal(chown("old", 1234, 1235), 0);
	before = look("old");
	assert_int_equal(put("old", "new"), 0);
	after = look("old");
	assert_holds("old", "new");
	assert_int_equal(after.st_mode, before.st_mode);
	assert_int_equal(after.st_uid, before.st_uid);
	assert_int_equal(after.st_gid, before.st_gid);
	assert_true(after.st_ino != before.st_ino); /* replaced: a reader of the old one still has all of it */
	assert_int_equal(entries("."), 1);
}

static void links_stay_and_their_targets_are_written(void **state)
{
	char absolute[128];

	(void)state;
	assert_int_equal(mkdir("deep", 0755), 0);
	put_old("deep/target", "old");
	assert_int_equal(symlink("deep/target", "first"), 0);
	snprintf(absolute, sizeof(absolute), "%s/first", folder);
	assert_int_equal(symlink(absolute, "second"), 0);
	assert_int_equal(put("second", "new"), 0);
	assert_true(S_ISLNK(look("first").st_mode) && S_ISLNK(look("second").st_mode));
	assert_holds("deep/target", "new");

	assert_int_equal(symlink("../made", "deep/dangling"), 0);
	assert_int_equal(put("deep/dangling", "made"), 0);
	assert_true(S_ISLNK(look("deep/dangling").st_mode));
	assert_holds("made", "made");
	assert_int_equal(entries("."), 4);
	assert_int_equal(entries("deep"), 2);

	assert_int_equal(symlink("nowhere/at/all", "lost"), 0);
	assert_int_equal(put("lost", "x"), -ENOENT);
	assert_int_equal(symlink("round", "round"), 0);
	assert_int_equal(put("round", "x"), -ELOOP);
	assert_non_null(strstr(kvs_error(), "round"));
}

static void other_names_of_a_file_see_the_new_text(void **state)
{
	(void)state;
	put_old("one", "a longer text than the new one");
	assert_int_equal(link("one", "other"), 0);
	assert_int_equal(put("one", "new"), 0);
	assert_holds("other", "new");
	assert_int_equal(look("one").st_ino, look("other").st_ino);
}

static void what_is_no_place_for_a_file_is_an_error(void **state)
{
	char name[300];

	(void)state;
	assert_int_equal(mkdir("directory", 0755), 0);
	assert_int_equal(put("directory", "x"), -EISDIR);
	assert_int_equal(put("directory/", "x"), -EISDIR);
	assert_int_equal(put("directory/.", "x"), -EISDIR);
	assert_int_equal(put(".", "x"), -EISDIR);
	assert_int_equal(put("/", "x"), -EISDIR);
	assert_int_equal(put("", "x"), -ENOENT);
	assert_int_equal(put("nowhere/file", "x"), -ENOENT);
	assert_string_equal(kvs_error(), "nowhere/file: cannot write: No such file or directory");
	put_old("file", "old");
	assert_int_equal(put("file/below", "x"), -ENOTDIR);
	memset(name, 'n', sizeof(name));
	name[sizeof(name) - 1] = '\0';
	assert_int_equal(put(name, "x"), -ENAMETOOLONG);
	assert_int_equal(entries("."), 2);
}

static int as_nobody(void)
{
	struct stat found;

	if (setgid(NOBODY) || setuid(NOBODY))
		return wrong("cannot become nobody");
	if (put("readonly", "new") != -EACCES || !holds("readonly", "old"))
		return wrong("a file that must not be written");
	if (put("closed/open", "new") || !holds("closed/open", "new"))
		return wrong("a file in a folder that takes no new file");
	if (put("closed/new", "new") != -EACCES)
		return wrong("a new file in such a folder");
	if (put("foreign", "new") || !holds("foreign", "new") || stat("foreign", &found) || found.st_uid)
		return wrong("a file of somebody else");
	return 0;
}

static void permissions_are_obeyed(void **state)
{
	(void)state;
	if (geteuid())
		skip();
	assert_int_equal(chmod(".", 0777), 0);
	put_old("readonly", "old");
	assert_int_equal(chown("readonly", NOBODY, NOBODY) || chmod("readonly", 0444), 0);
	put_old("foreign", "a longer text than the new one");
	assert_int_equal(chmod("foreign", 0666), 0);
	assert_int_equal(mkdir("closed", 0755), 0);
	put_old("closed/open", "a longer text than the new one");
	assert_int_equal(chmod("closed/open", 0666), 0);
	assert_int_equal(in_child(as_nobody), 0);
	assert_int_equal(entries("."), 3);
}

/* ---- not regular files ---- */

/* A child that opens the FIFO, reads at most so much, and exits 0 where it read `text` (NULL: whatever it read). */
static pid_t read_in_child(const char *path, size_t most, const char *text)
{
	pid_t child = fork();
	char found[256] = "";
	int fd;

	if (child)
		return child;
	fd = open(path, O_RDONLY);
	_exit(fd < 0 || read(fd, found, most) < 0 || (text && strcmp(found, text)));
}

static void a_fifo_is_written_through(void **state)
{
	pid_t reader;
	int status;

	(void)state;
	assert_int_equal(mkfifo("fifo", 0600), 0);
	assert_int_equal(symlink("fifo", "link"), 0);
	reader = read_in_child("fifo", 255, "through");
	assert_int_equal(put("link", "through"), 0);
	assert_int_equal(waitpid(reader, &status, 0), reader);
	assert_int_equal(status, 0);
	assert_true(S_ISFIFO(look("fifo").st_mode) && S_ISLNK(look("link").st_mode));
	assert_int_equal(entries("."), 2);
}

static void a_reader_that_goes_is_an_error(void **state)
{
	char *big = calloc(1, BIG);
	sigset_t pending;
	pid_t reader;

	(void)state;
	assert_int_equal(mkfifo("fifo", 0600), 0);
	reader = read_in_child("fifo", 1, NULL);
	assert_int_equal(kvs_file_write("fifo", big, BIG), -EPIPE);
	assert_string_equal(kvs_error(), "fifo: cannot write: Broken pipe");
	assert_int_equal(sigpending(&pending), 0);
	assert_false(sigismember(&pending, SIGPIPE));
	waitpid(reader, NULL, 0);
	assert_true(S_ISFIFO(look("fifo").st_mode));
	free(big);
}

static void on_alarm(int number)
{
	(void)number;
}

static void waiting_for_a_reader_can_be_interrupted(void **state)
{
	struct sigaction action = {.sa_handler = on_alarm}, before;

	(void)state;
	assert_int_equal(mkfifo("fifo", 0600), 0);
	sigaction(SIGALRM, &action, &before);
	alarm(1);
	assert_int_equal(put("fifo", "x"), -EINTR);
	sigaction(SIGALRM, &before, NULL);
}

static void a_terminal_is_written_through(void **state)
{
	char name[64], text[16] = "";
	int master, slave;
	struct stat before;

	(void)state;
	if (openpty(&master, &slave, name, NULL, NULL))
		skip();
	before = look(name);
	assert_int_equal(put(name, "shown"), 0);
	assert_int_equal(read(master, text, sizeof(text) - 1), 5);
	assert_string_equal(text, "shown");
	assert_int_equal(look(name).st_ino, before.st_ino);
	close(master);
	close(slave);
}

/* A node of our own: a writer that replaced it, as a mutant does, must not reach the machine's. */
static void a_full_device_is_an_error(void **state)
{
	int fd;

	(void)state;
	if (mknod("full", S_IFCHR | 0600, makedev(1, 7)))
		skip();
	fd = open("full", O_WRONLY);
	if (fd < 0)
		skip(); /* this file system has no devices */
	close(fd);
	assert_int_equal(put("full", "x"), -ENOSPC);
	assert_true(S_ISCHR(look("full").st_mode));
}

static void descriptors_are_written_where_they_stand(void **state)
{
	int ends[2], fd;
	char path[64], text[16] = "";

	(void)state;
	assert_int_equal(pipe(ends), 0);
	snprintf(path, sizeof(path), "/dev/fd/%d", ends[1]);
	assert_int_equal(put(path, "pipe"), 0);
	assert_int_equal(read(ends[0], text, sizeof(text)), 4);
	close(ends[0]);
	close(ends[1]);
	assert_int_equal(put(path, "x"), -EBADF);

	assert_int_equal(socketpair(AF_UNIX, SOCK_STREAM, 0, ends), 0);
	snprintf(path, sizeof(path), "/proc/self/fd/%d", ends[1]);
	assert_int_equal(put(path, "socket"), 0);
	assert_int_equal(read(ends[0], text, sizeof(text)), 6);
	close(ends[0]);
	close(ends[1]);

	fd = open("log", O_WRONLY | O_CREAT, 0600);
	assert_int_equal(write(fd, "head ", 5), 5);
	snprintf(path, sizeof(path), "/proc/%d/task/%d/fd/%d", (int)getpid(), (int)getpid(), fd);
	assert_int_equal(put(path, "body"), 0);
	assert_int_equal(write(fd, " tail", 5), 5);
	close(fd);
	assert_holds("log", "head body tail");
	assert_int_equal(entries("."), 1);
}

static int with_stdout_to_a_file(void)
{
	int fd = open("log", O_WRONLY | O_CREAT, 0600);

	dup2(fd, STDOUT_FILENO);
	if (write(STDOUT_FILENO, "head ", 5) != 5 || put("stdout", "body"))
		return wrong("stdout");
	return !holds("log", "head body");
}

static void stdout_is_written_where_it_stands(void **state)
{
	(void)state;
	assert_int_equal(
		symlink("/proc/self/fd/1", "stdout"), 0); /* /dev/stdout, where a mutant can't harm the machine */
	assert_int_equal(in_child(with_stdout_to_a_file), 0);
	assert_true(S_ISLNK(look("stdout").st_mode));
}

static void *write_big(void *path)
{
	char *big = calloc(1, BIG);
	intptr_t err = kvs_file_write(path, big, BIG);

	free(big);
	return (void *)err;
}

/* The file is open while its reader does not read: time to look at the descriptors. */
static int with_stdout_closed(void)
{
	int reader = open("fifo", O_RDONLY | O_NONBLOCK), waiting = 0;
	bool taken;
	pthread_t thread;
	void *err;

	close(STDIN_FILENO);
	close(STDOUT_FILENO);
	if (pthread_create(&thread, NULL, write_big, (void *)"fifo"))
		return wrong("no thread");
	while (!waiting && !ioctl(reader, FIONREAD, &waiting))
		usleep(1000);
	taken = fcntl(STDIN_FILENO, F_GETFD) >= 0 || fcntl(STDOUT_FILENO, F_GETFD) >= 0;
	close(reader);
	pthread_join(thread, &err);
	if (taken)
		return wrong("a standard descriptor was taken");
	return (intptr_t)err == -EPIPE ? 0 : wrong("the reader went");
}

static void standard_descriptors_are_left_alone(void **state)
{
	(void)state;
	assert_int_equal(mkfifo("fifo", 0600), 0);
	assert_int_equal(in_child(with_stdout_closed), 0);
}

/* ---- limits and full disks ---- */

static int with_a_file_size_limit(void)
{
	const struct rlimit limit = {4096, 4096};
	char *big = calloc(1, BIG);

	setrlimit(RLIMIT_FSIZE, &limit);
	if (kvs_file_write("old", big, BIG) != -EFBIG || kvs_file_write("new", big, BIG) != -EFBIG)
		return wrong("a limit of file size");
	return put("small", "fits") ? wrong("a small file under the limit") : 0;
}

static void a_limit_of_file_size_is_an_error(void **state)
{
	(void)state;
	put_old("old", "old");
	assert_int_equal(in_child(with_a_file_size_limit), 0);
	assert_holds("old", "old");
	assert_int_equal(entries("."), 2);
}

/* 77: no mount can be made here. */
static int on_a_small_disk(void)
{
	char *big = calloc(1, BIG);

	if (unshare(CLONE_NEWNS | (geteuid() ? CLONE_NEWUSER : 0)) || mount("", "/", NULL, MS_REC | MS_PRIVATE, NULL) ||
		mkdir("disk", 0755) || mount("tmpfs", "disk", "tmpfs", 0, "size=64k"))
		return 77;
	if (put("disk/old", "old") || kvs_file_write("disk/old", big, BIG) != -ENOSPC || !holds("disk/old", "old"))
		return wrong("an old file on a full disk");
	if (kvs_file_write("disk/new", big, BIG) != -ENOSPC || entries("disk") != 1)
		return wrong("a new file on a full disk");
	if (put("bound", "bound") || mount("bound", "disk/old", NULL, MS_BIND, NULL))
		return 77;
	if (put("disk/old", "new") || !holds("disk/old", "new") || !holds("bound", "new") || entries("disk") != 1)
		return wrong("a file that is a mount point");
	return 0;
}

static void a_full_disk_leaves_the_old_file(void **state)
{
	int status = in_child(on_a_small_disk);

	(void)state;
	if (status == 77)
		skip();
	assert_int_equal(status, 0);
}

/* ---- signals ---- */

/* From now on the kernel answers O_TMPFILE like a file system that lacks it. */
static bool nameless_files_forbid(void)
{
	struct sock_filter code[] = {
		BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(struct seccomp_data, nr)),
		BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, SYS_openat, 0, 3),
		BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(struct seccomp_data, args[2])),
		BPF_JUMP(BPF_JMP | BPF_JSET | BPF_K, O_TMPFILE & ~O_DIRECTORY, 0, 1),
		BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ERRNO | EOPNOTSUPP),
		BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ALLOW),
	};
	struct sock_fprog program = {.len = sizeof(code) / sizeof(*code), .filter = code};

	return !prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) && !prctl(PR_SET_SECCOMP, SECCOMP_MODE_FILTER, &program) &&
	       open(".", O_TMPFILE | O_WRONLY, 0600) < 0 && errno == EOPNOTSUPP;
}

static int write_for_ever(void)
{
	char *big = malloc(BIG);

	for (char fill = 'a';; fill = fill == 'z' ? 'a' : (char)(fill + 1)) {
		memset(big, fill, BIG);
		if (kvs_file_write("target", big, BIG))
			return wrong("a write that a signal will end");
	}
}

static int write_for_ever_under_names(void)
{
	return nameless_files_forbid() ? write_for_ever() : 77;
}

static void assert_whole(void)
{
	FILE *file = fopen("target", "r");
	int first, next;
	size_t bytes = 1;

	assert_non_null(file);
	first = fgetc(file);
	while ((next = fgetc(file)) == first)
		bytes++;
	assert_int_equal(next, EOF);
	assert_int_equal(bytes, BIG);
	fclose(file);
}

static void end_it_again_and_again(int (*body)(void))
{
	static const int signals[] = {SIGTERM, SIGINT, SIGHUP};

	put_old("target", "");
	for (int i = 0; i < KILLS; i++) {
		/* Long enough to be in the second write or later. */
		struct timespec moment = {0, 20000000 + rand() % 20000000};
		int number = signals[i % 3], status;
		pid_t child = fork();

		if (!child)
			_exit(body());
		nanosleep(&moment, NULL);
		while (!look("target").st_size && !waitpid(child, &status, WNOHANG))
			nanosleep(&moment, NULL);
		kill(child, number);
		waitpid(child, &status, 0);
		if (WIFEXITED(status) && WEXITSTATUS(status) == 77)
			skip();
		assert_true(WIFSIGNALED(status) && WTERMSIG(status) == number);
		assert_int_equal(entries("."), 1);
		assert_whole();
	}
}

static void a_signal_leaves_one_whole_file(void **state)
{
	(void)state;
	end_it_again_and_again(write_for_ever);
}

static void a_signal_leaves_one_whole_file_without_nameless_files(void **state)
{
	(void)state;
	end_it_again_and_again(write_for_ever_under_names);
}

static int all_without_nameless_files(void)
{
	struct stat found;

	if (!nameless_files_forbid())
		return 77;
	if (put("new", "new") || !holds("new", "new") || stat("new", &found) || (found.st_mode & 07777) != 0644)
		return wrong("a new file");
	if (put("old", "new") || !holds("old", "new") || stat("old", &found) || (found.st_mode & 07777) != 0640)
		return wrong("an old file");
	return with_a_file_size_limit();
}

static void file_systems_without_nameless_files_work_too(void **state)
{
	int status;

	(void)state;
	put_old("old", "old");
	assert_int_equal(chmod("old", 0640), 0);
	status = in_child(all_without_nameless_files);
	if (status == 77)
		skip();
	assert_int_equal(status, 0);
	assert_int_equal(entries("."), 3);
}

int main(void)
{
#define IN_FOLDER(test) cmocka_unit_test_setup_teardown(test, folder_make, folder_remove)
	const struct CMUnitTest tests[] = {
		IN_FOLDER(a_new_file_has_the_usual_mode),
		IN_FOLDER(pieces_lie_one_behind_the_other),
		IN_FOLDER(an_old_file_keeps_mode_and_owner),
		IN_FOLDER(links_stay_and_their_targets_are_written),
		IN_FOLDER(other_names_of_a_file_see_the_new_text),
		IN_FOLDER(what_is_no_place_for_a_file_is_an_error),
		IN_FOLDER(permissions_are_obeyed),
		IN_FOLDER(a_fifo_is_written_through),
		IN_FOLDER(a_reader_that_goes_is_an_error),
		IN_FOLDER(waiting_for_a_reader_can_be_interrupted),
		IN_FOLDER(a_terminal_is_written_through),
		IN_FOLDER(a_full_device_is_an_error),
		IN_FOLDER(descriptors_are_written_where_they_stand),
		IN_FOLDER(stdout_is_written_where_it_stands),
		IN_FOLDER(standard_descriptors_are_left_alone),
		IN_FOLDER(a_limit_of_file_size_is_an_error),
		IN_FOLDER(a_full_disk_leaves_the_old_file),
		IN_FOLDER(a_signal_leaves_one_whole_file),
		IN_FOLDER(a_signal_leaves_one_whole_file_without_nameless_files),
		IN_FOLDER(file_systems_without_nameless_files_work_too),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
