/*
 * profiler/bpf/absent.c: in place of all the rest here where this is built without eBPF (build.mk).
 */
#include "../profiler.h"

#include "../../driver/cu.h"

#include <errno.h>
#include <string.h>

int kvs_watch_check(void)
{
	return kvs_fail(-ENOTSUP,
		"this kvshare was built without eBPF: install clang, bpftool, libbpf-dev (1.0 or newer) "
		"and libelf-dev, and build it again");
}

int kvs_watch_open(pid_t pid, kvs_trace *trace, const struct kvs_watch_options *options, kvs_watch **out)
{
	(void)pid, (void)trace, (void)options, (void)out;
	return kvs_watch_check();
}

int kvs_watch_poll(kvs_watch *watch, int timeout_ms)
{
	(void)watch, (void)timeout_ms;
	return kvs_watch_check();
}

void kvs_watch_get_state(const kvs_watch *watch, struct kvs_watch_state *out)
{
	(void)watch;
	memset(out, 0, sizeof(*out));
}

void kvs_watch_stop(kvs_watch *watch)
{
	(void)watch;
}

void kvs_watch_close(kvs_watch *watch)
{
	(void)watch;
}
