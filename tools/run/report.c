/*
 * tools/run/report.c: output that several commands share: parts of JSON reports, summaries, progress, errors. Texts and
 * directories that users name are opened here too.
 */
#include "run.h"

#include <errno.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#define FIRST_LINE_SECONDS 5.0
#define TEXT_LIMIT ((size_t)1 << 30) /* a text is held in memory; a larger one is a mistake */

double run_now_s(void)
{
	struct timespec now;

	clock_gettime(CLOCK_MONOTONIC, &now);
	return now.tv_sec + now.tv_nsec * 1e-9;
}

int run_complain(void)
{
	fprintf(stderr, "kvshare-run: %s\n", kvs_error());
	return EXIT_FAILURE;
}

static int read_stream(FILE *file, const char *path, char **text, size_t *bytes)
{
	size_t room = 1 << 16, used = 0, got;
	char *buffer = malloc(room);

	while (buffer && (got = fread(buffer + used, 1, room - used - 1, file)) > 0) {
		used += got;
		if (used > TEXT_LIMIT) {
			free(buffer);
			return kvs_fail(-EFBIG, "%s is longer than %zu MiB", path, TEXT_LIMIT >> 20);
		}
		if (room - used == 1) {
			char *larger = realloc(buffer, 2 * room);
			if (!larger)
				free(buffer);
			buffer = larger;
			room *= 2;
		}
	}
	if (!buffer)
		return kvs_fail(-ENOMEM, "no memory for the text of %s", path);
	if (ferror(file)) {
		free(buffer);
		return kvs_fail(-EIO, "%s: %s", path, strerror(errno));
	}
	buffer[used] = 0;
	*text = buffer;
	*bytes = used;
	return 0;
}

int run_read_text(const char *path, char **text, size_t *bytes)
{
	FILE *file;
	int err;

	if (!strcmp(path, "-"))
		return read_stream(stdin, "standard input", text, bytes);
	file = fopen(path, "rb");
	if (!file)
		return kvs_fail(-errno, "%s: %s", path, strerror(errno));
	err = read_stream(file, path, text, bytes);
	fclose(file);
	return err;
}

int run_make_directory(const char *path)
{
	struct stat info;

	if (mkdir(path, 0777) && errno != EEXIST)
		return kvs_fail(-errno, "%s: %s", path, strerror(errno));
	if (stat(path, &info) || !S_ISDIR(info.st_mode))
		return kvs_fail(-ENOTDIR, "%s is not a directory, and one is expected", path);
	if (access(path, W_OK))
		return kvs_fail(-errno, "%s: cannot write there: %s", path, strerror(errno));
	return 0;
}

json_t *run_json_number(double value)
{
	return isfinite(value) ? json_real(value) : json_null();
}

json_t *run_json_device(const kvs_cu *cu)
{
	return json_pack("{s:s,s:s,s:i,s:i,s:I}", "kind", cu->kind == KVS_DEVICE_CUDA ? "cuda" : "host", "name",
		cu->name, "compute_capability", cu->compute_capability, "driver_version", cu->driver_version,
		"memory_bytes", (json_int_t)cu->memory_bytes);
}

json_t *run_json_model(const struct kvs_config *config)
{
	return json_pack("{s:s,s:i,s:i,s:i,s:i,s:i,s:i,s:s}", "architecture", config->model_type, "layers",
		config->layers, "hidden", config->hidden, "heads", config->heads, "kv_heads", config->kv_heads,
		"head_dim", config->head_dim, "vocab", config->vocab, "dtype", kvs_dtype_name(config->dtype));
}

json_t *run_json_memory(const struct kvs_engine_memory *memory)
{
	return json_pack("{s:I,s:I,s:I,s:I,s:I,s:I,s:I,s:I}", "granule_bytes", (json_int_t)memory->granule_bytes,
		"weights_bytes", (json_int_t)memory->weights_bytes, "weights_mapped_bytes",
		(json_int_t)memory->weights_mapped_bytes, "workspace_bytes", (json_int_t)memory->workspace_bytes,
		"kv_virtual_bytes", (json_int_t)memory->kv_virtual_bytes, "kv_physical_bytes",
		(json_int_t)memory->kv_physical_bytes, "kv_unshared_bytes", (json_int_t)memory->kv_unshared_bytes,
		"kv_row_bytes", (json_int_t)memory->kv_row_bytes);
}

int run_print_json(json_t *object)
{
	char *text = object ? json_dumps(object, JSON_INDENT(2)) : NULL;

	json_decref(object);
	if (!text)
		return kvs_fail(-ENOMEM, "no memory for the JSON report");
	puts(text);
	free(text);
	return run_flush_stdout();
}

void run_print_memory_summary(const struct kvs_engine_memory *memory)
{
	double physical = memory->kv_physical_bytes / 1048576.0, unshared = memory->kv_unshared_bytes / 1048576.0;

	fprintf(stderr, "KV cache  %.1f MiB physical, %.1f MiB without sharing\n", physical, unshared);
	fprintf(stderr, "saved     %.1f MiB (%.1f %%)\n", unshared - physical,
		unshared > 0 ? 100 * (unshared - physical) / unshared : 0.0);
}

static void show_bar(const char *what, const char *left, size_t done, size_t total, double now)
{
	static double shown;
	int filled = total ? (int)(30 * done / total) : 0;

	if (now - shown < 0.05 && done < total)
		return;
	shown = now;
	fprintf(stderr, "\r%-20s %11s [%.*s%*s] %3d %%", what, left, filled, "##############################",
		30 - filled, "", total ? (int)(100 * done / total) : 0);
}

/* Seconds between two lines of progress; 0: none. */
static double line_seconds(void)
{
	const char *given = getenv("KVSHARE_PROGRESS_SECONDS");
	char *end;
	double seconds = given ? strtod(given, &end) : 0;

	return given && end != given && !*end && seconds >= 0 ? seconds : 30;
}

/* In a log: the first line is early, and says how long all will take, so it waits until that is known. */
static void show_line(const char *what, const char *left, size_t done, size_t total, double now)
{
	static double first, next;
	double seconds = line_seconds();

	if (!first) {
		first = now + seconds;
		next = now + (seconds < FIRST_LINE_SECONDS ? seconds : FIRST_LINE_SECONDS);
	}
	if (!seconds || now < next || (!*left && now < first))
		return;
	next = now + seconds;
	fprintf(stderr, "%s: %d %%%s%s\n", what, total ? (int)(100 * done / total) : 0, *left ? ", " : "", left);
}

void run_progress_show(const char *what, const char *left, size_t done, size_t total)
{
	(isatty(STDERR_FILENO) ? show_bar : show_line)(what, left, done, total, run_now_s());
}

void run_progress_clear(void)
{
	if (isatty(STDERR_FILENO))
		fputs("\r\033[K", stderr);
}
