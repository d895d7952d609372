/*
 * driver/softcuda/softcuda.h: what softcuda offers besides the driver API, for tests and tools.
 *
 * softcuda is a libcuda.so.1 on host memory. A test reaches these functions by dlsym on kvs_cu.library, or links nothing
 * and sets the environment instead. docs/softcuda.md is the manual.
 *
 * Environment, read at cuInit:
 *   SOFTCUDA_MEMORY=BYTES        device memory; suffixes K, M, G (default: half of the host's memory)
 *   SOFTCUDA_GRANULARITY=BYTES   minimum and recommended granularity, a power of two >= 4K (default 2M)
 *   SOFTCUDA_FAIL=NAME:N:ERROR   fail the Nth call (from 1) of driver function NAME ("*": of any) with CUresult ERROR
 *   SOFTCUDA_STRICT=0|1|2        what is reported and not an API error (an unmap under a pending launch that was handed
 *                                the address): 0 counted, 1 also one line on stderr (default), 2 also abort()
 *   SOFTCUDA_TIMEOUT=SECONDS     a block that runs longer is ended with CUDA_ERROR_LAUNCH_TIMEOUT (default 60)
 *   SOFTCUDA_LATE_COPIES=0|1     1: a synchronous copy from pageable memory returns before its last bytes have arrived, as
 *                                CUDA allows; they come when the default stream is waited for (default 0; 1 in our tests)
 *   SOFTCUDA_TALLY=FILE          count calls by function, and memory, in this file too (struct softcuda_tally), for all
 *                                processes that have it; read at the first call
 *   SOFTCUDA_WORKERS=N           threads that run blocks (default: one for each core)
 *   KVS_SIMT_SCHEDULE=forward|reverse|random:SEED   order in which the threads of a block run (driver/simt)
 */
#ifndef KVS_SOFTCUDA_H
#define KVS_SOFTCUDA_H

#include <cuda.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/* Live objects. If all are zero, except `contexts` while the primary context is retained, nothing leaked. */
struct softcuda_counters {
	size_t reservations, handles, mappings; /* VMM: address ranges, cuMemCreate allocations alive, mapped ranges */
	size_t allocations;                     /* cuMemAlloc and its async and pool forms */
	size_t host_allocations;                /* cuMemAllocHost, cuMemHostAlloc */
	size_t streams, events, modules, contexts;
	size_t physical_bytes; /* device memory that is allocated now */
	size_t hazards;        /* unmaps or frees of memory that a pending launch was handed, since the last reset */
	size_t faults;         /* accesses that ended in a sticky error, since the last reset */
	size_t calls;          /* driver calls since the last reset */
	size_t graphs;         /* with executable ones, and with child graphs */
};

typedef void softcuda_get_counters_fn(struct softcuda_counters *out);

/*
 * From now on let the `nth` call (from 1) of driver function `name` fail with `error`; NULL or "*" counts every call of
 * any function. nth 0 turns it off. softcuda_failed() tells whether the failure has been delivered. Names are base
 * names ("cuMemCreate"), whatever version was called. Calls that cannot fail (cuGetErrorName, cuGetErrorString) and
 * releases on the way out of a failure are counted like all others.
 */
typedef void softcuda_fail_nth_fn(const char *name, size_t nth, CUresult error);
typedef bool softcuda_failed_fn(void);

/*
 * Forget everything: ends a lost context, frees what is alive, reads the environment again. For tests that go on after a
 * sticky error. No other thread may be in a driver call.
 */
typedef void softcuda_reset_fn(void);

/* Attributes of launches that allowed them to start before the work ahead of them has ended, since the start. */
typedef size_t softcuda_early_launches_fn(void);

/* The setting that the last cuInit or softcuda_reset() could not read, as a line of text; "": none. */
typedef const char *softcuda_problem_fn(void);

/*
 * From now on `callback` is told of each kernel, and each host function ("a host function"), that has run, on the thread that ran it, in the order of its stream. NULL ends it:
 * no callback runs, or will, when that returns. One at a time for the whole process. It must not call the driver.
 */
typedef void softcuda_kernel_callback(void *arg, const char *name, CUstream stream, uint64_t start_ns, uint64_t end_ns);
typedef void softcuda_on_kernel_fn(softcuda_kernel_callback *callback, void *arg);

/* What SOFTCUDA_TALLY=FILE holds: what all its processes together did, those that were killed included. */
#define SOFTCUDA_TALLY_ROWS 256
struct softcuda_tally_row {
	_Atomic uint64_t calls;
	_Atomic uint32_t state; /* of the name: 2: it is there */
	char function[52];      /* as it is exported: "cuMemAlloc_v2" */
};
struct softcuda_tally {
	_Atomic uint64_t physical_bytes; /* device memory; of a process that ended with some, that stays in it */
	_Atomic uint64_t peak_physical_bytes;
	struct softcuda_tally_row rows[SOFTCUDA_TALLY_ROWS];
};

#define SOFTCUDA_GET_COUNTERS "softcuda_get_counters"
#define SOFTCUDA_FAIL_NTH "softcuda_fail_nth"
#define SOFTCUDA_FAILED "softcuda_failed"
#define SOFTCUDA_RESET "softcuda_reset"
#define SOFTCUDA_PROBLEM "softcuda_problem"
#define SOFTCUDA_EARLY_LAUNCHES "softcuda_early_launches"
#define SOFTCUDA_ON_KERNEL "softcuda_on_kernel"

#endif
