/*
 * tools/preload/probe.c: which kernels write the KV cache, for `kvshare-run probe`. Nothing is shared: the program keeps its
 * own memory, and each launch is waited for, with the cache read before and after it.
 *
 * What differs, the launch has written, whatever its name is and wherever it had the address from. All launches of the
 * program wait for each other meanwhile.
 */
#include "probe.h"

#include <errno.h>
#include <pthread.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static pthread_once_t once = PTHREAD_ONCE_INIT;
static struct probe_tensor *tensors;
static size_t tensor_count, launches;
static CUdeviceptr *slots; /* the allocations of all caches, in the order of the layout; 0: none yet */
static size_t slot_count;
static struct area { /* reserved addresses */
	struct area *next;
	CUdeviceptr base;
	size_t bytes;
} * areas;
static struct skip { /* what came before the cache of each context */
	struct skip *next;
	CUcontext context;
	int count;
} * skips;
static bool given_up;
static pid_t started_by;

void probe_lock(void)
{
	pthread_mutex_lock(&lock);
}

void probe_unlock(void)
{
	pthread_mutex_unlock(&lock);
}

struct probe_tensor *probe_tensors(size_t *count)
{
	*count = tensor_count;
	return tensors;
}

const struct probe_tensor *probe_tensor_at(CUdeviceptr address)
{
	for (size_t i = 0; i < tensor_count; i++)
		if (address - tensors[i].base < tensors[i].bytes)
			return &tensors[i];
	return NULL;
}

void shim_probe_write_now(void)
{
	if (getpid() == started_by)
		probe_write(launches);
}

static void start(void)
{
	started_by = getpid();
	atexit(shim_probe_write_now);
	shim_ends_watch();
}

static void give_up(const char *why)
{
	if (!given_up)
		shim_say("probe goes on no longer: %s", why);
	given_up = true;
}

/* ---- the cache ---- */

/* The first free slot, if it is for one of this size; a cache that is full starts another. *number -1: it is not. */
static bool slot_take(CUdeviceptr base, size_t bytes, int *number)
{
	const struct shim_layout *layout = &shim_settings()->layout;
	size_t per_cache = (size_t)shim_layout_allocations(layout), at = 0;
	CUdeviceptr *grown;

	while (at < slot_count && slots[at])
		at++;
	*number = (int)(at % per_cache);
	if (!shim_layout_fits_at(layout, *number, bytes)) {
		*number = -1;
		return true;
	}
	if (at == slot_count) {
		grown = realloc(slots, (slot_count + per_cache) * sizeof(*slots));
		if (!grown)
			return false;
		slots = grown;
		memset(slots + slot_count, 0, per_cache * sizeof(*slots));
		slot_count += per_cache;
	}
	slots[at] = base;
	return true;
}

static bool tensor_add(CUdeviceptr allocation, enum kvs_k_or_v which, int layer, const struct shim_place *place)
{
	struct probe_tensor *grown = realloc(tensors, (tensor_count + 1) * sizeof(*tensors)), *tensor;

	if (!grown)
		return false;
	tensors = grown;
	tensor = &tensors[tensor_count];
	*tensor = (struct probe_tensor){which, layer, allocation + place->offset, allocation, place->bytes,
		malloc(place->bytes), malloc(place->bytes), false, shim_settings()->layout.reserved};
	if (tensor->now && tensor->before) {
		tensor_count++;
		return true;
	}
	free(tensor->now);
	free(tensor->before);
	return false;
}

/* As shim_is_skipped(). */
static bool is_skipped(size_t bytes)
{
	const struct shim_layout *layout = &shim_settings()->layout;
	CUcontext context = NULL;
	struct skip *skip = skips;

	if (!layout->skip || !shim_real()->cuCtxGetCurrent || shim_real()->cuCtxGetCurrent(&context))
		return false;
	while (skip && skip->context != context)
		skip = skip->next;
	if (!skip) {
		skip = malloc(sizeof(*skip));
		if (!skip)
			return false;
		*skip = (struct skip){skips, context, 0};
		skips = skip;
	}
	if (skip->count >= layout->skip)
		return false;
	skip->count += shim_layout_fits_at(layout, 0, bytes);
	return true;
}

static void allocated(CUdeviceptr base, size_t bytes)
{
	const struct shim_layout *layout = &shim_settings()->layout;
	bool enough = true;
	int number;

	if (!shim_layout_fits(layout, bytes))
		return;
	pthread_mutex_lock(&lock);
	if (!is_skipped(bytes)) {
		enough = slot_take(base, bytes, &number);
		for (int i = 0; enough && i < 2 * layout->layers; i++) {
			const struct shim_place place = shim_layout_place(layout, i % 2 ? KVS_V : KVS_K, i / 2);

			if (place.allocation == number)
				enough = tensor_add(base, i % 2 ? KVS_V : KVS_K, i / 2, &place);
		}
	}
	if (!enough)
		give_up("no memory for a copy of the cache");
	pthread_mutex_unlock(&lock);
}

void shim_probe_allocated(CUdeviceptr base, size_t bytes)
{
	pthread_once(&once, start);
	if (!shim_settings()->layout.reserved)
		allocated(base, bytes);
}

void shim_probe_reserved(CUdeviceptr base, size_t bytes)
{
	struct area *area = malloc(sizeof(*area));

	pthread_once(&once, start);
	pthread_mutex_lock(&lock);
	if (area) {
		*area = (struct area){areas, base, bytes};
		areas = area;
	} else {
		give_up("no memory for a note of reserved addresses");
	}
	pthread_mutex_unlock(&lock);
	if (shim_settings()->layout.reserved)
		allocated(base, bytes);
}

static void area_remove(CUdeviceptr base)
{
	for (struct area **link = &areas; *link; link = &(*link)->next) {
		struct area *area = *link;

		if (area->base != base)
			continue;
		*link = area->next;
		free(area);
		return;
	}
}

bool probe_memory_at(CUdeviceptr address, CUdeviceptr *base, size_t *bytes)
{
	const struct shim_real *driver = shim_real();
	const struct area *area = areas;
	CUdeviceptr end, next;
	size_t more;

	if (driver->cuMemGetAddressRange_v2(base, bytes, address))
		return false;
	while (area && address - area->base >= area->bytes)
		area = area->next;
	if (!area)
		return true;
	end = *base + *bytes;
	while (*base > area->base && !driver->cuMemGetAddressRange_v2(&next, &more, *base - 1) && next >= area->base)
		*base = next;
	while (end < area->base + area->bytes && !driver->cuMemGetAddressRange_v2(&next, &more, end))
		end = next + more;
	*bytes = end - *base;
	return true;
}

void shim_probe_freed(CUdeviceptr base)
{
	size_t left = 0;

	pthread_mutex_lock(&lock);
	area_remove(base);
	for (size_t i = 0; i < slot_count; i++)
		if (slots[i] == base)
			slots[i] = 0;
	for (size_t i = 0; i < tensor_count; i++) {
		if (tensors[i].allocation != base) {
			tensors[left++] = tensors[i];
			continue;
		}
		free(tensors[i].now);
		free(tensors[i].before);
	}
	tensor_count = left;
	pthread_mutex_unlock(&lock);
}

int probe_tensor_read(struct probe_tensor *tensor)
{
	unsigned char *read = tensor->before;
	CUresult result = shim_real()->cuMemcpyDtoH_v2(read, tensor->base, tensor->bytes);

	tensor->written = false;
	if (result == CUDA_ERROR_INVALID_VALUE && shim_settings()->layout.reserved) {
		tensor->absent = true;
		return 0;
	}
	if (result)
		return kvs_fail(-EIO, "the cache cannot be read");
	tensor->before = tensor->now;
	tensor->now = read;
	tensor->written = !tensor->absent && memcmp(tensor->now, tensor->before, tensor->bytes) != 0;
	tensor->absent = false;
	return 0;
}

/* Everything that was started has ended; all tensors are read. */
static bool cache_read(CUresult *result)
{
	*result = shim_real()->cuCtxSynchronize();
	for (size_t i = 0; !*result && i < tensor_count; i++) {
		if (probe_tensor_read(&tensors[i])) {
			give_up(kvs_error());
			return false;
		}
	}
	return !*result;
}

/* ---- a launch ---- */

static void word_count(void *arg, size_t param, size_t offset, CUdeviceptr word, size_t map_bytes)
{
	(void)map_bytes;
	(void)param;
	(void)offset;
	(void)word;
	++*(size_t *)arg;
}

static void word_note(void *arg, size_t param, size_t offset, CUdeviceptr word, size_t map_bytes)
{
	struct probe_words *words = arg;

	if (word >= 65536) /* neither a small number nor nothing */
		words->word[words->count++] = (struct probe_word){param, offset, word, map_bytes};
}

struct probe_words *probe_words_of(const struct shim_launch *launch)
{
	struct probe_words *words;
	size_t count = 0;

	shim_launch_words(launch, word_count, &count);
	words = calloc(1, sizeof(*words) + count * sizeof(*words->word));
	if (words)
		shim_launch_words(launch, word_note, words);
	return words;
}

static struct probe_trial *trial_begin(const char *kernel, const struct probe_words *words)
{
	for (size_t i = 0; i < words->count; i++) {
		const struct probe_tensor *tensor = probe_tensor_at(words->word[i].value);

		if (tensor)
			return probe_trial_is_due(kernel, tensor) ? probe_trial_begin(words) : NULL;
	}
	return NULL;
}

/* Whose words they are, in a launch that is over. */
static void launch_conclude(
	const char *kernel, const struct probe_words *words, struct probe_trial *trial, shim_start_fn *start, void *arg)
{
	bool wrote = false;

	for (size_t i = 0; i < tensor_count; i++) {
		if (tensors[i].written)
			probe_found(kernel, words, &tensors[i]);
		wrote |= tensors[i].written;
	}
	if (wrote)
		probe_found_launch(kernel, trial ? probe_trial_run(trial, start, arg) : PROBE_UNTRIED);
}

CUresult probe_watch(const char *kernel, const struct probe_words *words, shim_start_fn *start, void *arg)
{
	struct probe_trial *trial;
	CUresult result;

	if (given_up || !tensor_count || !cache_read(&result))
		return start(arg);
	trial = trial_begin(kernel, words);
	launches++;
	result = start(arg);
	if (!result && cache_read(&result))
		launch_conclude(kernel, words, trial, start, arg);
	probe_trial_end(trial);
	return result;
}

CUresult shim_probe_launch(const struct shim_launch *launch, shim_start_fn *start, void *arg)
{
	struct probe_words *words;
	CUresult result;

	probe_lock();
	words = probe_words_of(launch);
	if (!words)
		give_up("no memory for the parameters of a launch");
	result = words ? probe_watch(launch->kernel->name, words, start, arg) : start(arg);
	free(words);
	probe_unlock();
	return result;
}
