/*
 * profiler/bpf/programs.c: loads our programs.
 *
 * Ways are tried from the newest kernel's to the oldest's: what a kernel can is best told by doing it.
 */
#include "programs.h"

#include "../../driver/cu.h"

#include "watch.skel.h"

#include <bpf/bpf.h>
#include <errno.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

/* enum bpf_attach_type of Linux 6.13; libbpf passes on what it does not know. */
#define TRACE_UPROBE_MULTI 48
#define TRACE_UPROBE_SESSION 57
#define KERNEL_PID_NAMESPACE 0xeffffffcu /* its inode, PROC_PID_INIT_INO in the kernel */

/* What libbpf said last: a program that the kernel refuses is explained in its messages alone. */
static __thread char said[256];

static int listen(enum libbpf_print_level level, const char *format, va_list args)
{
	if (level == LIBBPF_WARN)
		vsnprintf(said, sizeof(said), format, args);
	return 0;
}

static uint32_t pid_namespace(void)
{
	struct stat st;

	return stat("/proc/self/ns/pid", &st) || st.st_ino == KERNEL_PID_NAMESPACE ? 0 : (uint32_t)st.st_ino;
}

/* Of the programs that the object has, those that this way uses. */
static void choose(struct watch_programs *skeleton, enum prof_way way)
{
	bpf_program__set_autoload(skeleton->progs.call_passes, way == PROF_SESSION);
	bpf_program__set_autoload(skeleton->progs.call_begins, way != PROF_SESSION);
	bpf_program__set_autoload(skeleton->progs.call_ends, way != PROF_SESSION);
	bpf_program__set_expected_attach_type(skeleton->progs.call_passes, TRACE_UPROBE_SESSION);
	if (way == PROF_MANY) {
		bpf_program__set_expected_attach_type(skeleton->progs.call_begins, TRACE_UPROBE_MULTI);
		bpf_program__set_expected_attach_type(skeleton->progs.call_ends, TRACE_UPROBE_MULTI);
	}
}

static int load(struct prof_programs *programs, const struct prof_programs_options *options, enum prof_way way)
{
	struct watch_programs *skeleton = watch_programs__open();

	if (!skeleton)
		return -errno;
	programs->skeleton = skeleton;
	skeleton->rodata->target = (uint32_t)options->target;
	skeleton->rodata->namespace = pid_namespace();
	skeleton->rodata->hold = options->hold;
	bpf_map__set_max_entries(skeleton->maps.ring, options->ring_bytes);
	choose(skeleton, way);
	return watch_programs__load(skeleton);
}

static int attach(struct prof_programs *programs)
{
	const struct bpf_program *const all[] = {programs->skeleton->progs.process_forks,
		programs->skeleton->progs.process_execs, programs->skeleton->progs.thread_exits,
		programs->skeleton->progs.system_call_ends, programs->skeleton->progs.system_call_begins};

	for (size_t i = 0; i < sizeof(all) / sizeof(*all); i++) {
		struct bpf_link *link = bpf_program__attach(all[i]);
		if (!link)
			return -errno;
		programs->tracepoints[programs->tracepoint_count++] = link;
	}
	return 0;
}

static void publish(struct prof_programs *programs, enum prof_way way)
{
	const struct watch_programs *skeleton = programs->skeleton;

	programs->way = way;
	programs->processes = bpf_map__fd(skeleton->maps.processes);
	programs->drivers = bpf_map__fd(skeleton->maps.drivers);
	programs->counts = bpf_map__fd(skeleton->maps.counts);
	programs->ring = bpf_map__fd(skeleton->maps.ring);
	programs->lost = &skeleton->bss->lost;
	programs->begins = way == PROF_SESSION ? skeleton->progs.call_passes : skeleton->progs.call_begins;
	programs->ends = skeleton->progs.call_ends;
}

int prof_programs_load(struct prof_programs *programs, const struct prof_programs_options *options)
{
	int err = -EINVAL;

	libbpf_set_print(listen);
	for (unsigned way = options->way; err && way < PROF_WAYS; way++) {
		err = load(programs, options, way);
		if (!err)
			err = attach(programs);
		if (!err)
			publish(programs, way);
		else
			prof_programs_free(programs);
	}
	said[strcspn(said, "\n")] = '\0';
	return err ? kvs_fail(err, "the kernel does not take the programs that watch: %s (%s)", strerror(-err), said)
		   : 0;
}

/* Lets a program look at every process. */
static int look_at_all(const struct prof_programs *programs)
{
	struct bpf_link *link = bpf_program__attach(programs->skeleton->progs.find_target);
	int fd = link ? bpf_iter_create(bpf_link__fd(link)) : -errno;
	char end;

	if (fd >= 0) {
		while (read(fd, &end, 1) < 0 && errno == EINTR)
			continue;
		close(fd);
	}
	bpf_link__destroy(link);
	return fd < 0 ? kvs_fail(fd, "the kernel does not let us look at its processes: %s", strerror(-fd)) : 0;
}

int prof_programs_find_target(const struct prof_programs *programs, pid_t pid, uint32_t *key)
{
	uint32_t *before = NULL, value;
	int err = look_at_all(programs);

	if (err)
		return err;
	while (!bpf_map_get_next_key(programs->processes, before, key)) {
		if (!bpf_map_lookup_elem(programs->processes, key, &value) && value == (uint32_t)pid)
			return 0;
		before = key;
	}
	return kvs_fail(-ESRCH, "there is no process %d", pid);
}

void prof_programs_detach(struct prof_programs *programs)
{
	while (programs->tracepoint_count)
		bpf_link__destroy(programs->tracepoints[--programs->tracepoint_count]);
}

void prof_programs_free(struct prof_programs *programs)
{
	prof_programs_detach(programs);
	watch_programs__destroy(programs->skeleton);
	*programs = (struct prof_programs){0};
}
