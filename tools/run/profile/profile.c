/*
 * tools/run/profile/profile.c: `kvshare-run profile -- CMD` starts a program and writes down what it and its children ask of CUDA.
 *
 * The program is forked, held at a pipe until everybody who watches is there, and let go. Its standard streams, signals and exit
 * status are its own.
 */
#include "sampler.h"
#include "trace_file.h"

#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <link.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <unistd.h>

#define EXIT_CANNOT_RUN 126 /* as shells have them */
#define EXIT_NOT_FOUND 127
#define EXIT_SIGNALLED 128 /* and the signal's number */

/* Bits, as several may watch at once. AUTO: ours, and the kernel where it is allowed. */
enum source { SOURCE_EBPF = 1, SOURCE_OURS = 2, SOURCE_CUPTI = 4, SOURCE_AUTO = 8 };
static const char *const source_words[] = {"ebpf", "ours", "cupti", "auto", NULL}; /* [bit] */

struct profile_env {
	struct run_trace_file file;
	unsigned sources;
	char **command; /* up to NULL */
};

/* ---- options ---- */

/* "ours,ebpf" */
static unsigned parse_sources(struct argp_state *state, const char *text)
{
	char word[16];
	unsigned sources = 0;

	for (size_t length; *text || !sources; text += length + (text[length] == ',')) {
		length = strcspn(text, ",");
		snprintf(word, sizeof(word), "%.*s", (int)length, text);
		sources |= 1u << run_parse_word(state, "--source", word, source_words);
	}
	return sources;
}

static error_t parse(int key, char *text, struct argp_state *state)
{
	struct profile_env *env = state->input;

	switch (key) {
	case ARGP_KEY_INIT:
		state->child_inputs[0] = &env->file;
		return 0;
	case 's':
		env->sources = parse_sources(state, text);
		return 0;
	case ARGP_KEY_ARG: /* the first one; the rest is the program's own */
		env->command = &state->argv[state->next - 1];
		state->next = state->argc;
		return 0;
	case ARGP_KEY_END:
		if (!env->command)
			argp_error(state,
				"which program? Put it behind --, as in: kvshare-run profile -- python3 train.py");
		return 0;
	}
	return ARGP_ERR_UNKNOWN;
}

static const struct argp_option options[] = {
	{"source", 's', "ebpf|ours|cupti|auto", 0,
		"who watches: the kernel (ebpf), kvshare itself where CMD is kvshare-run (ours), CUPTI; several, as "
		"ours,ebpf, write into one trace; auto (default): ours, and ebpf where it is allowed",
		0},
	{0},
};
static const struct argp_child children[] = {{&run_trace_file_argp, 0, NULL, 0}, {0}};
static const struct argp argp = {options, parse, "-- CMD [ARGUMENT...]",
	"Run CMD and write a trace of what it and its children ask of CUDA: allocations, mappings, copies, waits, and "
	"launches by the number.\v"
	"CMD's output and exit status are its own (128 + N: ended by signal N; 127, 126: there is no CMD, it cannot be "
	"run). The kernel watches for root, or with CAP_BPF and CAP_PERFMON; CMD stands still for some milliseconds "
	"when "
	"it loads the driver.\n\n"
	"Examples:\n"
	"  kvshare-run profile -- kvshare-run generate -m DIR -p 'Once upon a time'\n"
	"  kvshare-run profile --source ebpf -o train.trace -- python3 train.py",
	children, NULL, NULL};

/* ---- the program ---- */

struct child {
	pid_t pid;
	int go;     /* written to: it may run */
	int failed; /* read from: errno, where it could not */
};

static pid_t signalled; /* the child, for the handler */

static void pass_on(int signal)
{
	kill(signalled, signal);
}

/* From a terminal a Ctrl-C goes to both; what it does is CMD's choice. */
static void leave_signals_to(pid_t pid)
{
	const struct sigaction pass = {.sa_handler = pass_on, .sa_flags = SA_RESTART};

	signalled = pid;
	signal(SIGINT, SIG_IGN);
	signal(SIGQUIT, SIG_IGN);
	signal(SIGPIPE, SIG_IGN); /* it may be gone before it is let go */
	sigaction(SIGTERM, &pass, NULL);
	sigaction(SIGHUP, &pass, NULL);
}

/* Waits for the trace's name, which is "" where the program is not to write into it itself. */
static void become(char **command, int go, int failed)
{
	char trace[PATH_MAX];
	ssize_t bytes;
	int reason;

	/* Should we be killed while it stands still for its probes, it goes on. */
	prctl(PR_SET_PDEATHSIG, SIGCONT);
	bytes = read(go, trace, sizeof(trace));
	if (bytes <= 0)
		_exit(EXIT_FAILURE);
	if (*trace)
		setenv("KVSHARE_PROFILE", trace, 1);
	execvp(command[0], command);
	reason = errno;
	if (write(failed, &reason, sizeof(reason)) < 0)
		_exit(EXIT_FAILURE);
	_exit(reason == ENOENT ? EXIT_NOT_FOUND : EXIT_CANNOT_RUN);
}

static int fork_child(char **command, struct child *out)
{
	int go[2], failed[2];

	if (pipe2(go, O_CLOEXEC))
		return kvs_fail(-errno, "no pipe: %s", strerror(errno));
	if (pipe2(failed, O_CLOEXEC)) {
		close(go[0]);
		close(go[1]);
		return kvs_fail(-errno, "no pipe: %s", strerror(errno));
	}
	out->pid = fork();
	if (!out->pid) {
		close(go[1]);
		become(command, go[0], failed[1]);
	}
	close(go[0]);
	close(failed[1]);
	out->go = go[1];
	out->failed = failed[0];
	if (out->pid > 0)
		return 0;
	close(go[1]);
	close(failed[0]);
	return kvs_fail(-EAGAIN, "no process for %s: %s", command[0], strerror(errno));
}

/* It never ran: ends at the pipe. */
static void abandon_child(struct child *child)
{
	close(child->go);
	close(child->failed);
	waitpid(child->pid, NULL, 0);
}

/* 0, or errno of what kept it from running. */
static int release_child(struct child *child, const char *trace)
{
	int reason = 0;

	/* Whole, as a pipe takes PIPE_BUF bytes at once. One that has been killed is not there to read it: its status says so. */
	if (write(child->go, trace, strlen(trace) + 1) < 0 ||
		read(child->failed, &reason, sizeof(reason)) != sizeof(reason))
		reason = 0; /* it closed at exec */
	close(child->go);
	close(child->failed);
	return reason;
}

/* ---- who watches ---- */

/* What the program finds in its environment; what it is told at the pipe is the trace. */
static int set_environment(const struct profile_env *env)
{
	char path[PATH_MAX], limit[32];

	if (env->sources & SOURCE_CUPTI) {
		if (kvs_find_beside("libkvshare-cupti.so", path, sizeof(path)))
			return -ENODEV;
		setenv("CUDA_INJECTION64_PATH", path, 1);
		if (!kvs_libcupti_find(path, sizeof(path))) /* CUPTI gets NVTX ranges only this way */
			setenv("NVTX_INJECTION64_PATH", path, 0);
	}
	snprintf(limit, sizeof(limit), "%llu", (unsigned long long)env->file.max_bytes);
	if (env->sources != SOURCE_EBPF && env->file.max_bytes)
		setenv("KVSHARE_PROFILE_MAX_BYTES", limit, 1);
	return 0;
}

/* NULL in *out: the kernel is not asked to watch, or does not, which is all right with `auto`. */
static int open_watch(const struct profile_env *env, pid_t pid, kvs_trace *trace, kvs_watch **out)
{
	static const struct kvs_watch_options options = {.starting = true};

	*out = NULL;
	if (!(env->sources & (SOURCE_EBPF | SOURCE_AUTO)) || !kvs_watch_open(pid, trace, &options, out))
		return 0;
	if (env->sources & SOURCE_EBPF)
		return -ENOTSUP;
	fprintf(stderr, "kvshare-run: only what CMD itself tells is written down: %s\n", kvs_error());
	return 0;
}

static int wait_for(pid_t pid)
{
	int status;

	while (waitpid(pid, &status, 0) < 0)
		if (errno != EINTR)
			return EXIT_FAILURE;
	return WIFSIGNALED(status) ? EXIT_SIGNALLED + WTERMSIG(status) : WEXITSTATUS(status);
}

/* Until the program has ended; its status is still to be waited for. */
static void watch_child(kvs_watch *watch, pid_t pid)
{
	siginfo_t info = {0};

	while (kvs_watch_poll(watch, 200) > 0 && !info.si_pid)
		if (waitid(P_PID, pid, &info, WEXITED | WNOHANG | WNOWAIT))
			break;
}

static int watch_to_the_end(const struct profile_env *env, struct child *child, kvs_trace *trace, kvs_watch *watch)
{
	struct run_sampler *sampler = run_sampler_start(trace, child->pid);
	struct kvs_watch_state state;
	int failed, status;

	leave_signals_to(child->pid);
	failed = release_child(child, env->sources == SOURCE_EBPF ? "" : env->file.path);
	if (!failed && watch)
		watch_child(watch, child->pid);
	status = wait_for(child->pid);
	run_sampler_stop(sampler);
	if (watch) {
		kvs_watch_stop(watch);
		kvs_watch_get_state(watch, &state);
	}
	if (failed) {
		fprintf(stderr, "kvshare-run: %s: %s\n", env->command[0], strerror(failed));
		run_trace_file_drop(&env->file, trace);
	} else {
		run_trace_file_close(&env->file, trace, watch ? &state : NULL);
	}
	kvs_watch_close(watch);
	return status;
}

static int run_command(int argc, char **argv)
{
	struct profile_env env = {.sources = SOURCE_AUTO};
	struct child child = {0};
	kvs_trace *trace;
	kvs_watch *watch;

	argp_parse(&argp, argc, argv, ARGP_IN_ORDER, NULL, &env);
	if ((env.sources & SOURCE_EBPF) && kvs_watch_check())
		return run_complain();
	/* The child comes first: it inherits no thread and no descriptor of those who watch. */
	if (set_environment(&env) || fork_child(env.command, &child))
		return run_complain();
	if (run_trace_file_open(&env.file, child.pid, &trace)) {
		abandon_child(&child);
		return run_complain();
	}
	if (open_watch(&env, child.pid, trace, &watch)) {
		run_complain();
		abandon_child(&child);
		run_trace_file_drop(&env.file, trace);
		return EXIT_FAILURE;
	}
	return watch_to_the_end(&env, &child, trace, watch);
}

const struct run_subcommand run_profile_command = {
	"profile", "run a program and write down what it asks of CUDA", &argp, run_command, NULL};
