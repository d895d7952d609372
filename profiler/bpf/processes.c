/*
 * profiler/bpf/processes.c: the processes that are watched.
 *
 * A process is written into the trace when it first matters: when it maps the driver, or an event of it comes. So a shell and
 * the tools that it runs on the way leave nothing. The one that was asked for is there in any case.
 */
#include "processes.h"

#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

struct prof_process *prof_process_find(const struct prof_processes *all, uint32_t key)
{
	return prof_map_get(&all->map, key);
}

static void forget(void *value)
{
	struct prof_process *process = value;

	prof_modules_clear(&process->modules);
	free(process->counted);
	free(process->command);
	free(process);
}

static struct prof_process *add(struct prof_processes *all, const struct prof_record *record)
{
	struct prof_process *process = calloc(1, sizeof(*process));

	if (!process)
		return NULL;
	process->key = record->key;
	process->pid = record->pid;
	process->since_ns = record->time_ns;
	if (prof_map_set(&all->map, record->key, process, NULL))
		return process;
	free(process);
	return NULL;
}

/* Arguments that end in 0 each, with spaces between them. */
static char *join(const char *arguments, size_t bytes)
{
	char *text = malloc(bytes + 1);

	while (bytes && !arguments[bytes - 1])
		bytes--;
	for (size_t i = 0; text && i < bytes; i++)
		text[i] = arguments[i] ? arguments[i] : ' ';
	if (text)
		text[bytes] = '\0';
	return text;
}

static char *command_of(uint32_t pid)
{
	char arguments[PROF_COMMAND + 1];

	kvs_process_command((pid_t)pid, arguments, sizeof(arguments));
	return strdup(arguments);
}

struct prof_process *prof_process_get(struct prof_processes *all, const struct prof_record *record)
{
	struct prof_process *process = prof_process_find(all, record->key);

	if (process)
		return process;
	process = add(all, record);
	if (!process)
		return NULL;
	process->command = command_of(record->pid);
	process->parent = kvs_process_parent((pid_t)record->pid);
	process->stale_modules = true;
	return process;
}

struct prof_process *prof_process_fork(
	struct prof_processes *all, const struct prof_record *record, const struct prof_process *parent)
{
	struct prof_process *process;

	prof_process_remove(all, record->key); /* one whose end was lost */
	process = add(all, record);
	if (!process || !parent)
		return process;
	process->parent = parent->pid;
	process->command = parent->command ? strdup(parent->command) : NULL;
	process->has_driver = parent->has_driver;
	process->softcuda = parent->softcuda;
	if (parent->has_driver)
		prof_modules_copy(&process->modules, &parent->modules);
	process->stale_modules = parent->stale_modules;
	return process;
}

void prof_process_exec(struct prof_process *process, const struct prof_exec *exec)
{
	free(process->command);
	process->command = join(exec->command, exec->bytes);
	process->parent = exec->parent;
	process->since_ns = exec->record.time_ns;
	process->told = process->has_driver = process->softcuda = false;
	process->stale_modules = true;
	prof_modules_clear(&process->modules);
}

static uint64_t wall_ns(uint64_t monotonic_ns)
{
	struct timespec now, wall;

	clock_gettime(CLOCK_MONOTONIC, &now);
	clock_gettime(CLOCK_REALTIME, &wall);
	return (uint64_t)(wall.tv_sec - now.tv_sec) * 1000000000 + wall.tv_nsec - now.tv_nsec + monotonic_ns;
}

void prof_process_tell(struct prof_processes *all, struct prof_process *process, kvs_trace *trace)
{
	struct kvs_event event = {.type = KVS_EVENT_PROCESS, .pid = process->pid, .time_ns = process->since_ns};

	if (process->told)
		return;
	event.process.source = KVS_SOURCE_EBPF;
	event.process.command = process->command ? process->command : "";
	event.process.device = process->softcuda ? "softcuda (host memory)" : "";
	event.process.unit_bytes = process->softcuda ? (uint64_t)sysconf(_SC_PAGESIZE) : 0;
	event.process.parent = process->parent;
	event.process.wall_ns = wall_ns(process->since_ns);
	kvs_trace_add(trace, &event);
	kvs_trace_flush(trace); /* in a trace that soon has its full size it is there at least */
	process->told = true;
	all->told++;
}

void prof_process_end(struct prof_process *process, kvs_trace *trace, uint64_t time_ns, int status)
{
	struct kvs_event event = {.type = KVS_EVENT_EXIT, .pid = process->pid, .time_ns = time_ns};

	event.exit.status = status;
	if (process->told)
		kvs_trace_add(trace, &event);
	process->told = false;
}

void prof_process_remove(struct prof_processes *all, uint32_t key)
{
	struct prof_process *process = prof_map_remove(&all->map, key);

	if (process)
		forget(process);
}

void prof_processes_clear(struct prof_processes *all)
{
	prof_map_clear(&all->map, forget);
}

void prof_process_read_modules(struct prof_process *process)
{
	if (process->stale_modules)
		prof_modules_read(&process->modules, process->pid); /* where it is gone, what was known must do */
	process->stale_modules = false;
}

/* A stack without frame pointers ends in whatever lay there: what is nobody's code, at the end, is no frame. */
unsigned prof_process_frames(
	struct prof_process *process, const uint64_t *addresses, unsigned count, struct kvs_frame *out)
{
	if (count > KVS_MAX_FRAMES)
		count = KVS_MAX_FRAMES;
	prof_process_read_modules(process);
	for (unsigned i = 0; i < count; i++)
		out[i] = prof_modules_frame(&process->modules, addresses[i]);
	while (count > 1 && !*out[count - 1].module)
		count--;
	return count;
}
