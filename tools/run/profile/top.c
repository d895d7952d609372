/*
 * tools/run/profile/top.c: `kvshare-run top` shows what processes do on the GPU, again and again.
 *
 * Processes are watched by the kernel as `attach` does it; the trace lies in memory that has no name, and what was taken in is
 * given back, so it can go on for days. On a terminal the screen is drawn anew and keys are heard; elsewhere each
 * picture follows the one before, as a file or a pipe wants it.
 */
#include "../run.h"

#include "../../../profiler/profiler.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <poll.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <termios.h>
#include <time.h>
#include <unistd.h>

#define MOST_WATCHED 16
#define MOST_SHOWN 256
#define FUNCTIONS_SHOWN 8

enum sort { BY_MEMORY, BY_CALLS, BY_PID };

struct env {
	pid_t pid; /* 0: all that have mapped a driver */
	double seconds;
	long pictures; /* 0: no end */
};

struct seen { /* counts at the picture before, to tell what came since */
	uint64_t key, calls, total_ns;
};

struct top {
	const struct env *env;
	int fd; /* of the trace */
	kvs_trace *trace;
	kvs_live *live;
	struct watched {
		pid_t pid;
		bool had_driver; /* before it was watched: memory that it held then is not known */
		kvs_watch *watch;
	} watched[MOST_WATCHED];
	size_t watch_count;
	time_t since; /* when watching began, as clocks on walls have it */
	struct seen processes[MOST_SHOWN], functions[MOST_SHOWN];
	enum sort sort;
	kvs_nvml *nvml;                           /* NULL: there is none */
	struct kvs_nvml_process held[MOST_SHOWN]; /* what it said last */
	size_t held_count;
	bool terminal;
	struct termios modes; /* as they were */
	double last_s;
};

static volatile sig_atomic_t stopped;

static void stop(int signal)
{
	(void)signal;
	stopped = 1;
}

/* ---- options ---- */

static const struct argp_option options[] = {
	{"pid", 'p', "PID", 0, "this process and what it forks (default: all that have loaded libcuda.so.1, or will)",
		0},
	{"delay", 'd', "SECONDS", 0, "time from one picture to the next (default 1)", 0},
	{"number", 'n', "N", 0, "end after N pictures", 0},
	{0},
};

static error_t parse(int key, char *text, struct argp_state *state)
{
	struct env *env = state->input;

	switch (key) {
	case 'p':
		env->pid = (pid_t)run_parse_number(state, "--pid", text, 1, INT_MAX);
		return 0;
	case 'd':
		env->seconds = run_parse_real(state, "--delay", text, 0.05, 3600, "from 0.05 to 3600");
		return 0;
	case 'n':
		env->pictures = run_parse_number(state, "--number", text, 1, LONG_MAX);
		return 0;
	case ARGP_KEY_ARG:
		argp_error(state, "what is \"%s\"? A process goes behind -p", text);
		return 0;
	}
	return ARGP_ERR_UNKNOWN;
}

static const struct argp argp = {options, parse, NULL,
	"Show which processes hold memory of the GPU and what they ask of its driver, live (eBPF; root, or CAP_BPF and "
	"CAP_PERFMON).\v"
	"Memory counts from when watching began, which the first line tells: what was allocated before is not known, "
	"and a "
	"process that had loaded the driver by then has a + behind its memory. Keys: m, c, p sort by memory, calls, "
	"number; "
	"q ends it. Where NVML is, a column has what it says that a process holds, with contexts and code, and others "
	"on "
	"the GPU are listed.\n\n"
	"Examples:\n"
	"  kvshare-run top\n"
	"  kvshare-run top -p 4711 -d 0.5\n"
	"  kvshare-run top -n 1 | head\n",
	NULL, NULL, NULL};

/* ---- who is watched ---- */

static bool maps_a_driver(const char *pid)
{
	char path[64], line[4096];
	bool found = false;
	FILE *maps;

	snprintf(path, sizeof(path), "/proc/%s/maps", pid);
	maps = fopen(path, "re");
	while (maps && !found && fgets(line, sizeof(line), maps))
		found = strstr(line, "/libcuda.so") != NULL;
	if (maps)
		fclose(maps);
	return found;
}

static int watch(struct top *top, pid_t pid)
{
	struct watched *place = &top->watched[top->watch_count];
	char name[16];
	int err;

	if (top->watch_count == MOST_WATCHED)
		return 0;
	snprintf(name, sizeof(name), "%d", (int)pid);
	*place = (struct watched){.pid = pid, .had_driver = maps_a_driver(name)};
	err = kvs_watch_open(pid, top->trace, NULL, &place->watch);
	top->watch_count += !err;
	return err;
}

/* It is watched, or was born by one that is; such a child is watched with its parent. */
static bool is_followed(const struct top *top, pid_t pid)
{
	for (; pid > 1; pid = (pid_t)kvs_process_parent(pid))
		for (size_t i = 0; i < top->watch_count; i++)
			if (top->watched[i].pid == pid)
				return true;
	return false;
}

/* All that have loaded a driver since this was last asked. */
static int watch_newcomers(struct top *top)
{
	DIR *processes = opendir("/proc");
	struct dirent *entry;
	int err = 0;

	if (!processes)
		return kvs_fail(-errno, "/proc: %s", strerror(errno));
	while ((entry = readdir(processes)) && !err) {
		pid_t pid = atoi(entry->d_name);
		if (pid > 0 && pid != getpid() && maps_a_driver(entry->d_name) && !is_followed(top, pid))
			err = watch(top, pid);
		if (err == -ESRCH) /* it has ended meanwhile */
			err = 0;
	}
	closedir(processes);
	return err;
}

/* ---- since the picture before ---- */

/* What of `now` is new; the place that remembers it is found by `key`, or is the first that is free. */
static struct seen since(struct seen *table, uint64_t key, uint64_t calls, uint64_t total_ns)
{
	struct seen *place = NULL, news = {key, calls, total_ns};

	for (size_t i = 0; i < MOST_SHOWN && !place; i++)
		if (table[i].key == key || !table[i].key)
			place = &table[i];
	if (!place)
		return (struct seen){key, 0, 0};
	news.calls -= place->calls;
	news.total_ns -= place->total_ns;
	*place = (struct seen){key, calls, total_ns};
	return news;
}

/* ---- the picture ---- */

struct row {
	struct kvs_live_process process;
	uint64_t news;
	bool had_driver;
};

static enum sort sort_by;

static int before(const void *left, const void *right)
{
	const struct row *a = left, *b = right;

	if (sort_by == BY_MEMORY && a->process.physical_bytes != b->process.physical_bytes)
		return a->process.physical_bytes > b->process.physical_bytes ? -1 : 1;
	if (sort_by == BY_CALLS && a->news != b->news)
		return a->news > b->news ? -1 : 1;
	return a->process.pid < b->process.pid ? -1 : a->process.pid > b->process.pid;
}

static bool had_driver(const struct top *top, uint32_t pid)
{
	for (size_t i = 0; i < top->watch_count; i++)
		if ((uint32_t)top->watched[i].pid == pid)
			return top->watched[i].had_driver;
	return false;
}

static const char *size_text(uint64_t bytes, char *out)
{
	static const char units[] = "BKMGTP";
	double value = bytes;
	int unit = 0;

	for (; value >= 1024 && unit < 5; unit++)
		value /= 1024;
	snprintf(out, 16, unit ? "%.1f%c" : "%.0f%c", value, units[unit]);
	return out;
}

/* What NVML says that a process has, of all devices; KVS_EVENT_NONE: it does not know it. */
static uint64_t held_by(const struct top *top, uint32_t pid)
{
	uint64_t bytes = KVS_EVENT_NONE;

	for (size_t i = 0; i < top->held_count; i++)
		if (top->held[i].pid == pid && top->held[i].bytes != KVS_EVENT_NONE)
			bytes = (bytes == KVS_EVENT_NONE ? 0 : bytes) + top->held[i].bytes;
	return bytes;
}

static const char *held_text(const struct top *top, uint32_t pid, char *out)
{
	uint64_t bytes = held_by(top, pid);

	if (!top->nvml)
		*out = 0;
	else if (bytes == KVS_EVENT_NONE)
		snprintf(out, 24, " %9s", "?");
	else {
		char size[16];
		snprintf(out, 24, " %9s", size_text(bytes, size));
	}
	return out;
}

/* Who else has memory there: what is not watched, NVML tells all the same. */
static void print_others(const struct top *top, const struct row *rows, size_t count)
{
	char size[16], command[256], shown[256];
	bool any = false;

	for (size_t i = 0; i < top->held_count; i++) {
		bool known = held_by(top, top->held[i].pid) == KVS_EVENT_NONE;
		for (size_t j = 0; j < i; j++)
			known |= top->held[j].pid == top->held[i].pid;
		for (size_t r = 0; r < count; r++)
			known |= rows[r].process.pid == top->held[i].pid;
		if (known)
			continue;
		if (!any)
			printf("\n%8s %9s  %s\n", "PID", "NVML", "OTHERS ON THE GPU");
		any = true;
		kvs_process_command((pid_t)top->held[i].pid, command, sizeof(command));
		printf("%8u %9s  %s\n", top->held[i].pid, size_text(held_by(top, top->held[i].pid), size),
			kvs_visible(command, shown, sizeof(shown)));
	}
}

static void print_processes(const struct top *top, const struct row *rows, size_t count, double seconds, int width)
{
	char a[16], b[16], c[16], d[16], held[24], command[512];
	int used = top->nvml ? 72 : 62;

	printf("%8s %9s %9s %9s %9s%s %10s  %s\n", "PID", "PHYSICAL", "MAPPED", "SAVED", "PEAK",
		top->nvml ? "      NVML" : "", "CALLS/s", "COMMAND");
	for (size_t i = 0; i < count; i++) {
		const struct kvs_live_process *p = &rows[i].process;
		kvs_visible(p->command, command, sizeof(command));
		printf("%8u %9s%c%9s %9s %9s%s %10.0f  %.*s\n", p->pid, size_text(p->physical_bytes, a),
			rows[i].had_driver ? '+' : ' ', size_text(p->mapped_bytes, b), size_text(p->saved_bytes, c),
			size_text(p->peak_bytes, d), held_text(top, p->pid, held), rows[i].news / seconds,
			width > used + 8 && top->terminal ? width - used : INT_MAX, p->ended ? "(ended)" : command);
	}
}

struct call_row {
	struct kvs_live_function function;
	struct seen news;
};

static int slower(const void *left, const void *right)
{
	const struct call_row *a = left, *b = right;

	if (a->news.total_ns != b->news.total_ns)
		return a->news.total_ns > b->news.total_ns ? -1 : 1;
	return strcmp(a->function.name, b->function.name);
}

static void print_functions(struct top *top, double seconds)
{
	static struct call_row rows[MOST_SHOWN];
	size_t count = kvs_live_functions(top->live);

	count = count < MOST_SHOWN ? count : MOST_SHOWN;
	for (size_t i = 0; i < count; i++) {
		struct kvs_live_function *f = &rows[i].function;
		kvs_live_get_function(top->live, i, f);
		rows[i].news = since(top->functions, i + 1, f->calls, f->total_ns);
	}
	qsort(rows, count, sizeof(*rows), slower);
	printf("\n%-36s %10s %12s %12s %8s\n", "FUNCTION", "CALLS/s", "TIME/s, us", "99 %, us", "FAILED");
	for (size_t i = 0; i < count && i < FUNCTIONS_SHOWN; i++)
		if (rows[i].news.calls || !top->terminal)
			printf("%-36.36s %10.0f %12.1f %12.1f %8lu\n", rows[i].function.name,
				rows[i].news.calls / seconds, rows[i].news.total_ns / seconds / 1000,
				rows[i].function.p99_ns / 1000.0, (unsigned long)rows[i].function.failures);
}

static int width_of_terminal(void)
{
	struct winsize size;

	return !ioctl(STDOUT_FILENO, TIOCGWINSZ, &size) && size.ws_col ? size.ws_col : 80;
}

static int print_picture(struct top *top)
{
	static struct row rows[MOST_SHOWN];
	size_t all = kvs_live_processes(top->live), count = 0;
	uint64_t physical = 0, saved = 0;
	double now = run_now_s(), seconds = now - top->last_s;
	char a[16], b[16], clock[16], begun[16];
	time_t wall = time(NULL);
	bool marked = false;

	if (!top->nvml || kvs_nvml_list(top->nvml, top->held, MOST_SHOWN, &top->held_count))
		top->held_count = 0;
	for (size_t i = 0; i < all && count < MOST_SHOWN; i++) {
		struct row *row = &rows[count];
		kvs_live_get_process(top->live, i, &row->process);
		if (row->process.ended && !top->env->pid) /* of many processes, those that are there */
			continue;
		row->had_driver = had_driver(top, row->process.pid);
		marked |= row->had_driver;
		row->news = since(top->processes, row->process.pid, row->process.calls, 0).calls;
		physical += row->process.physical_bytes;
		saved += row->process.saved_bytes;
		count++;
	}
	sort_by = top->sort;
	qsort(rows, count, sizeof(*rows), before);
	strftime(clock, sizeof(clock), "%H:%M:%S", localtime(&wall));
	strftime(begun, sizeof(begun), "%H:%M:%S", localtime(&top->since));
	if (top->terminal)
		fputs("\033[H\033[J", stdout);
	printf("kvshare-run top, %s: %zu %s %s, counted since %s; sharing saves %s", clock, count,
		count == 1 ? "process holds" : "processes hold", size_text(physical, a), begun, size_text(saved, b));
	if (kvs_live_lost(top->live))
		printf("; %lu events were lost", (unsigned long)kvs_live_lost(top->live));
	puts("\n");
	print_processes(top, rows, count, seconds, width_of_terminal());
	if (!top->env->pid)
		print_others(top, rows, count);
	if (marked)
		puts("       + and what it held before: it had loaded the driver when watching began");
	print_functions(top, seconds);
	puts(top->terminal ? "\nm memory  c calls  p number  q end" : "");
	top->last_s = now;
	return run_flush_stdout();
}

/* ---- the work ---- */

/* What was read is given back to the system; the file keeps its length. */
static int take_in(struct top *top)
{
	uint64_t done = 0;
	int err = kvs_trace_flush(top->trace);

	if (!err)
		err = kvs_live_update(top->live, &done);
	if (!err && done > 4096) /* its head is read by whoever opens it */
		fallocate(top->fd, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, 4096, (off_t)(done - 4096));
	return err;
}

/* Passes on what the kernel tells until it is time for the next picture; those that have ended make room for others. */
static int poll_watches(struct top *top, double until)
{
	do {
		for (size_t i = 0; i < top->watch_count;) {
			int got = kvs_watch_poll(top->watched[i].watch, i ? 0 : 20);
			if (got < 0)
				return got;
			if (got) {
				i++;
				continue;
			}
			kvs_watch_close(top->watched[i].watch);
			top->watched[i] = top->watched[--top->watch_count];
		}
		if (!top->watch_count)
			usleep(20000);
	} while (!stopped && run_now_s() < until && (top->watch_count || !top->env->pid));
	return 0;
}

static void hear_keys(struct top *top)
{
	struct pollfd keys = {STDIN_FILENO, POLLIN, 0};
	char key;

	while (top->terminal && poll(&keys, 1, 0) > 0 && read(STDIN_FILENO, &key, 1) == 1) {
		if (key == 'q')
			stopped = 1;
		if (key == 'm')
			top->sort = BY_MEMORY;
		if (key == 'c')
			top->sort = BY_CALLS;
		if (key == 'p')
			top->sort = BY_PID;
	}
}

/* With -p it ends with its process; without, it waits for others. */
static bool is_over(const struct top *top)
{
	return stopped || (top->env->pid && !top->watch_count);
}

static int show(struct top *top)
{
	long picture = 0;
	int err = 0;

	top->last_s = run_now_s();
	top->since = time(NULL);
	while (!err && !is_over(top) && (!top->env->pictures || picture < top->env->pictures)) {
		double until = top->last_s + top->env->seconds;
		while (!err && !is_over(top) && run_now_s() < until) {
			double next = run_now_s() + 0.1;
			err = poll_watches(top, next < until ? next : until);
			hear_keys(top);
		}
		if (!err)
			err = take_in(top);
		if (!err)
			err = print_picture(top);
		if (!err && !top->env->pid)
			err = watch_newcomers(top);
		picture++;
	}
	return err;
}

static void take_terminal(struct top *top)
{
	struct termios raw;

	top->terminal = isatty(STDOUT_FILENO) && isatty(STDIN_FILENO) && !tcgetattr(STDIN_FILENO, &top->modes);
	if (!top->terminal)
		return;
	raw = top->modes;
	raw.c_lflag &= ~(ICANON | ECHO);
	raw.c_cc[VMIN] = 0;
	raw.c_cc[VTIME] = 0;
	tcsetattr(STDIN_FILENO, TCSANOW, &raw);
}

static int open_trace(struct top *top)
{
	char path[64];
	int err;

	top->fd = memfd_create("kvshare-top", MFD_CLOEXEC);
	if (top->fd < 0)
		return kvs_fail(-errno, "no memory for watching: %s", strerror(errno));
	snprintf(path, sizeof(path), "/proc/self/fd/%d", top->fd);
	err = kvs_trace_open(path, &(struct kvs_trace_options){.flush_ms = 100}, &top->trace);
	if (!err)
		err = kvs_trace_flush(top->trace);
	return err ? err : kvs_live_open(path, &top->live);
}

static int run_top(struct top *top)
{
	const struct sigaction action = {.sa_handler = stop};
	int err = kvs_watch_check();

	if (!err)
		err = open_trace(top);
	if (!err)
		err = top->env->pid ? watch(top, top->env->pid) : watch_newcomers(top);
	if (err)
		return err;
	if (kvs_nvml_open(&top->nvml))
		top->nvml = NULL; /* one column less */
	sigaction(SIGINT, &action, NULL);
	sigaction(SIGTERM, &action, NULL);
	sigaction(SIGHUP, &action, NULL);
	take_terminal(top);
	err = show(top);
	if (top->terminal)
		tcsetattr(STDIN_FILENO, TCSANOW, &top->modes);
	return err;
}

static int run_command(int argc, char **argv)
{
	struct env env = {.seconds = 1};
	static struct top top = {.fd = -1};
	int err;

	argp_parse(&argp, argc, argv, 0, NULL, &env);
	top.env = &env;
	err = run_top(&top);
	if (err)
		run_complain();
	for (size_t i = 0; i < top.watch_count; i++)
		kvs_watch_close(top.watched[i].watch);
	kvs_nvml_close(top.nvml);
	kvs_live_close(top.live);
	kvs_trace_close(top.trace);
	if (top.fd >= 0)
		close(top.fd);
	return err ? EXIT_FAILURE : EXIT_SUCCESS;
}

const struct run_subcommand run_top_command = {
	"top", "show live which processes hold memory of the GPU, and what they call", &argp, run_command, NULL};
