/*
 * tests/support/process.h: run a program as a user would and look at what it said.
 *
 * Tests run in the project's root; what was built is found under $BUILD (default "build").
 */
#ifndef KVS_TESTS_PROCESS_H
#define KVS_TESTS_PROCESS_H

#include <jansson.h>
#include <stddef.h>

struct process {
	int status; /* exit status, or 256 + the signal that ended it */
	char *out, *err;
};

/* "build/NAME"; valid until the next call. */
const char *built(const char *name);

/*
 * Run `command` through sh -c, with kvshare-run on its PATH; waits at most `seconds`, then kills it. Fails the test where
 * it can't be started.
 */
struct process run_shell(const char *command, int seconds);
void process_free(struct process *process);

/* Runs the command, which must succeed, and gives its stdout as JSON; fails the test otherwise. */
json_t *run_json(const char *command);

#endif
