/*
 * The life of a probe: options, the table as text and JSON, its time limit, and cases in processes of their own.
 *
 * A thread watches the time: a driver may keep the main thread for as long as it likes, and what was seen until then is
 * still reported. The JSON file is written anew with every row, so that it holds what was seen even where the process is
 * killed. A case is this program started again with --case; it prints its rows, and its parent reads them.
 */
#include "probe.h"

#include <dlfcn.h>
#include <errno.h>
#include <getopt.h>
#include <jansson.h>
#include <limits.h>
#include <pthread.h>
#include <spawn.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

enum { LIMIT_SECONDS = 30, CASE_SECONDS = 8, CELLS_MAX = 16, ROW_BYTES = 1024, EXIT_SKIPPED = 77, EXIT_TIME = 124 };

kvs_cu *cu;
CUmemAllocationProp prop;
size_t granule;
bool quick;

static const struct probe *self;
static const char *device, *json_path, *case_name;
static double limit_us = LIMIT_SECONDS * 1e6, started_us;
static bool case_failed; /* the others still run, and the probe fails at its end */

/* One row is one string with the cells separated by tabs. */
static pthread_mutex_t table_lock = PTHREAD_MUTEX_INITIALIZER;
static char **rows;
static size_t row_count;

/* ---- the table ---- */

static size_t row_split(const char *row, char *storage, char **cells)
{
	size_t count = 0;
	char *rest = strcpy(storage, row);

	while (rest && count < CELLS_MAX)
		cells[count++] = strsep(&rest, "\t");
	return count;
}

static void table_print(void)
{
	char storage[ROW_BYTES], *cells[CELLS_MAX];
	size_t width[CELLS_MAX] = {0}, columns = 0;

	for (; self->columns[columns]; columns++)
		width[columns] = strlen(self->columns[columns]);
	for (size_t row = 0; row < row_count; row++) {
		size_t count = row_split(rows[row], storage, cells);

		for (size_t i = 0; i < count && i < columns; i++)
			width[i] = strlen(cells[i]) > width[i] ? strlen(cells[i]) : width[i];
	}
	for (size_t i = 0; i < columns; i++)
		printf("%-*s%s", (int)width[i], self->columns[i], i + 1 < columns ? "  " : "\n");
	for (size_t row = 0; row < row_count; row++) {
		size_t count = row_split(rows[row], storage, cells);

		for (size_t i = 0; i < columns; i++)
			printf("%-*s%s", (int)width[i], i < count ? cells[i] : "", i + 1 < columns ? "  " : "\n");
	}
	fflush(stdout);
}

static json_t *cell_json(const char *cell)
{
	char *end;
	double number = strtod(cell, &end);

	if (end == cell || *end || number - number != 0)
		return json_string(cell);
	return strpbrk(cell, ".eExX") ? json_real(number) : json_integer(strtoll(cell, NULL, 10));
}

static json_t *table_json(void)
{
	char storage[ROW_BYTES], *cells[CELLS_MAX];
	json_t *array = json_array();

	for (size_t row = 0; row < row_count; row++) {
		size_t count = row_split(rows[row], storage, cells);
		json_t *object = json_object();

		for (size_t i = 0; i < count && self->columns[i]; i++)
			json_object_set_new(object, self->columns[i], cell_json(cells[i]));
		json_array_append_new(array, object);
	}
	return array;
}

/* Writes beside the file and moves it there, so that no reader finds half of it. */
static void json_write(const char *status)
{
	char beside[PATH_MAX];
	json_t *root;

	if (!json_path)
		return;
	root = json_pack("{s:s s:s s:s s:b s:{s:s s:s s:i s:i s:I} s:f s:o}", "probe", self->name, "question",
		self->question, "status", status, "quick", quick, "device", "kind",
		cu->kind == KVS_DEVICE_HOST ? "host" : "cuda", "name", cu->name, "driver_version", cu->driver_version,
		"compute_capability", cu->compute_capability, "granule_bytes", (json_int_t)granule, "seconds",
		(now_us() - started_us) * 1e-6, "rows", table_json());
	snprintf(beside, sizeof(beside), "%s.new", json_path);
	if (!root || json_dump_file(root, beside, JSON_INDENT(1) | JSON_REAL_PRECISION(9)) ||
		rename(beside, json_path)) {
		fprintf(stderr, "%s_probe: cannot write %s\n", self->name, json_path);
		exit(1);
	}
	json_decref(root);
}

static void row_add(const char *row)
{
	pthread_mutex_lock(&table_lock);
	if (case_name) {
		printf("%s\n", row);
		fflush(stdout);
	} else {
		rows = realloc(rows, (row_count + 1) * sizeof(*rows));
		rows[row_count++] = strdup(row);
		json_write("running");
	}
	pthread_mutex_unlock(&table_lock);
}

void probe_row(const char *format, ...)
{
	char row[ROW_BYTES];
	va_list arguments;

	va_start(arguments, format);
	vsnprintf(row, sizeof(row), format, arguments);
	va_end(arguments);
	row_add(row);
}

/* The last thing that a process does; the lock stays taken, so that nobody adds to what was reported. */
static void finish(const char *status, int code) __attribute__((noreturn));
static void finish(const char *status, int code)
{
	pthread_mutex_lock(&table_lock);
	if (!case_name) {
		json_write(status);
		table_print();
	}
	fflush(stdout);
	_exit(code); /* without the driver's own end, which may hang where a context was lost */
}

/* ---- failing ---- */

const char *error_name(CUresult result)
{
	const char *name = NULL;

	if (result == CUDA_SUCCESS)
		return "ok";
	if (cu->cuGetErrorName(result, &name) || !name)
		return "an error without a name";
	return strncmp(name, "CUDA_ERROR_", 11) ? name : name + 11;
}

void probe_fail(const char *format, ...)
{
	va_list arguments;

	fprintf(stderr, "%s_probe: ", self->name);
	va_start(arguments, format);
	vfprintf(stderr, format, arguments);
	va_end(arguments);
	fputc('\n', stderr);
	finish("failed", 1);
}

void probe_check(CUresult result, const char *call, const char *file, int line)
{
	if (result)
		probe_fail("%s:%d: %s is %s (%d)", file, line, call, error_name(result), result);
}

/* ---- time ---- */

double now_us(void)
{
	struct timespec now;

	clock_gettime(CLOCK_MONOTONIC, &now);
	return (double)now.tv_sec * 1e6 + (double)now.tv_nsec * 1e-3;
}

bool probe_time_is_short(void)
{
	return now_us() - started_us > limit_us / 2;
}

void sleep_ms(unsigned ms)
{
	struct timespec wait = {.tv_sec = ms / 1000, .tv_nsec = ms % 1000 * 1000000L};

	while (nanosleep(&wait, &wait) && errno == EINTR)
		;
}

static void *watch(void *unused)
{
	(void)unused;
	sleep_ms((unsigned)(limit_us / 1000));
	fprintf(stderr, "%s_probe: not through after %.0f s\n", self->name, limit_us * 1e-6);
	finish("timed out", EXIT_TIME);
}

static int compare(const void *a, const void *b)
{
	double left = *(const double *)a, right = *(const double *)b;

	return (left > right) - (left < right);
}

double percentile(double *samples, size_t count, unsigned percent)
{
	size_t index = count * percent / 100;

	qsort(samples, count, sizeof(*samples), compare);
	return samples[index < count ? index : count - 1];
}

/* ---- cases ---- */

static pid_t case_spawn(const char *name, int *from)
{
	char program[PATH_MAX] = {0};
	char *argv[] = {program, "--case", (char *)name, "--device", (char *)device, quick ? "--quick" : NULL, NULL};
	posix_spawn_file_actions_t actions;
	int ends[2], err;
	pid_t pid;

	if (readlink("/proc/self/exe", program, sizeof(program) - 1) < 0 || pipe(ends))
		probe_fail("case %s: %s", name, strerror(errno));
	posix_spawn_file_actions_init(&actions);
	posix_spawn_file_actions_adddup2(&actions, ends[1], STDOUT_FILENO);
	posix_spawn_file_actions_addclose(&actions, ends[0]);
	posix_spawn_file_actions_addclose(&actions, ends[1]);
	err = posix_spawn(&pid, program, &actions, NULL, argv, environ);
	posix_spawn_file_actions_destroy(&actions);
	close(ends[1]);
	if (err)
		probe_fail("case %s: %s", name, strerror(err));
	*from = ends[0];
	return pid;
}

void probe_case(const char *name)
{
	char line[ROW_BYTES];
	int from, status;
	pid_t pid = case_spawn(name, &from);
	FILE *rows_in = fdopen(from, "r");

	while (rows_in && fgets(line, sizeof(line), rows_in)) {
		line[strcspn(line, "\n")] = '\0';
		row_add(line);
	}
	if (rows_in)
		fclose(rows_in);
	while (waitpid(pid, &status, 0) < 0 && errno == EINTR)
		;
	if (WIFSIGNALED(status))
		probe_row("%s\tits process was ended by signal %d", name, WTERMSIG(status));
	else if (WEXITSTATUS(status) == EXIT_TIME)
		probe_row("%s\tnot through after %d s", name, CASE_SECONDS);
	else if (WEXITSTATUS(status))
		probe_row("%s\tfailed with exit status %d", name, WEXITSTATUS(status));
	case_failed |= WIFEXITED(status) && WEXITSTATUS(status) && WEXITSTATUS(status) != EXIT_TIME;
}

/* ---- start ---- */

static void usage(int code)
{
	fprintf(code ? stderr : stdout,
		"usage: %s_probe [--device auto|cuda[:N]|host] [--json FILE] [--quick] [--limit SECONDS]\n%s\n",
		self->name, self->question);
	exit(code);
}

static void options_read(int argc, char **argv)
{
	static const struct option options[] = {
		{"device", required_argument, NULL, 'd'},
		{"json", required_argument, NULL, 'j'},
		{"quick", no_argument, NULL, 'q'},
		{"limit", required_argument, NULL, 'l'},
		{"case", required_argument, NULL, 'c'},
		{"help", no_argument, NULL, 'h'},
		{0},
	};
	char *end;

	device = getenv("KVS_TEST_DEVICE") ?: "cuda";
	for (int option; (option = getopt_long(argc, argv, "", options, NULL)) != -1;) {
		if (option == 'd')
			device = optarg;
		else if (option == 'j')
			json_path = optarg;
		else if (option == 'q')
			quick = true;
		else if (option == 'l' && strtod(optarg, &end) > 0 && !*end)
			limit_us = strtod(optarg, NULL) * 1e6;
		else if (option == 'c' && self->run_case)
			case_name = optarg;
		else
			usage(option == 'h' ? 0 : 2);
	}
	if (optind != argc)
		usage(2);
	if (case_name)
		limit_us = CASE_SECONDS * 1e6;
}

static int device_open(void)
{
	int err;

	/* Only softcuda reads these: workers for kernels that wait on each other, and no word on what a probe does on purpose. */
	setenv("SOFTCUDA_MEMORY", "1G", 0);
	setenv("SOFTCUDA_WORKERS", "4", 0);
	setenv("SOFTCUDA_STRICT", "0", 0);
	/* A kernel that is loaded at its first launch may wait for one that runs, and that one for the probe. */
	setenv("CUDA_MODULE_LOADING", "EAGER", 0);
	err = kvs_cu_open(device, &cu);
	if (err) {
		fprintf(stderr, "%s_probe: %s\n", self->name, kvs_error());
		return err == -ENODEV && strcmp(device, "host") ? EXIT_SKIPPED : 1;
	}
	prop.type = CU_MEM_ALLOCATION_TYPE_PINNED;
	prop.location.type = CU_MEM_LOCATION_TYPE_DEVICE;
	prop.location.id = cu->device;
	must(cu->cuMemGetAllocationGranularity(&granule, &prop, CU_MEM_ALLOC_GRANULARITY_MINIMUM));
	return 0;
}

void *probe_symbol(const char *base, const char *symbol)
{
	CUdriverProcAddressQueryResult status;
	__typeof__(cuGetProcAddress) *get;
	void *found = dlsym(cu->library, symbol);

	get = (__typeof__(get))dlsym(cu->library, PROBE_TEXT(cuGetProcAddress));
	if (!found && get && get(base, &found, CUDA_VERSION, CU_GET_PROC_ADDRESS_DEFAULT, &status))
		found = NULL;
	return found;
}

int probe_main(int argc, char **argv, const struct probe *probe)
{
	pthread_t watcher;
	int code;

	self = probe;
	started_us = now_us();
	options_read(argc, argv);
	code = device_open();
	if (code)
		return code;
	if (pthread_create(&watcher, NULL, watch, NULL))
		probe_fail("cannot start a thread");
	if (case_name) {
		probe->run_case(case_name);
		finish("complete", 0);
	}
	printf("%s: %s\ndevice: %s, driver %d.%d, granularity %zu\n\n", probe->name, probe->question, cu->name,
		cu->driver_version / 1000, cu->driver_version % 1000 / 10, granule);
	json_write("running");
	probe->run();
	finish(case_failed ? "failed" : "complete", case_failed);
}
