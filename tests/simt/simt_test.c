/*
 * What driver/simt must do, by run_block alone: the primitives in every thread order, and each mistake that it reports.
 * The module is loaded anew for each order, since it reads KVS_SIMT_SCHEDULE when it is loaded.
 */
#include "simt/module.h"

#include <stdarg.h>
#include <setjmp.h>
#include <cmocka.h>

#include <dlfcn.h>
#include <math.h>
#include <pthread.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#define THREADS(n) ((struct simt_dim3){n, 1, 1})

static const char *const SCHEDULES[] = {"forward", "reverse", "random:1", "random:20261123"};
#define SCHEDULE_COUNT (sizeof(SCHEDULES) / sizeof(*SCHEDULES))

static void *library;
static const struct simt_module *module;
static char message[512];

static void module_open(const char *schedule)
{
	char path[4096], resolved[4000];
	ssize_t length = readlink("/proc/self/exe", resolved, sizeof(resolved) - 1);

	assert_true(length > 0);
	resolved[length] = '\0';
	*strrchr(resolved, '/') = '\0';
	snprintf(path, sizeof(path), "%s/simt_kernels.so", resolved);
	if (schedule)
		setenv("KVS_SIMT_SCHEDULE", schedule, 1);
	else
		unsetenv("KVS_SIMT_SCHEDULE");
	library = dlopen(path, RTLD_NOW | RTLD_LOCAL);
	if (!library)
		fail_msg("%s", dlerror());
	module = dlsym(library, SIMT_MODULE_SYMBOL);
	assert_non_null(module);
	assert_int_equal(module->abi, SIMT_ABI);
}

static void module_close(void)
{
	module->thread_exit();
	dlclose(library);
}

static const struct simt_kernel *kernel(const char *name)
{
	for (size_t i = 0; i < module->kernel_count; i++) {
		if (!strcmp(module->kernels[i]->name, name))
			return module->kernels[i];
	}
	fail_msg("no kernel %s", name);
	return NULL;
}

static enum simt_outcome run(const char *name, struct simt_dim3 block, size_t dynamic_bytes, void **params)
{
	struct simt_launch launch = {kernel(name), {1, 1, 1}, block, dynamic_bytes, params, NULL, NULL};

	message[0] = '\0';
	return module->run_block(&launch, (struct simt_dim3){0, 0, 0}, message, sizeof(message));
}

static void runs(const char *name, struct simt_dim3 block, size_t dynamic_bytes, void **params)
{
	enum simt_outcome outcome = run(name, block, dynamic_bytes, params);

	if (outcome != SIMT_DONE)
		fail_msg("%s: outcome %d: %s", name, outcome, message);
}

static void assert_message_has(const char *part)
{
	if (!strstr(message, part))
		fail_msg("\"%s\" is not in \"%s\"", part, message);
}

/* Runs `check` with a module in each thread order. */
static void in_every_order(void (*check)(void))
{
	for (size_t i = 0; i < SCHEDULE_COUNT; i++) {
		module_open(SCHEDULES[i]);
		check();
		module_close();
	}
}

static void check_places(void)
{
	unsigned out[5 * 3 * 7], *at = out;
	void *params[] = {&at};
	struct simt_launch launch = {kernel("simt_places"), {4, 3, 1}, {5, 3, 7}, 0, params, NULL, NULL};

	assert_int_equal(module->run_block(&launch, (struct simt_dim3){2, 1, 0}, message, sizeof(message)), SIMT_DONE);
	for (unsigned i = 0; i < 5 * 3 * 7; i++)
		assert_int_equal(out[i], i % 5 | i / 5 % 3 << 8 | i / 15 << 16 | 6u << 24);
}

static void threads_know_their_place(void **state)
{
	(void)state;
	in_every_order(check_places);
}

static void parameters_lie_as_nvcc_lays_them(void **state)
{
	struct {
		char letter;
		double number;
	} b = {'b', 12};
	char a = 'a';
	short c = -3;
	long long out[4], *at = out;
	void *params[] = {&a, &b, &c, &at};
	static const struct simt_param want[] = {{0, 1}, {8, 16}, {24, 2}, {32, 8}};

	(void)state;
	module_open(NULL);
	assert_int_equal(kernel("simt_params")->param_count, 4);
	assert_memory_equal(kernel("simt_params")->params, want, sizeof(want));
	runs("simt_params", THREADS(1), 0, params);
	assert_int_equal(out[0], 'a');
	assert_int_equal(out[1], 'b');
	assert_int_equal(out[2], 12);
	assert_int_equal(out[3], -3);
	module_close();
}

static void check_rotate(void)
{
	int out[256], *at = out;
	void *params[] = {&at};

	for (int n = 1; n <= 256; n = n < 40 ? n + 1 : n * 2) {
		runs("simt_rotate", THREADS(n), n * sizeof(int), params);
		for (int t = 0; t < n; t++)
			assert_int_equal(out[t], t * 1000 + (t + 2) % n);
	}
}

static void barriers_order_shared_memory(void **state)
{
	(void)state;
	in_every_order(check_rotate);
}

static bool missing_barrier_shows(const char *schedule)
{
	int out[128], *at = out;
	void *params[] = {&at};
	bool shows = false;

	module_open(schedule);
	runs("simt_missing_barrier", THREADS(128), 0, params);
	for (int t = 0; t < 128; t++)
		shows |= out[t] != t - 1;
	module_close();
	return shows;
}

static void missing_barrier_shows_in_other_orders(void **state)
{
	(void)state;
	assert_false(missing_barrier_shows("forward"));
	assert_true(missing_barrier_shows("reverse"));
	assert_true(missing_barrier_shows("random:7"));
}

static void unwritten_shared_memory_is_nan(void **state)
{
	float out[2], *at = out;
	void *params[] = {&at};

	(void)state;
	module_open(NULL);
	for (int times = 0; times < 2; times++) {
		runs("simt_unwritten", THREADS(1), 16, params);
		assert_true(isnan(out[0]) && isnan(out[1]));
	}
	module_close();
}

static void static_arrays_are_counted_for_their_kernel(void **state)
{
	(void)state;
	module_open(NULL);
	/* what __device__ functions of the module declare counts for every kernel */
	size_t functions = kernel("simt_places")->static_shared_bytes;
	assert_int_equal(kernel("simt_rotate")->static_shared_bytes, functions + 256 * sizeof(int));
	assert_int_equal(kernel("simt_overrun")->static_shared_bytes, functions + 2 * 8 * sizeof(int));
	module_close();
}

static void check_shuffles(void)
{
	long long out[32][8], *at = &out[0][0];
	void *params[] = {&at};

	runs("simt_shuffles", THREADS(32), 0, params);
	for (int t = 0; t < 32; t++) {
		assert_int_equal(out[t][0], (t + 3) % 32);
		assert_int_equal(out[t][1], t / 8 * 8 + 5);
		assert_int_equal(out[t][2], t >= 3 ? t - 3 : t);
		assert_int_equal(out[t][3], t % 16 >= 3 ? t - 3 : t);
		assert_int_equal(out[t][4], t + 5 < 32 ? t + 5 : t);
		assert_int_equal(out[t][5], t % 8 + 5 < 8 ? t + 5 : t);
		assert_int_equal(out[t][6], t ^ 9);
		assert_int_equal(out[t][7], (t ^ 4) <= (t | 3) ? t ^ 4 : t);
	}
}

static void shuffles_move_values(void **state)
{
	(void)state;
	in_every_order(check_shuffles);
}

static void check_votes(void)
{
	unsigned out[32][8], *at = &out[0][0];
	void *params[] = {&at};

	runs("simt_votes", THREADS(32), 0, params);
	for (unsigned t = 0; t < 32; t++) {
		unsigned upper = t >= 16, want[8] = {0x49249249, upper ? 0xaaaa0000 : 0xaaaa, upper, upper, 8, 0, 1, 1};
		assert_memory_equal(out[t], want, sizeof(want));
	}
}

static void votes_are_counted(void **state)
{
	(void)state;
	in_every_order(check_votes);
}

struct totals {
	int sum;
	float sum_f;
	unsigned long long wide;
	int least, most;
	unsigned bits[4];
};

static void *run_atomics(void *argument)
{
	struct totals *totals = argument;
	int *sum = &totals->sum, *least = &totals->least, *most = &totals->most;
	float *sum_f = &totals->sum_f;
	unsigned long long *wide = &totals->wide;
	unsigned *bits = totals->bits;
	void *params[] = {&sum, &sum_f, &wide, &least, &most, &bits};
	struct simt_launch launch = {kernel("simt_atomics"), {100, 1, 1}, {64, 1, 1}, 0, params, NULL, NULL};
	char text[200];

	for (unsigned i = 0; i < 100; i++)
		assert_int_equal(
			module->run_block(&launch, (struct simt_dim3){i, 0, 0}, text, sizeof(text)), SIMT_DONE);
	module->thread_exit();
	return NULL;
}

static void atomics_hold_between_os_threads(void **state)
{
	struct totals totals = {.bits = {0, ~0u, 0, 0}};
	pthread_t threads[2];

	(void)state;
	module_open(NULL);
	for (int i = 0; i < 2; i++)
		assert_int_equal(pthread_create(&threads[i], NULL, run_atomics, &totals), 0);
	for (int i = 0; i < 2; i++)
		pthread_join(threads[i], NULL);
	assert_int_equal(totals.sum, 12800);
	assert_true(totals.sum_f == 6400);
	assert_true(totals.wide == 12800ull << 32);
	assert_int_equal(totals.least, -6399);
	assert_int_equal(totals.most, 6399);
	static const unsigned want[] = {~0u, 0, 1, 42};
	assert_memory_equal(totals.bits, want, sizeof(want));
	module_close();
}

static void check_poll(void)
{
	unsigned flag[2] = {0, 0}, *at = flag;
	void *params[] = {&at};

	runs("simt_poll", THREADS(100), 0, params);
	assert_int_equal(flag[1], 7);
}

static void polling_lets_others_run(void **state)
{
	(void)state;
	in_every_order(check_poll);
}

static void count_grid_wait(void *barrier)
{
	int *waits = barrier;
	++*waits;
}

static void grid_sync_waits_once_for_a_block(void **state)
{
	int out[2] = {0, 0}, waits = 0, *at = out;
	void *params[] = {&at};

	(void)state;
	module_open(NULL);
	struct simt_launch launch = {kernel("simt_grid"), {1, 1, 1}, {70, 1, 1}, 0, params, &waits, count_grid_wait};
	assert_int_equal(module->run_block(&launch, (struct simt_dim3){0, 0, 0}, message, sizeof(message)), SIMT_DONE);
	assert_int_equal(waits, 1);
	assert_int_equal(out[1], 70 * 70);
	launch.grid_wait = NULL;
	assert_int_equal(module->run_block(&launch, (struct simt_dim3){0, 0, 0}, message, sizeof(message)), SIMT_TRAP);
	assert_message_has("not cooperative");
	module_close();
}

/* After each report the OS thread's next block must run as if nothing had been. */
static void is_reported(const char *name, int threads, enum simt_outcome want, const char *const *parts)
{
	int out[256], *at = out, how = 0;
	void *params[] = {&at, &how};
	enum simt_outcome outcome = run(name, THREADS(threads), 0, params);

	if (outcome != want)
		fail_msg("%s: outcome %d, message \"%s\"", name, outcome, message);
	for (; *parts; parts++)
		assert_message_has(*parts);
	check_rotate();
	check_shuffles();
}

static void check_deadlocks(void)
{
	is_reported("simt_half_leave", 64, SIMT_BARRIER_DEADLOCK,
		(const char *[]){"simt_half_leave, block (0,0,0)", "32 wait at __syncthreads (",
			"simt_kernels.cu:", "32 have left", NULL});
	is_reported("simt_two_places", 64, SIMT_BARRIER_DEADLOCK,
		(const char *[]){"32 wait at", "__syncthreads_count (", "32 at __syncthreads", "0 have left", NULL});
	is_reported("simt_two_lines", 64, SIMT_BARRIER_DEADLOCK,
		(const char *[]){"32 wait at __syncthreads (", "32 at __syncthreads (", "0 have left", NULL});
	is_reported("simt_lane_left", 32, SIMT_BARRIER_DEADLOCK,
		(const char *[]){"31 wait at __shfl_xor_sync of lanes 0xffffffff", "1 have left", NULL});
	is_reported("simt_lane_left", 40, SIMT_BARRIER_DEADLOCK, (const char *[]){"39 wait at", NULL});
	is_reported("simt_wrong_mask", 32, SIMT_TRAP, (const char *[]){"lane 0", "0xfffffffe", NULL});
	is_reported("simt_trap", 32, SIMT_TRAP, (const char *[]){"__trap()", "thread (3,0,0)", NULL});
}

static void deadlocks_are_reported(void **state)
{
	(void)state;
	module_open(NULL);
	check_deadlocks();
	module_close();
	module_open("forward");
	is_reported("simt_trap", 32, SIMT_TRAP, (const char *[]){"thread (3,0,0)", NULL});
	module_close();
}

static void assertions_are_reported(void **state)
{
	int out[32], *at = out, how = 1;
	void *params[] = {&at, &how};

	(void)state;
	module_open(NULL);
	assert_int_equal(run("simt_trap", THREADS(32), 0, params), SIMT_TRAP);
	assert_message_has("threadIdx.x != 5");
	assert_message_has("simt_kernels.cu");
	module_close();
}

static enum simt_outcome overrun(int index, int dynamic_index, size_t dynamic_bytes)
{
	void *params[] = {&index, &dynamic_index};

	return run("simt_overrun", THREADS(1), dynamic_bytes, params);
}

static void overruns_are_reported(void **state)
{
	(void)state;
	module_open(NULL);
	assert_int_equal(overrun(7, 4, 20), SIMT_DONE);
	assert_int_equal(overrun(8, 0, 20), SIMT_SHARED_OVERRUN);
	assert_message_has("second was written past its end");
	assert_int_equal(overrun(-1, 0, 20), SIMT_SHARED_OVERRUN);
	assert_message_has("second was written before its start");
	assert_int_equal(overrun(0, 5, 20), SIMT_SHARED_OVERRUN);
	assert_message_has("dynamic shared memory was written past its end");
	assert_int_equal(overrun(0, -1, 20), SIMT_SHARED_OVERRUN);
	assert_message_has("dynamic shared memory was written before its start");
	assert_int_equal(overrun(0, 0, 20), SIMT_DONE);
	module_close();
}

/*
 * Faults leave a kernel as softcuda makes them: siglongjmp out of a handler on a stack of its own, then abandon_block.
 */
static sigjmp_buf left_by_signal;
static const char *explanation;

static void on_signal(int signal, siginfo_t *info, void *context)
{
	(void)context;
	explanation = signal == SIGSEGV ? module->explain_address(info->si_addr) : "watchdog";
	siglongjmp(left_by_signal, 1);
}

static bool ends_by_signal(const char *name, int threads, size_t dynamic_bytes, void **params)
{
	static char stack[64 << 10];
	stack_t alternate = {.ss_sp = stack, .ss_size = sizeof(stack)}, old_stack;
	struct sigaction action = {.sa_sigaction = on_signal, .sa_flags = SA_SIGINFO | SA_ONSTACK}, old[2];
	volatile bool ended = false;

	sigaltstack(&alternate, &old_stack);
	sigaction(SIGSEGV, &action, &old[0]);
	sigaction(SIGALRM, &action, &old[1]);
	explanation = NULL;
	if (sigsetjmp(left_by_signal, 1) == 0) {
		run(name, THREADS(threads), dynamic_bytes, params);
	} else {
		ended = true;
		module->abandon_block();
	}
	sigaction(SIGSEGV, &old[0], NULL);
	sigaction(SIGALRM, &old[1], NULL);
	sigaltstack(&old_stack, NULL);
	return ended;
}

static void wild_accesses_hit_guards(void **state)
{
	int out[2], *at = out, zero = 0, behind = 16;
	void *overflow[] = {&at}, *overrun_params[] = {&zero, &behind};

	(void)state;
	/* ThreadSanitizer keeps its jump buffers by fiber, and ends a program that jumps from one fiber to another. */
#ifdef __SANITIZE_THREAD__
	skip();
#endif
	module_open(NULL);
	for (int times = 0; times < 3; times++) {
		assert_true(ends_by_signal("simt_overrun", 32, 64, overrun_params));
		assert_string_equal(explanation, "shared memory guard");
		check_rotate();
		assert_true(ends_by_signal("simt_stack_overflow", 1, 0, overflow));
		assert_non_null(strstr(explanation, "stack guard"));
		check_shuffles();
	}
	module_close();
}

static void spinning_kernel_can_be_abandoned(void **state)
{
	int forever = 1, *at = &forever;
	void *params[] = {&at};

	(void)state;
	/* ThreadSanitizer keeps its jump buffers by fiber, and ends a program that jumps from one fiber to another. */
#ifdef __SANITIZE_THREAD__
	skip();
#endif
	module_open(NULL);
	for (int times = 0; times < 3; times++) {
		ualarm(20000, 0);
		assert_true(ends_by_signal("simt_spin", 64, 0, params));
		assert_string_equal(explanation, "watchdog");
		check_rotate();
		check_shuffles();
	}
	module_close();
}

static void check_async(void)
{
	int in[256] __attribute__((aligned(16))), out[64], *from = in, *to = out, pending;
	void *params[] = {&from, &to, &pending};

	for (int i = 0; i < 256; i++)
		in[i] = i;
	for (pending = 0; pending <= 2; pending++) {
		runs("simt_async", THREADS(32), 0, params);
		for (int t = 0; t < 32; t++) {
			assert_int_equal(out[t], pending <= 1 ? t * 4 + 1 : -1);
			assert_int_equal(out[32 + t], pending == 0 ? (t % 2 ? 0 : (32 + t) * 4 + 1) : -1);
		}
	}
}

static void async_copies_are_seen_only_after_the_wait(void **state)
{
	(void)state;
	in_every_order(check_async);
}

/* Nothing of a block is left for the next one. */
static void check_async_left(void)
{
	int in[128] __attribute__((aligned(16))), out[32], *from = in, *to = out, copies = 1;
	void *params[] = {&from, &to, &copies};

	for (int i = 0; i < 128; i++)
		in[i] = i;
	runs("simt_async_left", THREADS(32), 0, params);
	copies = 0;
	runs("simt_async_left", THREADS(32), 0, params);
	for (int t = 0; t < 32; t++)
		assert_int_equal(out[t], -2);
}

static void async_copies_end_with_their_block(void **state)
{
	(void)state;
	in_every_order(check_async_left);
}

static void order_of(unsigned block, int *order)
{
	int count = 0, *at_count = &count;
	void *params[] = {&at_count, &order};
	struct simt_launch launch = {kernel("simt_order"), {4, 1, 1}, THREADS(256), 0, params, NULL, NULL};

	assert_int_equal(
		module->run_block(&launch, (struct simt_dim3){block, 0, 0}, message, sizeof(message)), SIMT_DONE);
	assert_int_equal(count, 256);
}

/* A random order depends only on its seed and its block, so a failure can be repeated. */
static void a_random_order_repeats(void **state)
{
	int first[256], other[256], again[256];

	(void)state;
	module_open("random:1");
	order_of(2, first);
	order_of(3, other);
	order_of(2, again);
	assert_memory_equal(first, again, sizeof(first));
	assert_memory_not_equal(first, other, sizeof(first));
	module_close();
}

static void check_multiply(const char *name, int b_rows)
{
	float a[16][16], b[16][8], d[16][8], want[16][8], *a_at = a[0], *b_at = b[0], *d_at = d[0];
	void *params[] = {&a_at, &b_at, &d_at, &b_rows};

	for (int i = 0; i < 256; i++)
		a[i / 16][i % 16] = rand() % 17 - 8;
	for (int i = 0; i < 128; i++) {
		b[i / 8][i % 8] = rand() % 17 - 8;
		want[i / 8][i % 8] = d[i / 8][i % 8] = rand() % 1000;
	}
	for (int row = 0; row < 16; row++) {
		for (int column = 0; column < 8; column++) {
			for (int k = 0; k < 16; k++)
				want[row][column] += a[row][k] * b[k][column];
		}
	}
	runs(name, THREADS(32), 0, params);
	assert_memory_equal(d, want, sizeof(want));
}

static void check_multiplies(void)
{
	for (int times = 0; times < 20; times++) {
		check_multiply("simt_multiply_f16", times % 2);
		check_multiply("simt_multiply_bf16", times % 2);
	}
}

static void tiles_multiply_as_matrices(void **state)
{
	const char *seed = getenv("KVS_TEST_SEED");

	(void)state;
	printf("KVS_TEST_SEED=%d\n", seed ? atoi(seed) : 1);
	srand(seed ? atoi(seed) : 1);
	in_every_order(check_multiplies);
}

/* By the definition of IEEE 754 binary16. */
static float half_value(unsigned bits)
{
	int exponent = bits >> 10 & 31;
	float magnitude = exponent == 31 ? (bits & 1023 ? NAN : INFINITY)
			  : exponent     ? ldexpf(1024 + (bits & 1023), exponent - 25)
					 : ldexpf(bits & 1023, -24);

	return bits & 0x8000 ? -magnitude : magnitude;
}

static void every_half_has_its_value(void **state)
{
	unsigned short bits[16], *from = bits;
	float out[16], *to = out;
	void *params[] = {&from, &to};

	(void)state;
	module_open(NULL);
	for (unsigned first = 0; first < 0x10000; first += 16) {
		for (unsigned i = 0; i < 16; i++)
			bits[i] = first + i;
		runs("simt_half_values", THREADS(32), 0, params);
		for (unsigned i = 0; i < 16; i++) {
			float want = half_value(bits[i]);
			assert_true(out[i] == want || (isnan(out[i]) && isnan(want)));
		}
	}
	module_close();
}

static void toolkit_formats_convert(void **state)
{
	float x = 1.0f + 0x1p-9f, out[6], *at = out;
	void *params[] = {&x, &at};

	(void)state;
	module_open(NULL);
	runs("simt_formats", THREADS(1), 0, params);
	assert_true(out[0] == x);
	assert_true(out[1] == 1.0f);
	assert_true(out[2] == 1.0f);
	assert_true(out[3] == 0.5f + 1.0f + 1 + 1.5f);
	assert_true(out[4] == x + 3 + 31 + 4);
	assert_true(out[5] == 1.0f);
	module_close();
}

static void bad_schedule_is_refused(void **state)
{
	static const char *const bad[] = {"", "backward", "random", "random:", "random:x", "random:1x", "reverse "};
	int out[32], *at = out;
	void *params[] = {&at};

	(void)state;
	for (size_t i = 0; i < sizeof(bad) / sizeof(*bad); i++) {
		module_open(bad[i]);
		assert_int_equal(run("simt_rotate", THREADS(32), 128, params), SIMT_TRAP);
		assert_message_has("KVS_SIMT_SCHEDULE=");
		assert_message_has(bad[i]);
		module_close();
	}
}

static void module_leaves_nothing_behind(void **state)
{
	(void)state;
	module_open(NULL);
	check_rotate();
	module_close();
	assert_null(dlopen("simt_kernels.so", RTLD_NOW | RTLD_NOLOAD));
	module_open("reverse"); /* a module that had stayed loaded would not read this */
	module_close();
	assert_true(missing_barrier_shows("reverse"));
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(threads_know_their_place),
		cmocka_unit_test(parameters_lie_as_nvcc_lays_them),
		cmocka_unit_test(barriers_order_shared_memory),
		cmocka_unit_test(missing_barrier_shows_in_other_orders),
		cmocka_unit_test(unwritten_shared_memory_is_nan),
		cmocka_unit_test(static_arrays_are_counted_for_their_kernel),
		cmocka_unit_test(shuffles_move_values),
		cmocka_unit_test(votes_are_counted),
		cmocka_unit_test(atomics_hold_between_os_threads),
		cmocka_unit_test(polling_lets_others_run),
		cmocka_unit_test(grid_sync_waits_once_for_a_block),
		cmocka_unit_test(deadlocks_are_reported),
		cmocka_unit_test(assertions_are_reported),
		cmocka_unit_test(overruns_are_reported),
		cmocka_unit_test(wild_accesses_hit_guards),
		cmocka_unit_test(spinning_kernel_can_be_abandoned),
		cmocka_unit_test(async_copies_are_seen_only_after_the_wait),
		cmocka_unit_test(async_copies_end_with_their_block),
		cmocka_unit_test(a_random_order_repeats),
		cmocka_unit_test(tiles_multiply_as_matrices),
		cmocka_unit_test(every_half_has_its_value),
		cmocka_unit_test(toolkit_formats_convert),
		cmocka_unit_test(bad_schedule_is_refused),
		cmocka_unit_test(module_leaves_nothing_behind),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
