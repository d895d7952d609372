/*
 * tools/run/profile/attach.c: `kvshare-run attach` watches a process that runs already, and leaves it as it was.
 */
#include "sampler.h"
#include "trace_file.h"

#include <math.h>
#include <signal.h>
#include <stdlib.h>
#include <sys/wait.h>

struct attach_env {
	struct run_trace_file file;
	pid_t pid;
	double seconds; /* 0: until it ends */
};

static volatile sig_atomic_t stopped;

static void stop(int signal)
{
	(void)signal;
	stopped = 1;
}

static void watch_signals(void)
{
	const struct sigaction action = {.sa_handler = stop};

	sigaction(SIGINT, &action, NULL);
	sigaction(SIGTERM, &action, NULL);
	sigaction(SIGHUP, &action, NULL);
}

static error_t parse(int key, char *text, struct argp_state *state)
{
	struct attach_env *env = state->input;

	switch (key) {
	case ARGP_KEY_INIT:
		state->child_inputs[0] = &env->file;
		return 0;
	case 'p':
		env->pid = (pid_t)run_parse_number(state, "--pid", text, 1, INT_MAX);
		return 0;
	case 's':
		env->seconds = run_parse_real(state, "--seconds", text, 0.001, 1e9, "above 0");
		return 0;
	case ARGP_KEY_ARG:
		argp_error(state, "what is \"%s\"? A process goes behind -p", text);
		return 0;
	case ARGP_KEY_END:
		if (!env->pid)
			argp_error(state, "which process? Name it with -p PID");
		return 0;
	}
	return ARGP_ERR_UNKNOWN;
}

static const struct argp_option options[] = {
	{"pid", 'p', "PID", 0, "the process (required); what it forks is watched, too", 0},
	{"seconds", 's', "N", 0, "stop after N seconds (default: when it ends, or at Ctrl-C)", 0},
	{0},
};
static const struct argp_child children[] = {{&run_trace_file_argp, 0, NULL, 0}, {0}};
static const struct argp argp = {options, parse, NULL,
	"Watch the CUDA calls of a process that runs, from outside (eBPF; root, or CAP_BPF and CAP_PERFMON). "
	"The process is never stopped, and runs on as before when this ends.\v"
	"Allocations, copies and waits are told one by one, launches are counted. What was allocated before is not "
	"known. "
	"A driver that is loaded later is watched from a few milliseconds after.\n\n"
	"Examples:\n"
	"  kvshare-run attach -p 4711\n"
	"  kvshare-run attach -p 4711 --seconds 30 -o server.trace",
	children, NULL, NULL};

static void say_begin(const struct attach_env *env, kvs_watch *watch)
{
	struct kvs_watch_state state;

	kvs_watch_get_state(watch, &state);
	fprintf(stderr, "kvshare-run: watching process %d%s; Ctrl-C ends it\n", env->pid,
		state.drivers ? "" : ", which has not mapped libcuda.so.1 yet");
}

static void say_end(const struct attach_env *env, const struct kvs_watch_state *state)
{
	if (!state->ended)
		return;
	if (state->status >= 0 && WIFSIGNALED(state->status))
		fprintf(stderr, "kvshare-run: process %d was ended by signal %d\n", env->pid, WTERMSIG(state->status));
	else if (state->status >= 0)
		fprintf(stderr, "kvshare-run: process %d has ended with status %d\n", env->pid,
			WEXITSTATUS(state->status));
	else
		fprintf(stderr, "kvshare-run: process %d has ended\n", env->pid);
}

/* In pieces, as the time may be long and a signal may come between two. */
static int watch_until(const struct attach_env *env, kvs_watch *watch)
{
	double end = env->seconds ? run_now_s() + env->seconds : INFINITY;
	int alive = 1;

	while (alive > 0 && !stopped && run_now_s() < end) {
		double left_ms = 1000 * (end - run_now_s());
		alive = kvs_watch_poll(watch, left_ms < 200 ? (int)fmax(left_ms, 1) : 200);
	}
	return alive;
}

static int run_command(int argc, char **argv)
{
	struct attach_env env = {0};
	struct kvs_watch_state state;
	struct run_sampler *sampler;
	kvs_trace *trace;
	kvs_watch *watch;
	int err;

	argp_parse(&argp, argc, argv, 0, NULL, &env);
	if (kvs_watch_check() || run_trace_file_open(&env.file, env.pid, &trace))
		return run_complain();
	watch_signals();
	if (kvs_watch_open(env.pid, trace, NULL, &watch)) {
		run_complain();
		run_trace_file_drop(&env.file, trace);
		return EXIT_FAILURE;
	}
	say_begin(&env, watch);
	sampler = run_sampler_start(trace, env.pid);
	err = watch_until(&env, watch);
	run_sampler_stop(sampler);
	if (err < 0)
		run_complain();
	kvs_watch_stop(watch);
	kvs_watch_get_state(watch, &state);
	say_end(&env, &state);
	run_trace_file_close(&env.file, trace, &state);
	kvs_watch_close(watch);
	return err < 0 ? EXIT_FAILURE : EXIT_SUCCESS;
}

const struct run_subcommand run_attach_command = {
	"attach", "watch the CUDA calls of a process that runs", &argp, run_command, NULL};
