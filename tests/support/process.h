/*
 * tests/support/process.h: run a program as a user would, and look at its output.
 *
 * Tests run in the project's root; the build is under $BUILD (default "build").
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
 * Run `command` through sh -c, with kvshare-run on its PATH; kill it after `seconds`. Fails the test if it cannot be
 * started.
 */
struct process run_shell(const char *command, int seconds);
/* The same in a directory of its own, $T, that is removed afterwards. */
struct process run_in_directory(const char *command, int seconds);
void process_free(struct process *process);

/* Runs the command, which must succeed, and returns its stdout as JSON; fails the test otherwise. */
json_t *run_json(const char *command);
json_t *run_json_in_directory(const char *command);
/* A member that has to be there: the test fails otherwise. */
const json_t *json_at(const json_t *object, const char *key);
double json_number_at(const json_t *object, const char *key);

/* Something that a program must refuse. */
struct bad_input {
	const char *what, *command;
	int status;
	const char *said; /* must be in stderr */
};
/* Runs `command`, which the input's own is a part of, in a directory of its own: it ends so, says so, and its stdout is empty. */
void assert_refused(const struct bad_input *input, const char *command);

#endif
