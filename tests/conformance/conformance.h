/*
 * tests/conformance/conformance.h: what the conformance programs share: the device under test, checked driver calls,
 * mapped ranges, kernels to launch, and a way to run a test in a process of its own.
 *
 * The tests are written from NVIDIA's documentation and know the device only through driver/cu.h, so the same binaries
 * judge softcuda and a real driver. README.md beside this file lists each rule, its place in the documentation and its
 * test.
 *
 *   KVS_TEST_DEVICE   the device, as kvs_cu_open() takes it (default "host")
 *   KVS_TEST_KERNELS  the module of kernels (default: conformance_kernels.so or .fatbin beside the program)
 */
#ifndef KVS_CONFORMANCE_H
#define KVS_CONFORMANCE_H

#include <setjmp.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "../../driver/cu.h"
#include "../../driver/softcuda/softcuda.h"

/* The device under test; opened for the whole program. */
extern kvs_cu *cu;
extern CUmemAllocationProp prop; /* pinned memory of that device */
extern size_t granule;           /* the minimum granularity for `prop` */
extern size_t page;              /* the host's */

/*
 * A driver call that must succeed, that must fail with `error`, or that must be refused: fail with an error of its own
 * (the documentation seldom says which) that does not harm the context.
 */
#define must(call) check_result((call), CUDA_SUCCESS, #call, __FILE__, __LINE__)
#define must_be(error, call) check_result((call), (error), #call, __FILE__, __LINE__)
#define must_refuse(call) check_refused((call), #call, __FILE__, __LINE__)
void check_result(CUresult result, CUresult expected, const char *call, const char *file, int line);
void check_refused(CUresult result, const char *call, const char *file, int line);
const char *error_name(CUresult result);

/* Tell what a driver does where the documentation is silent. Nothing is asserted by it. */
void record(const char *what, CUresult result);

/*
 * The documentation forbids it, a real driver was seen to let it pass, and softcuda refuses it: asserted on softcuda,
 * recorded elsewhere. True: it was done, so the caller undoes it.
 */
#define passes_or_refused(what, call) check_stricter((what), (call), #call, __FILE__, __LINE__)
bool check_stricter(const char *what, CUresult result, const char *call, const char *file, int line);

/* A function of the driver that kvs_cu has no member for, in the form that cuda.h declares. */
#define driver_function(name) ((__typeof__(name) *)driver_symbol(CONFORMANCE_TEXT(name)))
#define CONFORMANCE_TEXT(name) #name
void *driver_symbol(const char *name);

/* softcuda's counters; all zero on a real driver. */
struct softcuda_counters softcuda_counters_now(void);

/* Memory, or an address range. Those that end in _new assert success. */
CUmemGenericAllocationHandle handle_new(size_t bytes);
CUdeviceptr reservation_new(size_t bytes);
void map(CUdeviceptr at, size_t bytes, CUmemGenericAllocationHandle handle);
CUresult set_access(CUdeviceptr at, size_t bytes, CUmemAccess_flags flags);
CUmemAccess_flags access_of(CUdeviceptr at);
size_t free_memory(void);

/* One handle, mapped as a whole at a reservation of its own. */
struct range {
	CUdeviceptr at;
	size_t bytes;
	CUmemGenericAllocationHandle handle; /* held by range_new(), not by range_alias() */
};
struct range range_new(size_t granules, CUmemAccess_flags access);
struct range range_alias(const struct range *of, CUmemAccess_flags access); /* the same memory at another address */
void range_unmap(const struct range *r); /* synchronises first; gives back the address too */
void range_free(const struct range *r);  /* range_unmap() and release the handle */

/* Kernels of conformance_kernels.cu, on `stream`, over 32-bit words of device memory. */
void launch_fill(CUstream stream, CUdeviceptr out, unsigned value, size_t count);
void launch_add(CUstream stream, CUdeviceptr out, CUdeviceptr in, unsigned addend, size_t count);

/* The module of these kernels, loaded; the file that it comes from. */
void conformance_image_path(char *path, size_t bytes);
CUmodule conformance_module(void);
CUfunction conformance_kernel(const char *name);

/* Every one of the `bytes / 4` words at `at`, read by a copy behind all work of the context, is `value`. */
void assert_words(CUdeviceptr at, size_t bytes, unsigned value);
unsigned word_at(CUdeviceptr at);

/*
 * A kernel that waits until the host opens a gate in pinned memory, or until it has looked `limit` times, so that a
 * device never hangs on a test that failed. Then it adds one to *touch, unless that is 0.
 */
enum { GATE_STARTED, GATE_OPEN, GATE_OUTCOME, GATE_WORDS };
enum { GATE_PASSED = 1, GATE_GAVE_UP = 2 };
unsigned *gate_new(void);
void gate_launch(CUstream stream, unsigned *gate, CUdeviceptr touch);
CUresult gate_try_launch(CUstream stream, unsigned *gate, CUdeviceptr touch);
void gate_await_start(unsigned *gate);
void gate_open(unsigned *gate);
unsigned gate_outcome(unsigned *gate);
void gate_free(unsigned *gate);

CUstream stream_new(unsigned flags);
CUevent event_new(unsigned flags);

/*
 * `if (!in_child(__func__, -1)) return;` makes what follows run in a process of its own, a fresh start of this program:
 * CUDA does not survive a fork, nor a context a fault. In the parent it waits for that process (one minute at most),
 * asserts that it passed and returns false. The child finds descriptor `fd` (-1: none) as CHILD_FD.
 */
bool in_child(const char *test, int fd);
enum { CHILD_FD = 100 };

/* What a fault must be: CUDA_ERROR_ILLEGAL_ADDRESS; a GPU may also say CUDA_ERROR_LAUNCH_FAILED. */
CUresult assert_fault(CUresult result, const char *file, int line);
#define must_fault(call) assert_fault((call), __FILE__, __LINE__)

/* Before and after each test: nothing leaked (as far as softcuda can count), and the context still works. */
int test_setup(void **state);
int test_teardown(void **state);
#define conformance_test(f) cmocka_unit_test_setup_teardown(f, test_setup, test_teardown)

/* A program's main(): opens the device, runs the tests (or the one that argv[1] names) and closes it. */
#define conformance_main(argc, argv, tests) conformance_run(argc, argv, tests, sizeof(tests) / sizeof(*(tests)))
int conformance_run(int argc, char **argv, const struct CMUnitTest *tests, size_t count);

#endif
