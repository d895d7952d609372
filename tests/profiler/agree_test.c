/*
 * tests/profiler/agree_test.c: all that watch a run say the same of it: kvshare itself, the kernel's probes and CUPTI (a fake
 * one, which is fed with softcuda's real calls), each function's calls, failures and bytes, beside two that are not ours to
 * please: bpftrace, and softcuda's own tally. Runs of `generate` and of all clients in tests/clients, one row each.
 *
 * A first round, unwatched, tells which functions there are; bpftrace then counts those in all runs at once, apart by the name
 * of the program, and so each run has a program of its own name.
 */
#include "watched.h"

#include "../../driver/cu.h"
#include "../../driver/softcuda/softcuda.h"
#include "../../profiler/bpf/functions.h"

#include <fcntl.h>
#include <limits.h>
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cmocka.h>

#define SOURCES 4 /* [enum kvs_source] */
#define MOST_FUNCTIONS 128

struct count {
	uint64_t calls, failures, bytes;
};

/* The name is the program's, at most 15 letters; $MODULE, $KERNELS: kernels for the clients. */
static const struct run {
	const char *name, *program, *arguments;
	bool ours; /* the program tells of itself */
	/*
	 * One process, and one call at a time: softcuda's peak is its own. Of calls at once nobody outside knows which came
	 * first: a free counts from its beginning and an allocation from its end, so the peak is then at most softcuda's.
	 */
	bool alone;
	bool sudden;  /* it ends without exit(): CUPTI, inside, has not written down its last 100 ms */
	bool kernels; /* each launch is one kernel */
	int status;
	const char *also;   /* another name that its processes have */
	const char *before; /* the command that becomes it */
	/* Calls that CUPTI cannot hear: before cuInit, and in a child of fork(), where it stands down. */
	struct {
		const char *name;
		struct count count;
	} unheard[2];
} runs[] = {
	{"kvs-generate", "kvshare-run",
		"generate -m tests/models/storyworld-3m -p 'Anna put the red key' -n 4 --device host --no-premap -q "
		"--owners 0,1,2,3,4,5,2,7,8,3,10,11,1,13,5,15",
		.ours = true, .alone = true},
	{"kvs-bench", "kvshare-run", "generate -m tests/models/storyworld-3m -p Tom -n 3 --device host --ctx 64 -q",
		.ours = true, .alone = true},
	{"kvs-vector", "tests/clients/vector_add", "$MODULE", .alone = true, .kernels = true},
	{"kvs-leaks", "tests/clients/leaks", "", .alone = true},
	{"kvs-queries", "tests/clients/calls", "queries 8388608 4", .alone = true,
		.unheard = {{"cuMemAlloc_v2", {1, 1, 8388608}}}},
	{"kvs-find", "tests/clients/calls", "find 8388608 4", .alone = true},
	{"kvs-threads", "tests/clients/calls", "threads 8388608 4", .alone = false},
	{"kvs-fork", "tests/clients/calls", "fork 8388608 4", .also = "exe",
		.unheard = {{"cuMemAlloc_v2", {1, 1, 8388608}}, {"cuMemFree_v2", {1, 1, 0}}}},
	{"kvs-returns", "tests/clients/ends", "100000 return", .alone = true},
	{"kvs-exits", "tests/clients/ends", "100000 _exit", .alone = true, .sudden = true},
	{"kvs-killed", "tests/clients/ends", "100000 child", .sudden = true, .status = 128 + SIGKILL},
	{"kvs-rates", "tests/clients/rates", "$KERNELS", .alone = true, .kernels = true},
	{"kvs-decoder", "tests/clients/decoder", "$KERNELS", .alone = true, .kernels = true},
	{"kvs-owners", "tests/clients/decoder",
		"owners=0,0,2,2 layout=tensors launch=ex alloc=async streams=own $KERNELS", .alone = true,
		.kernels = true},
	/* Ours is the shim: what the program and the shim ask of memory. */
	{"kvs-shim", "tests/clients/decoder", "layout=tensors $KERNELS", .ours = true, .alone = true,
		.before = "kvshare-run exec --device host --owners 0,1,0,1 --layout tensors:layers=4,bytes=4MiB --"},
	{"kvs-captured", "tests/clients/decoder", "graph=capture $KERNELS", .alone = true},
	{"kvs-nodes", "tests/clients/decoder", "graph=nodes launch=extra layout=halves $KERNELS", .alone = true},
};
#define RUNS (sizeof(runs) / sizeof(*runs))

/* Where bpftrace finds the bytes of a call. */
static const struct {
	const char *bytes, *functions;
} argued[] = {
	{"arg1", "cuMemAlloc_v2 cuMemAllocAsync cuMemAllocManaged cuMemAllocHost_v2 cuMemHostAlloc cuMemAddressReserve "
		 "cuMemAddressFree cuMemCreate cuMemMap cuMemUnmap cuMemSetAccess "},
	{"arg2", "cuMemcpyAsync cuMemcpyHtoD_v2 cuMemcpyHtoDAsync_v2 cuMemcpyDtoH_v2 cuMemcpyDtoHAsync_v2 "
		 "cuMemcpyDtoD_v2 "
		 "cuMemcpyDtoDAsync_v2 cuMemsetD8_v2 cuMemsetD8Async "},
	{"2 * arg2", "cuMemsetD16_v2 cuMemsetD16Async "},
	{"4 * arg2", "cuMemsetD32_v2 cuMemsetD32Async "},
	{"arg3 * arg4", "cuMemsetD2D8_v2 "},
	/* CUDA_MEMCPY2D: WidthInBytes and Height. */
	{"*(uint64 *)(arg0 + 112) * *(uint64 *)(arg0 + 120)", "cuMemcpy2D_v2 "},
};
#define ARGUED (sizeof(argued) / sizeof(*argued))

/* What somebody counted in one run. */
struct counts {
	struct {
		char name[64];
		struct count count;
	} functions[MOST_FUNCTIONS];
	size_t count;
	uint64_t peak; /* of physical memory */
};

struct seen {
	struct counts bpftrace, tally, by[SOURCES];
	uint64_t kernels, lost; /* kernels: that CUPTI told of */
};

static char folder[64], trace[128], text[65536];
static struct seen *seen; /* [RUNS] */

static struct count *count_of(struct counts *counts, const char *name)
{
	for (size_t i = 0; i < counts->count; i++)
		if (!strcmp(counts->functions[i].name, name))
			return &counts->functions[i].count;
	assert_true(counts->count < MOST_FUNCTIONS);
	snprintf(counts->functions[counts->count].name, sizeof(counts->functions[0].name), "%s", name);
	return &counts->functions[counts->count++].count;
}

/* ---- runs ---- */

static struct process shell(int status, const char *format, ...)
{
	struct process process;
	char command[4096];
	va_list args;

	va_start(args, format);
	vsnprintf(command, sizeof(command), format, args);
	va_end(args);
	process = run_shell(command, 120);
	if (process.status != status)
		fail_msg("`%s` ended with %d: %s%s", command, process.status, process.out, process.err);
	return process;
}

static void read_tally(const struct run *run, struct counts *out)
{
	char path[128];
	struct softcuda_tally *tally;
	int fd;

	snprintf(path, sizeof(path), "%s/%s.tally", folder, run->name);
	fd = open(path, O_RDONLY);
	assert_true(fd >= 0);
	tally = mmap(NULL, sizeof(*tally), PROT_READ, MAP_PRIVATE, fd, 0);
	assert_true(tally != MAP_FAILED);
	for (int i = 0; i < SOFTCUDA_TALLY_ROWS; i++)
		if (tally->rows[i].state)
			count_of(out, tally->rows[i].function)->calls = tally->rows[i].calls;
	out->peak = tally->peak_physical_bytes;
	munmap(tally, sizeof(*tally));
	close(fd);
}

/* `watcher` stands before the program. */
static void run_once(const struct run *run, const char *watcher)
{
	struct process process =
		shell(run->status, "rm -f $FOLDER/%s.tally; %s SOFTCUDA_TALLY=$FOLDER/%s.tally %s %s $FOLDER/%s %s",
			run->name, run->kernels ? "FEED_KERNELS=1" : "", run->name, watcher,
			run->before ? run->before : "", run->name, run->arguments);

	process_free(&process);
}

/* ---- what our sources say ---- */

static void take(struct seen *one, enum kvs_source source, const struct kvs_event *event)
{
	struct count *count;

	if (event->type == KVS_EVENT_KERNEL && source == KVS_SOURCE_CUPTI)
		one->kernels++;
	if (event->type == KVS_EVENT_CALL) {
		count = count_of(&one->by[source], event->call.function);
		count->calls++;
		count->failures += event->call.result != 0;
		count->bytes += event->call.bytes == KVS_EVENT_NONE ? 0 : event->call.bytes;
	} else if (event->type == KVS_EVENT_CALLS) {
		count = count_of(&one->by[source], event->calls.function);
		count->failures += event->calls.failures;
		for (int b = 0; b < KVS_LATENCIES; b++)
			count->calls += event->calls.latency[b];
	}
}

/* Writes each source's part into a trace of its own, too: a report believes one of them. */
static void read_trace(struct seen *one)
{
	enum kvs_source sources[32] = {0};
	uint32_t writers[32], writer;
	kvs_trace *parts[SOURCES] = {NULL};
	kvs_trace_reader *reader;
	struct kvs_event event;
	struct kvs_trace_health health;
	size_t count = 0, i;
	char path[160];

	if (kvs_trace_read(trace, &reader))
		fail_msg("%s", kvs_error());
	while (kvs_trace_next(reader, &event, &writer) > 0) {
		for (i = 0; i < count && writers[i] != writer; i++)
			continue;
		if (i == count) {
			assert_true(event.type == KVS_EVENT_PROCESS && count < 32);
			writers[count] = writer;
			sources[count++] = event.process.source;
		}
		take(one, sources[i], &event);
		snprintf(path, sizeof(path), "%s.%d", trace, sources[i]);
		if (!parts[sources[i]])
			assert_int_equal(kvs_trace_open(path, NULL, &parts[sources[i]]), 0);
		kvs_trace_add(parts[sources[i]], &event);
	}
	kvs_trace_get_health(reader, &health);
	one->lost = health.lost_events;
	kvs_trace_reader_close(reader);
	for (i = 0; i < SOURCES; i++)
		assert_int_equal(kvs_trace_close(parts[i]), 0);
}

static uint64_t peak_of(int source)
{
	char command[256];
	json_t *report;
	uint64_t peak;

	snprintf(command, sizeof(command), "kvshare-run report --json %s.%d", trace, source);
	report = run_json(command);
	peak = (uint64_t)json_integer_value(json_object_get(json_object_get(report, "memory"), "peak_physical_bytes"));
	json_decref(report);
	return peak;
}

static void watch_once(const struct run *run, struct seen *one)
{
	char watcher[256];

	snprintf(watcher, sizeof(watcher), "kvshare-run profile --source %sebpf,cupti -o $TRACE --",
		run->ours ? "ours," : "");
	run_once(run, watcher);
	read_tally(run, &one->tally);
	read_trace(one);
	for (int source = run->ours ? KVS_SOURCE_OURS : KVS_SOURCE_EBPF; source < SOURCES; source++)
		if (one->by[source].count)
			one->by[source].peak = peak_of(source);
}

/* ---- bpftrace ---- */

static void add_text(const char *format, ...)
{
	size_t used = strlen(text);
	va_list args;

	va_start(args, format);
	vsnprintf(text + used, sizeof(text) - used, format, args);
	va_end(args);
	assert_true(strlen(text) + 1 < sizeof(text));
}

static bool is_among(const char *name, const char *list)
{
	char word[80];

	snprintf(word, sizeof(word), "%s ", name);
	return strstr(list, word) != NULL;
}

static int place_of_bytes(const char *name)
{
	for (size_t i = 0; i < ARGUED; i++)
		if (is_among(name, argued[i].functions))
			return (int)i;
	return -1;
}

/* One probe for all functions whose bytes are at the same place, and one for their ends. */
static void write_program(struct counts *all)
{
	for (int place = -1; place < (int)ARGUED; place++) {
		const char *comma = "";
		for (size_t i = 0; i < all->count; i++) {
			if (place_of_bytes(all->functions[i].name) != place)
				continue;
			add_text("%suprobe:%s/libcuda.so.1:%s", comma, folder, all->functions[i].name);
			comma = ",";
		}
		if (*comma)
			add_text(" { @calls[comm, probe] = count(); %s%s%s }\n",
				place < 0 ? "" : "@bytes[comm, probe] = sum(", place < 0 ? "" : argued[place].bytes,
				place < 0 ? "" : ");");
	}
	for (size_t i = 0; i < all->count; i++)
		add_text("%suretprobe:%s/libcuda.so.1:%s", i ? "," : "", folder, all->functions[i].name);
	add_text(" /(uint32)retval != 0/ { @failures[comm, probe] = count(); }\n");
	/* How long a row became is known when the call ends. */
	add_text("uprobe:%s/libcuda.so.1:cuMemAllocPitch_v2 { @pitch[tid] = arg1; @width[tid] = arg2; @rows[tid] = "
		 "arg3; }\n",
		folder);
	add_text("uretprobe:%s/libcuda.so.1:cuMemAllocPitch_v2 { @bytes[comm, probe] = sum(((uint32)retval != 0 ? "
		 "@width[tid] : *(uint64 *)uptr(@pitch[tid])) * @rows[tid]); "
		 "delete(@pitch[tid]); delete(@width[tid]); delete(@rows[tid]); }\n",
		folder);
}

/* Whatever the order in which bpftrace attaches them, all others are there when these, the first and the last, are. */
static void write_sentinels(const char *a, const char *b)
{
	add_text("uprobe:%s/libcuda.so.1:cuInit /comm == \"kvs-ready\"/ { printf(\"ready %s\\n\") }\n", folder, a);
	add_text("uretprobe:%s/libcuda.so.1:cuInit /comm == \"kvs-ready\"/ { printf(\"ready %s\\n\") }\n", folder, b);
}

static bool counts_has(const char *word)
{
	struct process process = shell(0, "grep -c '%s' $FOLDER/counts; true", word);
	bool has = atoi(process.out) > 0;

	process_free(&process);
	return has;
}

static pid_t start_bpftrace(struct counts *all)
{
	char script[128], counts[128];
	FILE *file;
	pid_t pid;

	*text = 0;
	write_sentinels("A", "B");
	write_program(all);
	write_sentinels("C", "D");
	add_text("uprobe:%s/libcuda.so.1:cuDeviceGet /comm == \"kvs-done\"/ { print(@calls); print(@bytes); "
		 "print(@failures); printf(\"all is told\\n\"); }\n",
		folder);
	snprintf(script, sizeof(script), "%s/script", folder);
	snprintf(counts, sizeof(counts), "%s/counts", folder);
	file = fopen(script, "w");
	assert_true(file && fputs(text, file) >= 0 && !fclose(file));
	pid = fork();
	if (!pid) {
		prctl(PR_SET_PDEATHSIG, SIGKILL);
		if (freopen(counts, "w", stdout)) /* a file of -o would be filled at the end alone */
			execlp("bpftrace", "bpftrace", "-B", "line", script, NULL);
		_exit(127);
	}
	for (int i = 0; i < 200; i++) {
		struct process process = shell(0, "$FOLDER/kvs-ready 4096 return; sleep 0.1");
		process_free(&process);
		if (counts_has("ready A") && counts_has("ready B") && counts_has("ready C") && counts_has("ready D"))
			return pid;
	}
	fail_msg("bpftrace does not start");
	return pid;
}

/* "@calls[NAME, uprobe:FILE:FUNCTION]: NUMBER" */
static void take_line(const char *line)
{
	char what[16], name[16], probe[256];
	unsigned long long number;
	struct count *count;

	if (sscanf(line, "@%15[a-z][%15[^,], %255[^]]]: %llu", what, name, probe, &number) != 4)
		return;
	for (size_t i = 0; i < RUNS; i++) {
		if (strcmp(runs[i].name, name) && (!runs[i].also || strcmp(runs[i].also, name)))
			continue;
		count = count_of(&seen[i].bpftrace, strrchr(probe, ':') + 1);
		*(!strcmp(what, "calls")         ? &count->calls
			: !strcmp(what, "bytes") ? &count->bytes
						 : &count->failures) += number;
	}
}

/* It is killed, as it would take a tenth of a second for each probe: the kernel may do that when we are gone. */
static void end_bpftrace(pid_t pid)
{
	char path[128], line[512];
	FILE *file;

	for (int i = 0; i < 200 && !counts_has("all is told"); i++) {
		struct process process = shell(0, "$FOLDER/kvs-done 4096 return; sleep 0.1");
		process_free(&process);
	}
	assert_true(counts_has("all is told"));
	kill(pid, SIGKILL);
	snprintf(path, sizeof(path), "%s/counts", folder);
	file = fopen(path, "r");
	assert_non_null(file);
	while (fgets(line, sizeof(line), file) && !strstr(line, "all is told"))
		take_line(line);
	fclose(file);
}

/* ---- all say the same ---- */

static void same(
	const struct run *run, const char *name, const char *who, const char *what, uint64_t one, uint64_t other)
{
	if (one != other)
		fail_msg("%s, %s: %lu %s by %s, bpftrace counted %lu", run->name, name, one, what, who, other);
}

static void same_count(const struct run *run, const char *name, const char *who, const struct count *told,
	const struct count *counted, bool with_bytes)
{
	same(run, name, who, "calls", told->calls, counted->calls);
	same(run, name, who, "failures", told->failures, counted->failures);
	if (with_bytes)
		same(run, name, who, "bytes", told->bytes, counted->bytes);
}

/* The kernel's source has all functions of its table; cuMemGetInfo is told as what it says. */
static bool ebpf_tells(const char *name)
{
	return prof_function_find(name) >= 0 && strcmp(name, "cuMemGetInfo_v2") != 0;
}

/* CUPTI: what allocates, maps and frees, in the order of callbacks.c. */
static bool cupti_tells(const char *name)
{
	return (!strncmp(name, "cuMemAlloc", 10) || !strncmp(name, "cuMemFree", 9) ||
		       !strncmp(name, "cuMemAddress", 12) ||
		       is_among(name, "cuMemCreate cuMemRelease cuMemMap cuMemUnmap cuMemSetAccess cuMemHostAlloc ")) &&
	       strcmp(name, "cuMemGetInfo_v2") != 0;
}

static void check_function(const struct run *run, struct seen *one, const char *name, const struct count *counted)
{
	bool with_bytes = place_of_bytes(name) >= 0;

	same(run, name, "softcuda", "calls", count_of(&one->tally, name)->calls, counted->calls);
	if (ebpf_tells(name))
		same_count(run, name, "eBPF", count_of(&one->by[KVS_SOURCE_EBPF], name), counted, with_bytes);
	if (cupti_tells(name) && !run->sudden) {
		struct count heard = *counted;
		for (int i = 0; i < 2; i++)
			if (run->unheard[i].name && !strcmp(run->unheard[i].name, name)) {
				heard.calls -= run->unheard[i].count.calls;
				heard.failures -= run->unheard[i].count.failures;
				heard.bytes -= run->unheard[i].count.bytes;
			}
		same_count(run, name, "CUPTI", count_of(&one->by[KVS_SOURCE_CUPTI], name), &heard, with_bytes);
	}
	/* Ours sees the table's calls: those that open and close the table are not among them, all that concern memory are. */
	if (run->ours && (cupti_tells(name) || count_of(&one->by[KVS_SOURCE_OURS], name)->calls))
		same_count(run, name, "ours", count_of(&one->by[KVS_SOURCE_OURS], name), counted, with_bytes);
}

/* Nobody tells of a function that bpftrace did not count. */
static void check_counts(const struct run *run, struct seen *one)
{
	for (int source = 0; source < SOURCES; source++)
		for (size_t i = 0; i < one->by[source].count; i++)
			if (ebpf_tells(one->by[source].functions[i].name))
				count_of(&one->bpftrace, one->by[source].functions[i].name);
	for (size_t i = 0; i < one->bpftrace.count; i++)
		check_function(run, one, one->bpftrace.functions[i].name, &one->bpftrace.functions[i].count);
}

static void check_rest(const struct run *run, struct seen *one)
{
	static const char *const names[SOURCES] = {NULL, "ours", "eBPF", "CUPTI"};
	uint64_t launched = 0;

	assert_int_equal(one->lost, 0);
	for (int source = 1; source < SOURCES; source++)
		if (one->by[source].count &&
			(run->alone ? one->by[source].peak != one->tally.peak : one->by[source].peak > one->tally.peak))
			fail_msg("%s: the peak is %lu by %s, %lu in softcuda", run->name, one->by[source].peak,
				names[source], one->tally.peak);
	for (size_t i = 0; i < one->bpftrace.count; i++)
		if (!strncmp(one->bpftrace.functions[i].name, "cuLaunchKernel", 14))
			launched += one->bpftrace.functions[i].count.calls;
	if (run->kernels)
		assert_int_equal(one->kernels, launched);
}

static void all_say_the_same(void **state)
{
	struct counts all = {.count = 0};
	uint64_t calls = 0;
	pid_t bpftrace;

	(void)state;
	for (size_t i = 0; i < RUNS; i++) {
		struct counts tally = {.count = 0};
		run_once(&runs[i], "");
		read_tally(&runs[i], &tally);
		for (size_t f = 0; f < tally.count; f++)
			if (ebpf_tells(tally.functions[f].name))
				count_of(&all, tally.functions[f].name);
	}
	bpftrace = start_bpftrace(&all);
	for (size_t i = 0; i < RUNS; i++)
		watch_once(&runs[i], &seen[i]);
	end_bpftrace(bpftrace);
	for (size_t i = 0; i < RUNS; i++) {
		check_counts(&runs[i], &seen[i]);
		check_rest(&runs[i], &seen[i]);
		for (size_t f = 0; f < seen[i].bpftrace.count; f++)
			calls += seen[i].bpftrace.functions[f].count.calls;
	}
	print_message("%zu runs, %zu functions, %lu calls\n", RUNS, all.count, calls);
	assert_true(all.count > 40 && calls > 20000);
}

/* ---- the stage ---- */

static void set_absolute(const char *name, const char *path)
{
	char absolute[PATH_MAX];

	assert_non_null(realpath(built(path), absolute));
	setenv(name, absolute, 1);
}

static int folder_make(void **state)
{
	char target[PATH_MAX], name[256];
	struct process process;

	(void)state;
	strcpy(folder, "/tmp/kvshare-agree-XXXXXX");
	if (!mkdtemp(folder))
		return -1;
	snprintf(trace, sizeof(trace), "%s/trace", folder);
	seen = calloc(RUNS, sizeof(*seen));
	setenv("FOLDER", folder, 1);
	setenv("TRACE", trace, 1);
	setenv("SOFTCUDA_STRICT", "0", 1);
	setenv("ASAN_OPTIONS", "verify_asan_link_order=0:detect_leaks=0", 1); /* the shim is first, and links it too */
	set_absolute("MODULE", "tests/softcuda/softcuda_kernels.so");
	set_absolute("KERNELS", "tests/clients/decoder_kernels.so");
	set_absolute("FED", "tests/profiler/fed/libcuda.so.1");
	set_absolute("KVSHARE_CUPTI", "tests/profiler/fake-cupti/full/libcupti.so.13");
	for (size_t i = 0; i <= RUNS + 1; i++) {
		const char *program = i < RUNS ? runs[i].program : "tests/clients/ends";
		snprintf(name, sizeof(name), "%s/%s", folder,
			i < RUNS    ? runs[i].name
			: i == RUNS ? "kvs-ready"
				    : "kvs-done");
		if (!realpath(built(program), target) || symlink(target, name))
			return -1;
	}
	process = shell(0, "cp $FED $FOLDER/libcuda.so.1");
	process_free(&process);
	snprintf(name, sizeof(name), "%s/libcuda.so.1", folder);
	setenv("KVSHARE_SOFTCUDA", name, 1);
	return setenv("LD_LIBRARY_PATH", folder, 1);
}

static int folder_remove(void **state)
{
	char command[128];

	(void)state;
	free(seen);
	snprintf(command, sizeof(command), "rm -rf %s", folder);
	return system(command);
}

int main(void)
{
	const struct CMUnitTest tests[] = {cmocka_unit_test(all_say_the_same)};

	watched_or_skip();
	if (access(built("tests/profiler/fed/libcuda.so.1"), R_OK)) {
		puts("CUPTI's headers are not here: make deps");
		return 77;
	}
	if (system("command -v bpftrace >/dev/null")) {
		puts("bpftrace is not here: apt-get install bpftrace");
		return getenv("KVS_TEST_EBPF") ? EXIT_FAILURE : 77;
	}
	return cmocka_run_group_tests(tests, folder_make, folder_remove);
}
