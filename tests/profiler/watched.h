/*
 * tests/profiler/watched.h: traces of watched programs, read as tests want them.
 */
#ifndef KVS_TESTS_WATCHED_H
#define KVS_TESTS_WATCHED_H

#include "../../profiler/profiler.h"
#include "../support/process.h"

#define WATCHED_FUNCTIONS 128

/* All that a trace has of one function of one process, or of all processes (pid 0). */
struct watched_function {
	char name[64];
	uint32_t pid;
	uint64_t calls, failures, bytes;
};

struct watched_process {
	uint32_t pid, parent;
	char command[512];
	int status; /* -2: the trace has no end of it */
};

struct watched {
	struct watched_function functions[WATCHED_FUNCTIONS];
	struct watched_process processes[16];
	size_t function_count, process_count;
	uint64_t lost;
	uint32_t tids[64]; /* that made calls */
	size_t tid_count;
	char module[512];         /* of the first frame of an allocation that has more than one */
	unsigned frames, devices; /* frames: of that allocation; devices: events of the device */
};

/* Ends the program with 77 and the reason where processes cannot be watched here; with 1 where KVS_TEST_EBPF says that they can. */
void watched_or_skip(void);
/* Reads the whole trace; fails the test where it is damaged. */
struct watched *watched_read(const char *trace);
/* Calls of the function, by all processes; KVS_EVENT_CALL and KVS_EVENT_CALLS alike. */
uint64_t watched_calls(const struct watched *watched, const char *function);
const struct watched_function *watched_function(const struct watched *watched, uint32_t pid, const char *function);
/* Of all functions whose names begin like that. */
uint64_t watched_all(const struct watched *watched, const char *beginning);

#endif
