/*
 * driver/softcuda/grid.c: the blocks of a grid, on the stream's own thread and on helpers.
 *
 * The stream's thread begins at once. A grid is published for helpers to join when what is left of it, by the time that its
 * blocks took so far, is worth it: handing over a block costs more than running most small ones. Blocks are claimed one by
 * one from a counter. Threads that wait for each other poll for a while, as sleeping and waking takes longer than most grids.
 */
#include "grid.h"

#include "fault.h"
#include "memory.h"

#include <stdio.h>
#include <stdlib.h>

#define HAND_OVER_NS 15000 /* a wake-up costs about 5 us: below three of those help comes too late to pay */
#define AWAKE_NS 4000      /* the same where a helper is polling */
#define HELPER_SPIN_NS 50000
#define LEAVE_SPIN_NS 20000

static pthread_mutex_t pool_lock = PTHREAD_MUTEX_INITIALIZER;
static pthread_cond_t grid_came = PTHREAD_COND_INITIALIZER;
static pthread_cond_t helper_left = PTHREAD_COND_INITIALIZER;
static struct sc_grid *published; /* grids that helpers may join */
static unsigned helper_count, helpers_asleep;
static atomic_uint helpers_awake; /* polling, for a grid */
static atomic_uint publications;  /* counts, for helpers that look before they sleep */

/* ---- one block ---- */

static struct simt_dim3 block_index(const struct sc_grid *grid, uint64_t block)
{
	const struct simt_dim3 *size = &grid->launch.grid;

	return (struct simt_dim3){(unsigned)(block % size->x), (unsigned)(block / size->x % size->y),
		(unsigned)(block / size->x / size->y)};
}

/* Only the first failure of a grid is reported, not its consequences in other blocks. */
static void block_fail(struct sc_grid *grid, struct simt_dim3 at, CUresult error, const char *message)
{
	if (atomic_exchange(&grid->failed, true))
		return;
	fprintf(stderr, "softcuda: kernel %s, block (%u,%u,%u) in stream %llu: %s\n", grid->launch.kernel->name, at.x,
		at.y, at.z, (unsigned long long)grid->stream_id, message);
	sc_context_lose(grid->context, error);
}

static CUresult error_of(enum simt_outcome outcome)
{
	switch (outcome) {
	case SIMT_SHARED_OVERRUN:
		return CUDA_ERROR_ILLEGAL_ADDRESS;
	case SIMT_TRAP:
		return CUDA_ERROR_ASSERT;
	case SIMT_NO_MEMORY:
		return CUDA_ERROR_LAUNCH_OUT_OF_RESOURCES;
	default:
		return CUDA_ERROR_LAUNCH_FAILED;
	}
}

static void guard_fail(struct sc_grid *grid, struct simt_dim3 at, const struct sc_guard *guard)
{
	char message[320], what[200];

	if (guard->reason == SC_TIMEOUT) {
		snprintf(message, sizeof(message), "ended after %llu s (SOFTCUDA_TIMEOUT)",
			(unsigned long long)(sc_settings.timeout_ns / 1000000000u));
		block_fail(grid, at, CUDA_ERROR_LAUNCH_TIMEOUT, message);
	} else if (guard->reason == SC_FAULT) {
		if (guard->what)
			snprintf(what, sizeof(what), "%s", guard->what);
		else
			sc_address_explain(guard->address, grid->unmap_serial, what, sizeof(what));
		snprintf(message, sizeof(message), "illegal access at %#zx: %s", (size_t)guard->address, what);
		block_fail(grid, at, CUDA_ERROR_ILLEGAL_ADDRESS, message);
	}
}

static enum simt_outcome body_run(struct sc_grid *grid, struct simt_dim3 at, char *message, size_t message_bytes)
{
	if (!grid->native)
		return grid->image->simt->run_block(&grid->launch, at, message, message_bytes);
	grid->native->run_block(&grid->launch, at);
	return SIMT_DONE;
}

static void block_run(struct sc_grid *grid, uint64_t block)
{
	struct sc_guard guard = {.explain = grid->image->simt->explain_address};
	const struct simt_dim3 at = block_index(grid, block);
	enum simt_outcome outcome;
	char message[256];

	if (sigsetjmp(guard.back, 0) == 0) {
		sc_guard_set(&guard);
		outcome = body_run(grid, at, message, sizeof(message));
		sc_guard_clear();
		if (outcome != SIMT_DONE)
			block_fail(grid, at, error_of(outcome), message);
		return;
	}
	if (!grid->native)
		grid->image->simt->abandon_block();
	guard_fail(grid, at, &guard);
}

/* ---- helpers ---- */

static bool has_blocks(struct sc_grid *grid)
{
	return atomic_load(&grid->next) < grid->blocks && !atomic_load(&grid->failed);
}

static void blocks_run(struct sc_grid *grid)
{
	uint64_t block;

	while (has_blocks(grid) && (block = atomic_fetch_add(&grid->next, 1)) < grid->blocks)
		block_run(grid, block);
}

static struct sc_grid *grid_wanting_help(void)
{
	struct sc_grid *grid = published;

	while (grid && (!has_blocks(grid) || atomic_load(&grid->helpers) + 1 >= sc_settings.workers))
		grid = grid->next_published;
	return grid;
}

/* Polls, then sleeps; with the lock held, but while it polls. A grid that comes in between is on the list already. */
static void helper_wait(unsigned seen)
{
	uint64_t start = sc_now_ns();

	atomic_fetch_add(&helpers_awake, 1);
	pthread_mutex_unlock(&pool_lock);
	while (atomic_load(&publications) == seen && sc_now_ns() - start < HELPER_SPIN_NS)
		sc_spin_pause();
	pthread_mutex_lock(&pool_lock);
	atomic_fetch_sub(&helpers_awake, 1);
	if (atomic_load(&publications) != seen || grid_wanting_help())
		return;
	helpers_asleep++;
	pthread_cond_wait(&grid_came, &pool_lock);
	helpers_asleep--;
}

static void *helper_main(void *nothing)
{
	(void)nothing;
	sc_worker_begin();
	pthread_mutex_lock(&pool_lock);
	for (;;) {
		unsigned seen = atomic_load(&publications);
		struct sc_grid *grid = grid_wanting_help();

		if (!grid) {
			helper_wait(seen);
			continue;
		}
		atomic_fetch_add(&grid->helpers, 1);
		pthread_mutex_unlock(&pool_lock);
		sc_image_enter(grid->image);
		blocks_run(grid);
		pthread_mutex_lock(&pool_lock);
		atomic_fetch_sub(&grid->helpers, 1);
		pthread_cond_broadcast(&helper_left);
	}
	return NULL;
}

/* Fewer helpers than asked for is no failure: the blocks run all the same. */
static void helpers_start(unsigned wanted)
{
	while (helper_count < wanted && !sc_thread_start(NULL, helper_main, NULL))
		helper_count++;
}

/* Who polls is told last, when the lock is free. */
static void grid_publish(struct sc_grid *grid)
{
	pthread_mutex_lock(&pool_lock);
	helpers_start(sc_settings.workers - 1);
	grid->next_published = published;
	published = grid;
	if (helpers_asleep)
		pthread_cond_broadcast(&grid_came);
	pthread_mutex_unlock(&pool_lock);
	atomic_fetch_add(&publications, 1);
}

/* The grid is the caller's memory: nobody may look at it any more. */
static void grid_withdraw(struct sc_grid *grid)
{
	struct sc_grid **link;
	uint64_t start;

	pthread_mutex_lock(&pool_lock);
	for (link = &published; *link != grid; link = &(*link)->next_published)
		;
	*link = grid->next_published;
	pthread_mutex_unlock(&pool_lock);
	start = sc_now_ns();
	while (atomic_load(&grid->helpers) && sc_now_ns() - start < LEAVE_SPIN_NS)
		sc_spin_pause();
	if (!atomic_load(&grid->helpers))
		return;
	pthread_mutex_lock(&pool_lock);
	while (atomic_load(&grid->helpers))
		pthread_cond_wait(&helper_left, &pool_lock);
	pthread_mutex_unlock(&pool_lock);
}

/* Whether helpers would come in time, `done` blocks having taken `spent_ns`. */
static bool is_worth_help(struct sc_grid *grid, uint64_t done, uint64_t spent_ns)
{
	uint64_t left = grid->blocks - done, enough = atomic_load(&helpers_awake) ? AWAKE_NS : HAND_OVER_NS;

	return has_blocks(grid) && left * spent_ns > enough * done;
}

static void grid_run_published(struct sc_grid *grid)
{
	grid_publish(grid);
	blocks_run(grid);
	grid_withdraw(grid);
}

/* Where the first block of a kernel went, by the kernel's address: what it took. Two of one place spoil each other's guess alone. */
static atomic_uint_fast64_t *first_block_ns(const struct sc_grid *grid)
{
	static atomic_uint_fast64_t ns[64];

	return &ns[(uintptr_t)grid->launch.kernel / sizeof(*grid->launch.kernel) % 64];
}

/* A kernel that runs often is known: helpers are called at once. Another's first blocks tell. */
static void grid_run_shared(struct sc_grid *grid)
{
	uint64_t start = sc_now_ns(), block, done = 0;
	bool is_published = sc_settings.workers == 1;

	if (!is_published && atomic_load(&helpers_awake) && is_worth_help(grid, 1, atomic_load(first_block_ns(grid)))) {
		grid_run_published(grid);
		return;
	}
	while (has_blocks(grid) && (block = atomic_fetch_add(&grid->next, 1)) < grid->blocks) {
		block_run(grid, block);
		if (!done++)
			atomic_store(first_block_ns(grid), sc_now_ns() - start);
		if (!is_published && is_worth_help(grid, done, sc_now_ns() - start)) {
			is_published = true;
			grid_run_published(grid);
		}
	}
}

/* ---- cooperative grids: all blocks are there at once, so that each can wait for all ---- */

struct barrier {
	struct sc_grid *grid;
	pthread_mutex_t lock;
	pthread_cond_t changed;
	uint64_t waiting, ended, generation;
};

struct member {
	struct barrier *barrier;
	uint64_t block;
	pthread_t thread;
};

static void barrier_wait(void *argument)
{
	struct barrier *barrier = argument;
	struct sc_grid *grid = barrier->grid;
	uint64_t generation;

	sc_guard_pause();
	pthread_mutex_lock(&barrier->lock);
	generation = barrier->generation;
	if (++barrier->waiting == grid->blocks) {
		barrier->waiting = 0;
		barrier->generation++;
		pthread_cond_broadcast(&barrier->changed);
	}
	while (barrier->generation == generation && !atomic_load(&grid->failed) && !barrier->ended)
		pthread_cond_wait(&barrier->changed, &barrier->lock);
	generation = barrier->generation - generation;
	pthread_mutex_unlock(&barrier->lock);
	sc_guard_resume();
	if (!generation)
		sc_guard_leave(SC_ABANDONED);
}

static void *member_main(void *argument)
{
	struct member *member = argument;
	struct barrier *barrier = member->barrier;
	struct sc_grid *grid = barrier->grid;

	sc_worker_begin();
	sc_image_enter(grid->image);
	block_run(grid, member->block);
	pthread_mutex_lock(&barrier->lock);
	barrier->ended++;
	if (barrier->waiting)
		block_fail(grid, block_index(grid, member->block), CUDA_ERROR_LAUNCH_FAILED,
			"ended while other blocks of the cooperative grid wait for it at a grid barrier");
	pthread_cond_broadcast(&barrier->changed);
	pthread_mutex_unlock(&barrier->lock);
	sc_images_leave(false);
	sc_worker_end();
	return NULL;
}

static void grid_run_together(struct sc_grid *grid)
{
	struct barrier barrier = {.grid = grid, .lock = PTHREAD_MUTEX_INITIALIZER, .changed = PTHREAD_COND_INITIALIZER};
	struct member *members = calloc(grid->blocks, sizeof(*members));
	uint64_t started = 0;

	grid->launch.grid_barrier = &barrier;
	grid->launch.grid_wait = barrier_wait;
	for (; members && started < grid->blocks; started++) {
		members[started] = (struct member){.barrier = &barrier, .block = started};
		if (sc_thread_start(&members[started].thread, member_main, &members[started]))
			break;
	}
	if (started < grid->blocks) {
		pthread_mutex_lock(&barrier.lock);
		block_fail(grid, block_index(grid, started), CUDA_ERROR_LAUNCH_OUT_OF_RESOURCES,
			"no thread for this block of a cooperative grid");
		pthread_cond_broadcast(&barrier.changed);
		pthread_mutex_unlock(&barrier.lock);
	}
	while (started--)
		pthread_join(members[started].thread, NULL);
	free(members);
}

void sc_grid_run(struct sc_grid *grid)
{
	atomic_store(&grid->next, 0);
	atomic_store(&grid->failed, false);
	grid->helpers = 0;
	sc_image_enter(grid->image);
	if (grid->cooperative)
		grid_run_together(grid);
	else
		grid_run_shared(grid);
}
