/*
 * tests/probes/probe.h: what the probes share: a device, one table, checked driver calls, kernels, and cases that run in a
 * process of their own.
 *
 * A probe asks a driver one question and reports what it saw; it asserts nothing of the answer. It fails only where the
 * ground it stands on gives way: no kernels, no memory, a call that every driver must do. README.md lists the questions.
 *
 *   NAME_probe [--device D] [--json FILE] [--quick] [--limit SECONDS]
 *
 * The device is --device, else $KVS_TEST_DEVICE, else "cuda" (as kvs_cu_open() takes it). Exit status: 0 the table is
 * whole, 77 there is no such device, 124 the time ran out (the table holds what was seen by then), 1 anything else.
 */
#ifndef KVS_PROBE_H
#define KVS_PROBE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "../../driver/cu.h"

/* What a probe is; main() of each is `return probe_main(argc, argv, &probe);`. */
struct probe {
	const char *name, *question;
	const char *const *columns; /* of the table; ends in NULL */
	void (*run)(void);
	/* Runs the case `name` in a process of its own, where a context may be lost; NULL where there is none. */
	void (*run_case)(const char *name);
};
int probe_main(int argc, char **argv, const struct probe *probe);

/* The device, open for the whole program, and memory of it. */
extern kvs_cu *cu;
extern CUmemAllocationProp prop;
extern size_t granule; /* the minimum granularity for `prop` */
extern bool quick;     /* fewest repeats, small sizes: shows that the probe works, not what the device does */

/* Add a row: printf with the cells separated by tabs. A cell that is a number becomes one in the JSON. */
void probe_row(const char *format, ...) __attribute__((format(printf, 1, 2)));

/*
 * Run a case in a fresh start of this program (CUDA does not survive a fork, nor a context a fault). The rows that it adds
 * come into this table; where it dies or takes longer than some seconds, a row of its name and its end does.
 */
void probe_case(const char *name);

/* End the probe with a message unless the call succeeds. */
#define must(call) probe_check((call), #call, __FILE__, __LINE__)
void probe_check(CUresult result, const char *call, const char *file, int line);
void probe_fail(const char *format, ...) __attribute__((noreturn, format(printf, 1, 2)));
const char *error_name(CUresult result); /* "ok", "ILLEGAL_ADDRESS", ...: without the CUDA_ERROR_ that all share */

/* A function of the driver that kvs_cu has no member for, of the form that cuda.h declares; NULL where it has none. */
#define PROBE_TEXT_OF(x) #x
#define PROBE_TEXT(x) PROBE_TEXT_OF(x)
#define driver_function(name) ((__typeof__(name) *)probe_symbol(#name, PROBE_TEXT(name)))
void *probe_symbol(const char *base, const char *symbol);

/* Time. A probe that repeats something stops when little time is left. */
double now_us(void);
bool probe_time_is_short(void); /* half of the limit is gone */
void sleep_ms(unsigned ms);
double percentile(double *samples, size_t count, unsigned percent); /* sorts them */

/* Memory. All assert success. */
size_t free_memory(void);
CUmemGenericAllocationHandle handle_new(size_t bytes);
CUdeviceptr reservation_new(size_t bytes);
CUresult set_access(CUdeviceptr at, size_t bytes, CUmemAccess_flags flags);
const char *access_name(CUdeviceptr at); /* "none", "read", "read-write", or an error's name */
struct range {
	CUdeviceptr at;
	size_t bytes;
	CUmemGenericAllocationHandle handle;
};
struct range range_new(size_t bytes); /* a new handle, mapped read-write at an address of its own */
struct range range_alias(const struct range *of, CUmemAccess_flags access);
void range_unmap(const struct range *r);
void range_free(const struct range *r); /* the same, and releases the handle */
unsigned word_at(CUdeviceptr at);       /* by a copy, behind all work of the context */

/* Kernels of probe_kernels.cu. */
CUfunction probe_kernel(const char *name);
CUresult launch(CUfunction function, unsigned blocks, unsigned threads, CUstream stream, void **params);
CUresult launch_fill(CUstream stream, CUdeviceptr out, unsigned value, size_t words);

/* A kernel that runs until the host opens its gate, or gives up after some seconds; what it does there is its `touch`. */
enum gate_touch {
	GATE_TOUCH_NOTHING,
	GATE_TOUCH_AT_END,  /* adds one to *word once the gate is open */
	GATE_TOUCH_READING, /* reads *word all the time */
	GATE_TOUCH_WRITING  /* writes *word all the time */
};
struct gate {
	unsigned *words; /* pinned: started, open, outcome */
};
struct gate gate_new(void);
CUresult gate_launch(const struct gate *gate, CUstream stream, CUdeviceptr word, enum gate_touch touch);
void gate_await_start(const struct gate *gate);
void gate_open(const struct gate *gate);
void gate_free(struct gate *gate);

/* Open the gate by another thread in `ms` milliseconds, so that a call which waits for the kernel ends. */
struct gate_timer;
struct gate_timer *gate_open_later(const struct gate *gate, unsigned ms);
bool gate_timer_join(struct gate_timer *timer); /* waits for it and frees it; true: it could be called off in time */

#endif
