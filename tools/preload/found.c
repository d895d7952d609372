/*
 * tools/preload/found.c: what `kvshare-run probe` has found: the places in the parameters of kernels through which they write
 * the cache, as a JSON file at the end ($KVSHARE_PROBE.PID).
 */
#include "probe.h"

#include <stdlib.h>
#include <string.h>

#define MAX_TRIALS 4                   /* for each kernel and tensor: a first token has nothing to read yet */
#define TABLE_BYTES ((size_t)64 << 10) /* as much is searched of what a parameter points to */

/* A kernel that was handed, or has written, the cache. */
struct kernel {
	struct kernel *next;
	char *name;
	bool writes;
	size_t launches; /* in which it wrote */
	enum probe_reads reads;
	unsigned char trials[2][KVS_PLAN_MAX_LAYERS];
};

struct place {
	struct place *next;
	struct kernel *kernel;
	enum probe_way way;
	size_t param, offset, entry; /* the entry of a table */
	bool map;                    /* it is a tensor map */
	bool k, v, layers[KVS_PLAN_MAX_LAYERS];
	size_t launches, last; /* the kernel's launch that was counted last */
};

static struct kernel *kernels;
static struct place *places;

static struct kernel *kernel_get(const char *name)
{
	struct kernel *kernel = kernels;

	while (kernel && strcmp(kernel->name, name))
		kernel = kernel->next;
	if (kernel || !(kernel = calloc(1, sizeof(*kernel))))
		return kernel;
	kernel->name = strdup(name);
	if (!kernel->name) {
		free(kernel);
		return NULL;
	}
	kernel->next = kernels;
	kernels = kernel;
	return kernel;
}

/* A kernel that has not written when it was first handed the cache is tried again only once it has. */
bool probe_trial_is_due(const char *name, const struct probe_tensor *tensor)
{
	struct kernel *kernel = kernel_get(name);
	unsigned char *trials = kernel ? &kernel->trials[tensor->which == KVS_V][tensor->layer] : NULL;

	if (!trials || kernel->reads == PROBE_READS_TOO || *trials >= (kernel->writes ? MAX_TRIALS : 1))
		return false;
	++*trials;
	return true;
}

static void place_note(const char *name, enum probe_way way, const struct probe_word *word, size_t entry,
	const struct probe_tensor *tensor)
{
	struct kernel *kernel = kernel_get(name);
	size_t param = word ? word->param : 0, offset = word ? word->offset : 0;
	struct place *place = places;

	while (place &&
		(place->kernel != kernel || place->way != way || place->param != param || place->offset != offset))
		place = place->next;
	if (!kernel || (!place && !(place = calloc(1, sizeof(*place)))))
		return;
	if (!place->kernel) {
		*place = (struct place){.next = places,
			.kernel = kernel,
			.way = way,
			.param = param,
			.offset = offset,
			.entry = entry,
			.map = word && word->map_bytes,
			.last = SIZE_MAX};
		places = place;
	}
	place->k |= tensor->which == KVS_K;
	place->v |= tensor->which == KVS_V;
	place->layers[tensor->layer] = true;
	place->launches += place->last != kernel->launches;
	place->last = kernel->launches;
}

/* The place of an address of the tensor in what `word` points to; false: there is none. */
static bool table_search(const struct probe_word *word, const struct probe_tensor *tensor, size_t *entry)
{
	static CUdeviceptr table[TABLE_BYTES / sizeof(CUdeviceptr)]; /* under the lock */
	const struct shim_real *driver = shim_real();
	CUdeviceptr base;
	size_t bytes;

	if (word->map_bytes || probe_tensor_at(word->value) || !probe_memory_at(word->value, &base, &bytes))
		return false;
	bytes -= word->value - base;
	bytes = bytes < TABLE_BYTES ? bytes : TABLE_BYTES;
	if (driver->cuMemcpyDtoH_v2(table, word->value, bytes))
		return false;
	for (*entry = 0; *entry < bytes / sizeof(*table); ++*entry)
		if (table[*entry] - tensor->base < tensor->bytes)
			return true;
	return false;
}

/* A tensor map of this tensor and of more. */
static bool map_spans(const struct probe_word *word, const struct probe_tensor *tensor)
{
	CUdeviceptr end = word->value + word->map_bytes;

	return word->map_bytes && word->value < tensor->base + tensor->bytes && end > tensor->base &&
	       (word->value < tensor->base || end > tensor->base + tensor->bytes);
}

void probe_found(const char *kernel, const struct probe_words *words, const struct probe_tensor *tensor)
{
	const struct probe_word *beyond = NULL;
	size_t entry;
	bool found = false;

	for (size_t i = 0; i < words->count; i++) {
		const struct probe_tensor *other = probe_tensor_at(words->word[i].value);

		if (map_spans(&words->word[i], tensor)) {
			place_note(kernel, PROBE_MAP, &words->word[i], 0, tensor);
			found = true;
			continue;
		}
		if (other == tensor)
			place_note(kernel, PROBE_PARAMETER, &words->word[i], 0, tensor);
		found |= other == tensor;
		if (other && other->allocation == tensor->allocation && !beyond)
			beyond = &words->word[i];
	}
	for (size_t i = 0; !found && i < words->count; i++) {
		found = table_search(&words->word[i], tensor, &entry);
		if (found)
			place_note(kernel, PROBE_TABLE, &words->word[i], entry, tensor);
	}
	if (!found)
		place_note(kernel, beyond ? PROBE_BEYOND : PROBE_UNKNOWN, beyond, 0, tensor);
}

void probe_found_launch(const char *name, enum probe_reads reads)
{
	struct kernel *kernel = kernel_get(name);

	if (!kernel)
		return;
	kernel->writes = true;
	kernel->launches++;
	if (reads == PROBE_READS_TOO || kernel->reads == PROBE_UNTRIED ||
		(reads == PROBE_UNREPEATABLE && kernel->reads == PROBE_WRITES_ONLY))
		kernel->reads = reads;
}

/* ---- the file ---- */

static void place_write(struct shim_report *out, const struct place *place)
{
	static const char *const ways[] = {"parameter", "beyond", "table", "tensor map of several", "unknown"};
	static const char *const reads[] = {"untried", "no", "yes", "unrepeatable"};
	int layers = 0;

	for (int i = 0; i < KVS_PLAN_MAX_LAYERS; i++)
		layers += place->layers[i];
	shim_text_add(shim_report_text(out), "{\"kernel\": \"");
	for (const char *c = place->kernel->name; *c; c++)
		shim_text_add(shim_report_text(out),
			*c == '"' || *c == '\\' || (unsigned char)*c < ' ' ? "\\u%04x" : "%c", (unsigned char)*c);
	shim_text_add(shim_report_text(out),
		"\", \"way\": \"%s\", \"parameter\": %zu, \"offset\": %zu, \"entry\": %zu, %s"
		"\"writes\": \"%s%s\", \"layers\": %d, \"launches\": %zu, \"reads\": \"%s\"}",
		ways[place->way], place->param, place->offset, place->entry, place->map ? "\"tensor_map\": true, " : "",
		place->k ? "k" : "", place->v ? "v" : "", layers, place->launches, reads[place->kernel->reads]);
}

/* A signal may have come while something is added: what is in the list is whole. */
void probe_write(size_t launches)
{
	struct shim_report report;

	if (!shim_report_open(&report, shim_settings()->probe_path))
		return;
	shim_text_add(shim_report_text(&report), "{\"kvshare_probe\": 1, \"launches\": %zu, \"places\": [", launches);
	for (const struct place *place = places; place; place = place->next) {
		shim_text_add(shim_report_text(&report), place == places ? "\n" : ",\n");
		place_write(&report, place);
	}
	shim_text_add(shim_report_text(&report), "]}\n");
	shim_report_close(&report, shim_settings()->probe_path);
}
