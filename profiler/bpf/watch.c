/*
 * profiler/bpf/watch.c: processes watched from outside.
 *
 * Our programs in the kernel (watch.bpf.c) send records through a ring buffer; here they become events of a trace. What they
 * cannot do is done here: putting probes on a driver that a process has just mapped, and finding files for addresses.
 */
#include "counts.h"
#include "drivers.h"
#include "functions.h"
#include "processes.h"
#include "programs.h"

#include "../../driver/cu.h"

#include <bpf/bpf.h>
#include <bpf/libbpf.h>
#include <errno.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#define RING_BYTES (4u << 20)
#define TICK_NS 1000000000u /* counts are told this often */
#define POLL_MS 50          /* calls wait in the ring without waking anybody, so it is emptied this often */

struct kvs_watch {
	struct prof_programs programs;
	struct ring_buffer *ring;
	struct prof_drivers drivers;
	struct prof_processes processes;
	kvs_trace *trace;
	uint32_t target; /* key of the process */
	uint64_t events, lost, next_tick_ns;
	bool starting, ended;
	int status;
	char problem[256];
};

static uint64_t now_ns(void)
{
	struct timespec now;

	clock_gettime(CLOCK_MONOTONIC, &now);
	return (uint64_t)now.tv_sec * 1000000000 + now.tv_nsec;
}

/* ---- what the kernel can do ---- */

/* CAP_BPF is 39, CAP_PERFMON 38, CAP_SYS_ADMIN 21 (linux/capability.h); the effective set is a hex word in /proc. */
static bool may_load_programs(void)
{
	FILE *status = fopen("/proc/self/status", "re");
	unsigned long long capabilities = 0;
	char line[256];

	while (status && fgets(line, sizeof(line), status))
		if (sscanf(line, "CapEff: %llx", &capabilities) == 1)
			break;
	if (status)
		fclose(status);
	return capabilities >> 21 & 1 || (capabilities >> 39 & 1 && capabilities >> 38 & 1);
}

int kvs_watch_check(void)
{
	if (access("/sys/kernel/btf/vmlinux", R_OK))
		return kvs_fail(-ENOTSUP,
			"watching processes needs a kernel of 5.15 or newer with CONFIG_DEBUG_INFO_BTF "
			"(/sys/kernel/btf/vmlinux)");
	if (!may_load_programs())
		return kvs_fail(-EPERM, "watching processes needs root, or CAP_BPF and CAP_PERFMON");
	return 0;
}

/* ---- records ---- */

/* The first reason is kept: others tend to follow from it. */
static void note_problem(kvs_watch *watch)
{
	if (!watch->problem[0])
		snprintf(watch->problem, sizeof(watch->problem), "%s", kvs_error());
}

static int watch_driver(kvs_watch *watch, struct prof_process *process)
{
	struct prof_drivers_found found;
	int err = prof_drivers_attach(&watch->drivers, (pid_t)process->pid, &found);

	process->has_driver |= found.drivers > 0;
	process->softcuda |= found.softcuda;
	return err;
}

static void take_mapped(kvs_watch *watch, const struct prof_mapped *mapped)
{
	struct prof_process *process = prof_process_get(&watch->processes, &mapped->record);
	uint8_t yes = 1;

	if (process)
		process->stale_modules = true;
	if (process && mapped->driver) {
		int err = watch_driver(watch, process);
		if (err && err != -ESRCH)
			note_problem(watch);
		if (process->has_driver)
			prof_process_tell(&watch->processes, process, watch->trace);
	}
	if (mapped->fresh)
		bpf_map_update_elem(watch->programs.drivers, &mapped->file, &yes, BPF_ANY);
	/* While the process may be standing, what it has mapped cannot go away with it. */
	if (process && process->has_driver)
		prof_process_read_modules(process);
	if (mapped->held)
		kill((pid_t)mapped->record.pid, SIGCONT);
}

static void take_call(kvs_watch *watch, const struct prof_call *call, const uint64_t *stack)
{
	struct prof_process *process = prof_process_get(&watch->processes, &call->record);
	struct kvs_frame frames[KVS_MAX_FRAMES];
	struct kvs_event event;

	if (!process) {
		kvs_trace_lost(watch->trace, 1);
		return;
	}
	prof_process_tell(&watch->processes, process, watch->trace);
	prof_function_event(call, &event);
	event.call.frames = frames;
	event.call.frame_count = stack ? prof_process_frames(process, stack, call->frames, frames) : 0;
	kvs_trace_add(watch->trace, &event);
	watch->events++;
	if (prof_function_tells_device(call, &event))
		kvs_trace_add(watch->trace, &event);
}

static void tell_counts(kvs_watch *watch, struct prof_process *process, uint64_t time_ns)
{
	prof_counts_tell(watch->programs.counts, &watch->processes, process, watch->trace, time_ns);
}

static void take_exec(kvs_watch *watch, const struct prof_exec *exec)
{
	struct prof_process *process = prof_process_get(&watch->processes, &exec->record);

	if (!process)
		return;
	tell_counts(watch, process, exec->record.time_ns);
	prof_process_end(process, watch->trace, exec->record.time_ns, -1);
	prof_process_exec(process, exec);
}

static void end_process(kvs_watch *watch, struct prof_process *process, uint64_t time_ns, int status)
{
	tell_counts(watch, process, time_ns);
	if (process->key == watch->target) {
		watch->ended = true;
		watch->status = status;
		prof_process_tell(&watch->processes, process, watch->trace); /* whatever it did */
	}
	prof_counts_forget(watch->programs.counts, process);
	prof_process_end(process, watch->trace, time_ns, status);
	prof_process_remove(&watch->processes, process->key);
}

static void take_exit(kvs_watch *watch, const struct prof_exit *record)
{
	struct prof_process *process = prof_process_get(&watch->processes, &record->record);

	if (process)
		end_process(watch, process, record->record.time_ns, record->status);
}

static int take(void *context, void *data, size_t bytes)
{
	const struct prof_record *record = data;
	const struct prof_fork *born = data;
	kvs_watch *watch = context;

	switch (record->type) {
	case PROF_CALL:
		take_call(watch, data,
			bytes >= sizeof(struct prof_call_stack)
				? (const uint64_t *)((const struct prof_call_stack *)data)->stack
				: NULL);
		break;
	case PROF_FORK:
		prof_process_fork(&watch->processes, record, prof_process_find(&watch->processes, born->parent_key));
		break;
	case PROF_EXEC:
		take_exec(watch, data);
		break;
	case PROF_EXIT:
		take_exit(watch, data);
		break;
	case PROF_MAPPED:
		take_mapped(watch, data);
		break;
	}
	return 0;
}

/* ---- what is done now and then ---- */

/* With records that were lost, ends of processes and mappings may be among them. */
static void look_for_the_lost(kvs_watch *watch)
{
	int map = watch->programs.processes;
	size_t i = 0;

	while (i < watch->processes.map.slot_count) {
		struct prof_process *process = watch->processes.map.slots[i].value;
		uint32_t pid;

		if (process && bpf_map_lookup_elem(map, &process->key, &pid)) {
			end_process(watch, process, now_ns(), -1);
			continue; /* another may lie in this slot now */
		}
		if (process)
			process->stale_modules = true;
		i++;
	}
}

static void tell_lost(kvs_watch *watch)
{
	uint64_t lost = *watch->programs.lost;

	if (lost == watch->lost)
		return;
	kvs_trace_lost(watch->trace, lost - watch->lost);
	watch->lost = lost;
	look_for_the_lost(watch);
}

static void tick(kvs_watch *watch)
{
	uint64_t now = now_ns();

	if (now < watch->next_tick_ns)
		return;
	watch->next_tick_ns = now + TICK_NS;
	tell_lost(watch);
	tell_counts(watch, NULL, now);
}

/* ---- the watch ---- */

static int begin(kvs_watch *watch, pid_t pid)
{
	const struct prof_record record = {.key = watch->target, .pid = (uint32_t)pid, .time_ns = now_ns()};
	struct prof_process *process = prof_process_get(&watch->processes, &record);
	int err;

	if (!process)
		return kvs_fail(-ENOMEM, "no memory for watching process %d", pid);
	if (watch->starting)
		return 0;
	err = watch_driver(watch, process);
	if (err && err != -ENOEXEC)
		return err;
	if (err)
		note_problem(watch);
	prof_process_read_modules(process);
	prof_process_tell(&watch->processes, process, watch->trace);
	return 0;
}

static void release(kvs_watch *watch)
{
	prof_programs_detach(&watch->programs);
	prof_drivers_detach(&watch->drivers);
	ring_buffer__free(watch->ring);
	prof_programs_free(&watch->programs);
	prof_processes_clear(&watch->processes);
	free(watch);
}

/* Fails where there is no such process, or where we may not look at it. One that is just at exec has nothing mapped for a moment. */
static int look_at(pid_t pid)
{
	struct prof_modules modules = {0};
	int err = prof_modules_read(&modules, pid);

	for (int i = 0; err == -ESRCH && i < 5 && !kill(pid, 0); i++) {
		usleep(20000);
		err = prof_modules_read(&modules, pid);
	}
	prof_modules_clear(&modules);
	return err;
}

static int start(kvs_watch *watch, pid_t pid, const struct kvs_watch_options *options)
{
	const struct prof_programs_options programs = {.target = pid,
		.hold = options->starting,
		.ring_bytes = options->ring_bytes ? options->ring_bytes : RING_BYTES,
		.way = options->as_before};
	int err = prof_programs_load(&watch->programs, &programs);

	if (err)
		return err;
	watch->drivers.programs = &watch->programs;
	watch->ring = ring_buffer__new(watch->programs.ring, take, watch, NULL);
	if (!watch->ring)
		return kvs_fail(-errno, "the kernel gives no ring buffer: %s", strerror(errno));
	err = prof_programs_find_target(&watch->programs, pid, &watch->target);
	if (!err)
		err = begin(watch, pid);
	return err;
}

int kvs_watch_open(pid_t pid, kvs_trace *trace, const struct kvs_watch_options *options, kvs_watch **out)
{
	static const struct kvs_watch_options none;
	kvs_watch *watch;
	int err = kvs_watch_check();

	options = options ? options : &none;
	if (!err)
		err = look_at(pid);
	if (err)
		return err;
	watch = calloc(1, sizeof(*watch));
	if (!watch)
		return kvs_fail(-ENOMEM, "no memory for watching process %d", pid);
	watch->trace = trace;
	watch->starting = options->starting;
	watch->status = -1;
	err = start(watch, pid, options);
	if (!err)
		*out = watch;
	else
		release(watch);
	return err;
}

int kvs_watch_poll(kvs_watch *watch, int timeout_ms)
{
	uint64_t until = now_ns() + (uint64_t)timeout_ms * 1000000;
	int got;

	do {
		got = ring_buffer__poll(watch->ring, timeout_ms < POLL_MS ? timeout_ms : POLL_MS);
		if (got < 0 && got != -EINTR)
			return kvs_fail(-EIO, "what the kernel tells cannot be read: %s", strerror(-got));
		ring_buffer__consume(watch->ring);
		tick(watch);
	} while (!watch->ended && got != -EINTR && now_ns() < until);
	return !watch->ended;
}

void kvs_watch_get_state(const kvs_watch *watch, struct kvs_watch_state *out)
{
	*out = (struct kvs_watch_state){.processes = watch->processes.told,
		.drivers = watch->drivers.ever,
		.events = watch->events,
		.lost = watch->lost,
		.ended = watch->ended,
		.status = watch->status,
		.problem = watch->problem};
}

void kvs_watch_stop(kvs_watch *watch)
{
	uint64_t now;

	prof_programs_detach(&watch->programs);
	prof_drivers_detach(&watch->drivers);
	ring_buffer__consume(watch->ring);
	prof_drivers_detach(&watch->drivers); /* one that was mapped just now */
	now = now_ns();
	tell_lost(watch);
	tell_counts(watch, NULL, now);
	for (size_t i = 0; i < watch->processes.map.slot_count; i++)
		if (watch->processes.map.slots[i].value)
			prof_process_end(watch->processes.map.slots[i].value, watch->trace, now, -1);
}

void kvs_watch_close(kvs_watch *watch)
{
	if (!watch)
		return;
	kvs_watch_stop(watch);
	release(watch);
}
