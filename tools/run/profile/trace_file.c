/*
 * tools/run/profile/trace_file.c: options and closing words of the commands that write a trace.
 */
#include "trace_file.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

enum { TRACE_GROUP = 5, OPTION_MAX_SIZE = 'z' };

static const struct argp_option options[] = {
	{"output", 'o', "FILE", 0, "the trace (default: kvshare-PID.trace)", TRACE_GROUP},
	{"max-size", OPTION_MAX_SIZE, "BYTES", 0,
		"let the trace get no longer, and count what is lost; suffixes K, M, G (default: no limit)",
		TRACE_GROUP},
	{0},
};

static uint64_t parse_bytes(struct argp_state *state, const char *text)
{
	static const char suffixes[] = "KMG";
	unsigned long long bytes;
	const char *suffix;
	char *end;
	int shift = 0;

	errno = 0;
	bytes = strtoull(text, &end, 10);
	suffix = *end ? strchr(suffixes, *end) : NULL;
	if (suffix) {
		shift = 10 * (int)(suffix - suffixes + 1);
		end++;
	}
	if (errno || *end || text[0] < '0' || text[0] > '9' || bytes < 1 || bytes > UINT64_MAX >> shift >> 1)
		argp_error(state, "--max-size is \"%s\": a number of bytes is expected, such as 500M", text);
	return bytes << shift;
}

static error_t parse(int key, char *text, struct argp_state *state)
{
	struct run_trace_file *file = state->input;

	if (key == 'o')
		file->asked = text;
	else if (key == OPTION_MAX_SIZE)
		file->max_bytes = parse_bytes(state, text);
	else
		return ARGP_ERR_UNKNOWN;
	return 0;
}

const struct argp run_trace_file_argp = {options, parse, NULL, NULL, NULL, NULL, NULL};

int run_trace_file_open(struct run_trace_file *file, pid_t pid, kvs_trace **out)
{
	struct kvs_trace_options options = {.max_bytes = file->max_bytes};
	char name[64];
	int err;

	snprintf(name, sizeof(name), "kvshare-%d.trace", pid);
	if (!file->asked)
		file->asked = strdup(name);
	if (!file->asked)
		return kvs_fail(-ENOMEM, "no memory for the name of a trace");
	err = kvs_trace_open(file->asked, &options, out);
	if (!err && !realpath(file->asked, file->path)) {
		err = kvs_fail(-errno, "%s: %s", file->asked, strerror(errno));
		kvs_trace_close(*out);
	}
	return err;
}

static void say_what_was_watched(const struct kvs_watch_state *watched)
{
	char shown[256];

	if (!watched->drivers)
		fprintf(stderr, "kvshare-run: no process mapped libcuda.so.1: no calls were seen\n");
	if (watched->problem && *watched->problem)
		fprintf(stderr, "kvshare-run: a driver could not be watched: %s\n",
			kvs_visible(watched->problem, shown, sizeof(shown)));
}

void run_trace_file_drop(const struct run_trace_file *file, kvs_trace *trace)
{
	kvs_trace_close(trace);
	unlink(file->path);
}

void run_trace_file_close(const struct run_trace_file *file, kvs_trace *trace, const struct kvs_watch_state *watched)
{
	uint64_t lost;
	int err = kvs_trace_flush(trace);

	if (err)
		fprintf(stderr, "kvshare-run: the trace is not whole: %s\n", kvs_error());
	lost = kvs_trace_lost_so_far(trace);
	kvs_trace_close(trace);
	if (watched)
		say_what_was_watched(watched);
	if (lost)
		fprintf(stderr, "kvshare-run: %llu events were lost\n", (unsigned long long)lost);
	fprintf(stderr, "kvshare-run: the trace is in %s\n", file->asked);
}
