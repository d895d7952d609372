/*
 * profiler/bpf/drivers.c: finds the driver's file and puts probes on it.
 *
 * The file is opened through the mapping itself (/proc/PID/map_files), so it is the right one in a container, and where its path
 * is another file by now; its probes are then put on /proc/self/fd/N. Kernels from 6.6 on take all probes in one call, and, what
 * matters more, give them up in one: one by one each costs 0.1 s.
 */
#include "drivers.h"

#include "functions.h"
#include "mappings.h"
#include "programs.h"
#include "exports.h"

#include "../../driver/cu.h"

#include <bpf/bpf.h>
#include <bpf/libbpf.h>
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

enum { ENTRY, RETURN, SIDES };

struct prof_driver {
	dev_t device;
	ino_t inode;
	int fd;
	bool softcuda;
	int many[SIDES];         /* links of probes that were put all at once, -1: none */
	struct bpf_link **links; /* or one by one */
	size_t link_count;
};

/* ---- the file ---- */

static bool is_driver(const struct prof_mapping *mapping)
{
	return !strncmp(strrchr(mapping->path, '/') + 1, "libcuda.so", strlen("libcuda.so"));
}

static int open_by_path(pid_t pid, const struct prof_mapping *mapping)
{
	char path[PATH_MAX + 64];
	struct stat st;
	int fd;

	snprintf(path, sizeof(path), "/proc/%d/root%s", pid, mapping->path);
	fd = open(path, O_RDONLY | O_CLOEXEC);
	if (fd < 0)
		return kvs_fail(-errno, "%s: %s", path, strerror(errno));
	if (!fstat(fd, &st) && st.st_ino == mapping->inode)
		return fd;
	close(fd);
	return kvs_fail(-ESTALE, "%s is not the file any more that process %d runs", path, pid);
}

/* Through the mapping, which takes CAP_SYS_ADMIN or CAP_CHECKPOINT_RESTORE; else by its path. */
static int open_driver(pid_t pid, const struct prof_mapping *mapping)
{
	char path[128];
	int fd;

	snprintf(path, sizeof(path), "/proc/%d/map_files/%" PRIx64 "-%" PRIx64, pid, mapping->start, mapping->end);
	fd = open(path, O_RDONLY | O_CLOEXEC);
	return fd >= 0 ? fd : open_by_path(pid, mapping);
}

/* ---- probes ---- */

/* linux/bpf.h of 6.13; that of the machine where this is built may be older. */
#define TRACE_UPROBE_MULTI 48
#define TRACE_UPROBE_SESSION 57
#define UPROBE_MULTI_RETURN 1
struct link_uprobes {
	uint32_t program, target, attach_type, flags;
	uint64_t path, offsets, reference_counters, cookies;
	uint32_t count, uprobe_flags, pid, unused;
};

static int attach_many(const struct bpf_program *program, uint32_t type, int side, const char *path,
	const struct prof_export *symbols, size_t count)
{
	uint64_t *offsets = calloc(count, sizeof(*offsets)), *cookies = calloc(count, sizeof(*cookies));
	struct link_uprobes link = {.program = bpf_program__fd(program),
		.attach_type = type,
		.path = (uintptr_t)path,
		.offsets = (uintptr_t)offsets,
		.cookies = (uintptr_t)cookies,
		.count = count,
		.uprobe_flags = side == RETURN ? UPROBE_MULTI_RETURN : 0};
	int fd = -1;

	for (size_t i = 0; offsets && cookies && i < count; i++) {
		offsets[i] = symbols[i].offset;
		cookies[i] = prof_function_cookie(symbols[i].function).word;
	}
	errno = ENOMEM;
	if (offsets && cookies)
		fd = (int)syscall(SYS_bpf, BPF_LINK_CREATE, &link, sizeof(link));
	fd = fd < 0 ? -errno : fd;
	free(offsets);
	free(cookies);
	return fd;
}

static int attach_all_at_once(const struct prof_programs *programs, struct prof_driver *driver, const char *path,
	const struct prof_export *symbols, size_t count)
{
	uint32_t type = programs->way == PROF_SESSION ? TRACE_UPROBE_SESSION : TRACE_UPROBE_MULTI;

	/* The other way round a call could be seen to begin and never to end. */
	if (programs->way == PROF_MANY) {
		driver->many[RETURN] = attach_many(programs->ends, type, RETURN, path, symbols, count);
		if (driver->many[RETURN] < 0)
			return driver->many[RETURN];
	}
	driver->many[ENTRY] = attach_many(programs->begins, type, ENTRY, path, symbols, count);
	return driver->many[ENTRY] < 0 ? driver->many[ENTRY] : 0;
}

static int attach_one(const struct bpf_program *program, bool on_return, struct prof_driver *driver, const char *path,
	const struct prof_export *symbol)
{
	LIBBPF_OPTS(bpf_uprobe_opts, options, .retprobe = on_return,
		.bpf_cookie = prof_function_cookie(symbol->function).word);
	struct bpf_link *link = bpf_program__attach_uprobe_opts(program, -1, path, symbol->offset, &options);

	if (!link)
		return -errno;
	driver->links[driver->link_count++] = link;
	return 0;
}

static int attach_one_by_one(const struct prof_programs *programs, struct prof_driver *driver, const char *path,
	const struct prof_export *symbols, size_t count)
{
	int err = 0;

	driver->links = calloc(count * SIDES, sizeof(struct bpf_link *));
	if (!driver->links)
		return -ENOMEM;
	for (size_t i = 0; i < count && !err; i++)
		err = attach_one(programs->ends, true, driver, path, &symbols[i]);
	for (size_t i = 0; i < count && !err; i++)
		err = attach_one(programs->begins, false, driver, path, &symbols[i]);
	return err;
}

static void detach(struct prof_driver *driver)
{
	for (int side = 0; side < SIDES; side++)
		if (driver->many[side] >= 0)
			close(driver->many[side]);
	while (driver->link_count)
		bpf_link__destroy(driver->links[--driver->link_count]);
	free(driver->links);
	close(driver->fd);
}

static int attach(const struct prof_programs *programs, struct prof_driver *driver)
{
	struct prof_exports exports;
	char path[64];
	int err = prof_exports_read(driver->fd, &exports);

	if (err)
		return err;
	driver->softcuda = exports.softcuda;
	snprintf(path, sizeof(path), "/proc/self/fd/%d", driver->fd);
	err = programs->way == PROF_ONE_BY_ONE
		      ? attach_one_by_one(programs, driver, path, exports.items, exports.count)
		      : attach_all_at_once(programs, driver, path, exports.items, exports.count);
	free(exports.items);
	return err ? kvs_fail(err, "the kernel takes no probes: %s", strerror(-err)) : 0;
}

/* ---- drivers ---- */

static const struct prof_driver *find(const struct prof_drivers *drivers, const struct stat *st)
{
	for (size_t i = 0; i < drivers->count; i++)
		if (drivers->items[i].device == st->st_dev && drivers->items[i].inode == st->st_ino)
			return &drivers->items[i];
	return NULL;
}

/* Takes over `fd`. */
static int add(struct prof_drivers *drivers, int fd, const struct stat *st)
{
	struct prof_driver driver = {
		.device = st->st_dev, .inode = st->st_ino, .fd = fd, .many = {[ENTRY] = -1, [RETURN] = -1}};
	struct prof_driver *items = realloc(drivers->items, (drivers->count + 1) * sizeof(*items));
	int err;

	if (!items) {
		close(fd);
		return kvs_fail(-ENOMEM, "no memory for a driver's probes");
	}
	drivers->items = items;
	err = attach(drivers->programs, &driver);
	if (err) {
		detach(&driver);
		return err;
	}
	items[drivers->count++] = driver;
	drivers->ever++;
	return 0;
}

static int attach_mapping(
	struct prof_drivers *drivers, pid_t pid, const struct prof_mapping *mapping, struct prof_drivers_found *found)
{
	int fd = open_driver(pid, mapping), err = 0;
	const struct prof_driver *driver;
	struct stat st;

	if (fd < 0)
		return fd;
	if (!fstat(fd, &st) && !find(drivers, &st))
		err = add(drivers, fd, &st);
	else
		close(fd);
	driver = err ? NULL : find(drivers, &st);
	found->drivers += driver != NULL;
	found->softcuda |= driver && driver->softcuda;
	return err;
}

int prof_drivers_attach(struct prof_drivers *drivers, pid_t pid, struct prof_drivers_found *found)
{
	struct prof_mappings mappings;
	struct prof_mapping mapping;
	int err = prof_mappings_open(&mappings, pid), failed;

	*found = (struct prof_drivers_found){0};
	if (err)
		return err;
	while (prof_mappings_next(&mappings, &mapping)) {
		failed = is_driver(&mapping) ? attach_mapping(drivers, pid, &mapping, found) : 0;
		err = failed ? failed : err;
	}
	prof_mappings_close(&mappings);
	return err;
}

void prof_drivers_detach(struct prof_drivers *drivers)
{
	for (size_t i = 0; i < drivers->count; i++)
		detach(&drivers->items[i]);
	free(drivers->items);
	drivers->items = NULL;
	drivers->count = 0;
}
