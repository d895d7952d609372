/*
 * profiler/cupti/inject.c: the entry point. If CUDA_INJECTION64_PATH names this library, the driver loads it during cuInit and
 * calls InitializeInjection(), the only exported symbol.
 *
 * The process belongs to somebody else: on any failure the library prints one line on stderr and the process runs on
 * unobserved. KVSHARE_PROFILE names the trace, which several processes may share; KVSHARE_PROFILE_MAX_BYTES limits its
 * size; KVSHARE_CUPTI names a libcupti outside the usual folders. NVTX ranges reach CUPTI only if NVTX_INJECTION64_PATH
 * named libcupti when the process started.
 *
 * At exit our handler flushes CUPTI while CUPTI and the driver are still intact. Callbacks stay enabled, so memory that the
 * process frees in its own handlers and destructors is still recorded. Our destructor runs last; it only uses the trace.
 */
#include "../../driver/cu.h"
#include "watch.h"

#include <errno.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

__attribute__((visibility("default"))) int InitializeInjection(void);

static atomic_flag begun = ATOMIC_FLAG_INIT;
static atomic_bool complained; /* about the trace: once is enough */
static int exit_status = -1;

__attribute__((format(printf, 1, 2))) static void say(const char *format, ...)
{
	char line[1024];
	va_list args;

	va_start(args, format);
	vsnprintf(line, sizeof(line), format, args);
	va_end(args);
	dprintf(STDERR_FILENO, "kvshare-cupti: %s\n", line);
}

static void complain(int err)
{
	if (err && !atomic_exchange(&complained, true))
		say("%s", kvs_error());
}

static void at_exit(int status, void *arg)
{
	(void)arg;
	exit_status = (status & 0xff) << 8;
	complain(prof_cupti_finish());
}

__attribute__((destructor)) static void at_end(void)
{
	complain(prof_cupti_end(exit_status));
}

static uint64_t limit_from(const char *text)
{
	char *end;
	unsigned long long bytes;

	if (!text || !*text)
		return 0;
	errno = 0;
	bytes = strtoull(text, &end, 10);
	if (errno || *end || *text == '-') {
		say("KVSHARE_PROFILE_MAX_BYTES=%s is not a number of bytes; the trace has no limit", text);
		return 0;
	}
	return bytes;
}

/* Always returns success (1), so that the driver starts whatever happens here. */
int InitializeInjection(void)
{
	const char *path = getenv("KVSHARE_PROFILE");

	if (atomic_flag_test_and_set(&begun))
		return 1;
	if (!path || !*path)
		say("nothing is recorded: KVSHARE_PROFILE does not name a trace");
	else if (prof_cupti_watch(path, limit_from(getenv("KVSHARE_PROFILE_MAX_BYTES"))))
		say("nothing is recorded: %s", kvs_error());
	else
		on_exit(at_exit, NULL);
	return 1;
}
