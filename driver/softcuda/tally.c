/*
 * driver/softcuda/tally.c: calls by function and the peak of physical memory, counted in a file that several processes share
 * (SOFTCUDA_TALLY): an independent witness of what a profiler writes down, which outlives a process that is killed.
 *
 * A row is claimed once, by whoever first calls its function; counting is then one addition in shared memory. Without a file
 * it is one branch.
 */
#include "state.h"

#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

static pthread_once_t once = PTHREAD_ONCE_INIT;
static struct softcuda_tally *tally; /* NULL: nobody wants one */

static void open_tally(void)
{
	const char *path = getenv("SOFTCUDA_TALLY");
	int fd = path && *path ? open(path, O_RDWR | O_CREAT | O_CLOEXEC, 0600) : -1;
	void *map = MAP_FAILED;

	if (!path || !*path)
		return;
	if (fd >= 0 && !ftruncate(fd, sizeof(*tally)))
		map = mmap(NULL, sizeof(*tally), PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
	if (fd >= 0)
		close(fd);
	if (map == MAP_FAILED)
		fprintf(stderr, "softcuda: SOFTCUDA_TALLY=%s: it cannot be mapped\n", path);
	else
		tally = map;
}

#define MOST_YIELDS 100000

static unsigned place_of(const char *function)
{
	unsigned hash = 2166136261u;

	while (*function)
		hash = (hash ^ (unsigned char)*function++) * 16777619u;
	return hash % SOFTCUDA_TALLY_ROWS;
}

/*
 * Gives whether the row is the function's. A row that somebody is just claiming is waited for, but not for ever: who claims it may have been
 * killed, and the row then names nothing.
 */
static bool row_is(struct softcuda_tally_row *row, const char *function)
{
	enum { FREE, CLAIMED, NAMED };
	uint32_t state = FREE;

	if (atomic_compare_exchange_strong(&row->state, &state, CLAIMED)) {
		snprintf(row->function, sizeof(row->function), "%s", function);
		atomic_store(&row->state, NAMED);
		return true;
	}
	for (int tries = 0; atomic_load(&row->state) != NAMED; tries++) {
		if (tries == MOST_YIELDS)
			return false;
		sched_yield();
	}
	return !strcmp(row->function, function);
}

void sc_tally_call(const char *function)
{
	pthread_once(&once, open_tally);
	if (!tally)
		return;
	for (unsigned i = 0, place = place_of(function); i < SOFTCUDA_TALLY_ROWS; i++) {
		struct softcuda_tally_row *row = &tally->rows[(place + i) % SOFTCUDA_TALLY_ROWS];
		if (!row_is(row, function))
			continue;
		atomic_fetch_add(&row->calls, 1);
		return;
	}
}

void sc_tally_memory(int64_t bytes)
{
	uint64_t now, peak;

	if (!tally)
		return;
	now = atomic_fetch_add(&tally->physical_bytes, (uint64_t)bytes) + (uint64_t)bytes;
	peak = atomic_load(&tally->peak_physical_bytes);
	while (now > peak && !atomic_compare_exchange_weak(&tally->peak_physical_bytes, &peak, now))
		continue;
}
