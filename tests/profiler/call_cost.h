/*
 * tests/profiler/call_cost.h: what one call of the driver costs a program, by its own CPU time, which other programs on the machine
 * hardly change: unwatched, watched from the kernel, or writing a trace of itself.
 */
#ifndef KVS_TESTS_CALL_COST_H
#define KVS_TESTS_CALL_COST_H

#include <stdbool.h>
#include <sys/types.h>

enum call_kind { CALL_TOLD, CALL_TOLD_WITH_STACK, CALL_COUNTED, CALL_SYSTEM, CALL_KINDS };
extern const char *const call_kind_names[CALL_KINDS];

/* A child with a driver of its own, which makes calls when it is asked to. */
struct call_server {
	pid_t pid;
	int to, from;
};

/* `trace`: it writes one of itself from now on, as `generate --profile` does; NULL: it does not. */
bool call_server_start(struct call_server *server, const char *trace);
/* Nanoseconds for a call of that kind; negative: it did not answer. */
double call_server_ask(const struct call_server *server, enum call_kind kind);
void call_server_end(const struct call_server *server);

#endif
