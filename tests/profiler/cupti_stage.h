/*
 * tests/profiler/cupti_stage.h: child processes that the library observes, with softcuda as the driver and a fake libcupti
 * that reports softcuda's calls; and what their trace says.
 */
#ifndef KVS_TESTS_PROFILER_CUPTI_STAGE_H
#define KVS_TESTS_PROFILER_CUPTI_STAGE_H

#include "../../driver/cu.h"
#include "../../profiler/profiler.h"
#include "cupti_fake.h"

/* ---- in the test ---- */

extern char trace_path[64]; /* a new file for each test */
int new_files(void **state);
int remove_files(void **state);

/* Run `what` in a child with stderr in a file. Returns its status. */
int in_child(void (*what)(void));
/* The child's stderr; check_said() checks its number of lines and that it contains `part` (NULL: anything). */
const char *said(void);
void check_said(const char *part, int lines);

/* Counts of what is in a trace. */
struct story {
	struct kvs_trace_health health;
	struct kvs_event first; /* its strings are gone */
	char device[64];
	unsigned processes, devices, calls, kernels, copies, spans, labels, exits, wrong_pids;
	unsigned functions[KVS_FN_COUNT];
	uint64_t created, mapped, unmapped, allocated, slow, last_kernel_ns;
	uint32_t pid;
	int status;
};
struct story read_trace(bool whole); /* whole: it must not be damaged */

/* ---- in the child ---- */

/* Ends the child with status 99 if a condition does not hold. */
void must(bool holds, const char *what);

extern const struct cupti_fake *fake;
extern kvs_cu *cu;
extern unsigned calls_made[KVS_FN_COUNT]; /* calls that the fake reported */

/* Load a fake before the library, as PyTorch loads its libcupti: "full", "old" or "broken". */
void load_fake(const char *variant);
/* Load the library and call InitializeInjection(), as the driver does. */
void inject(void);
/* Open softcuda and let the fake report its calls. */
void open_driver(void);
/* The full fake, and the driver, which loads the library by CUDA_INJECTION64_PATH. */
void set_stage(void);

#define GRANULE ((size_t)2 << 20)
#define MAPS 3
/* Two handles, MAPS mappings, an allocation, a failure; one handle is never released. */
void use_memory(void);
void put_kernels(unsigned count);

#endif
