/*
 * tools/preload/inspect.c: what a program allocates, and where kernels that are known to store K and V write: the raw material
 * of `kvshare-run inspect`, as a JSON file at the end ($KVSHARE_INSPECT.PID). Nothing is shared meanwhile.
 */
#include "preload.h"

#include <pthread.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define MAX_RECORDS ((size_t)1 << 20)
#define MAX_STORES 16384 /* K and V of more layers than a plan can have */
#define MAX_NUMBERS 512  /* a kernel has a few strides, and the number of tokens in each launch */
#define LEAST_NUMBER 16  /* a stride of less leads nowhere */
#define MOST_NUMBER ((uint64_t)1 << 40)

struct record {
	const char *call;
	CUdeviceptr base;
	size_t bytes;
	bool freed;
};
struct store { /* the first of each place */
	size_t record, offset;
};

static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static pthread_once_t once = PTHREAD_ONCE_INIT;
static struct record *records; /* [MAX_RECORDS], of which only what is used takes memory */
static size_t record_count, store_count, granule;
static struct store stores[MAX_STORES];
static size_t number_count;
static uint64_t numbers[MAX_NUMBERS];
static pid_t started_by;

/* A signal may have come while something is added: what is counted is whole. */
void shim_inspect_write_now(void)
{
	struct shim_report report;

	if (getpid() != started_by || !shim_report_open(&report, shim_settings()->inspect_path))
		return;
	shim_text_add(shim_report_text(&report), "{\"kvshare_inspect\": 1, \"granule_bytes\": %zu, \"allocations\": [",
		granule);
	for (size_t i = 0; i < record_count; i++)
		shim_text_add(shim_report_text(&report), "%s\n{\"call\": \"%s\", \"bytes\": %zu, \"freed\": %s}",
			i ? "," : "", records[i].call, records[i].bytes, records[i].freed ? "true" : "false");
	shim_text_add(shim_report_text(&report), "], \"stores\": [");
	for (size_t i = 0; i < store_count; i++)
		shim_text_add(
			shim_report_text(&report), "%s\n[%zu, %zu]", i ? "," : "", stores[i].record, stores[i].offset);
	shim_text_add(shim_report_text(&report), "], \"numbers\": [");
	for (size_t i = 0; i < number_count; i++)
		shim_text_add(shim_report_text(&report), "%s%llu", i ? ", " : "", (unsigned long long)numbers[i]);
	shim_text_add(shim_report_text(&report), "]}\n");
	shim_report_close(&report, shim_settings()->inspect_path);
}

static void start(void)
{
	const CUmemAllocationProp properties = {
		.type = CU_MEM_ALLOCATION_TYPE_PINNED, .location = {.type = CU_MEM_LOCATION_TYPE_DEVICE}};
	const struct shim_real *driver = shim_real();

	if (!driver->cuMemGetAllocationGranularity ||
		driver->cuMemGetAllocationGranularity(&granule, &properties, CU_MEM_ALLOC_GRANULARITY_MINIMUM))
		granule = 0;
	records = calloc(MAX_RECORDS, sizeof(*records));
	started_by = getpid();
	atexit(shim_inspect_write_now);
	shim_ends_watch();
}

void shim_inspect_allocated(const char *call, CUdeviceptr base, size_t bytes)
{
	pthread_once(&once, start);
	pthread_mutex_lock(&lock);
	if (records && record_count < MAX_RECORDS) {
		records[record_count] = (struct record){call, base, bytes, false};
		record_count++;
	}
	pthread_mutex_unlock(&lock);
}

void shim_inspect_freed(CUdeviceptr base)
{
	pthread_mutex_lock(&lock);
	for (size_t i = record_count; i-- > 0;) {
		if (records[i].base == base && !records[i].freed) {
			records[i].freed = true;
			break;
		}
	}
	pthread_mutex_unlock(&lock);
}

void shim_inspect_store(CUdeviceptr address)
{
	size_t at = record_count, seen = 0;

	pthread_mutex_lock(&lock);
	for (at = record_count; at-- > 0;)
		if (!records[at].freed && address - records[at].base < records[at].bytes)
			break;
	if (at < record_count) {
		const struct store store = {at, address - records[at].base};

		while (seen < store_count && (stores[seen].record != at || stores[seen].offset != store.offset))
			seen++;
		if (seen == store_count && store_count < MAX_STORES) {
			stores[store_count] = store;
			store_count++;
		}
	}
	pthread_mutex_unlock(&lock);
}

static void number_note(uint64_t number)
{
	size_t seen = 0;

	while (seen < number_count && numbers[seen] != number)
		seen++;
	if (number >= LEAST_NUMBER && number < MOST_NUMBER && seen == number_count && number_count < MAX_NUMBERS)
		numbers[number_count++] = number;
}

/* Of a program on Linux: its lower half would be as random as it is long. */
static bool is_address(uint64_t word)
{
	return word >> 46 == 1;
}

/* A word of 8 bytes is one number or two. */
void shim_inspect_value(const unsigned char *value, size_t bytes)
{
	pthread_mutex_lock(&lock);
	for (size_t at = 0; at + sizeof(uint32_t) <= bytes; at += sizeof(uint64_t)) {
		uint32_t half[2] = {0};
		uint64_t word;

		memcpy(half, value + at, bytes - at < sizeof(half) ? bytes - at : sizeof(half));
		memcpy(&word, half, sizeof(word));
		if (is_address(word))
			continue;
		number_note(word);
		number_note(half[0]);
		number_note(half[1]);
	}
	pthread_mutex_unlock(&lock);
}
