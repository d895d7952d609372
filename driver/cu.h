/*
 * driver/cu.h: how kvshare reaches CUDA.
 *
 * One table of driver-API functions, filled at run time from the system's libcuda.so.1 or from softcuda, our driver on
 * host memory. Everything above calls through the table and cannot tell which one it got; nothing links libcuda. The
 * error message that every library of kvshare leaves behind lives here too, as this is the floor they all stand on.
 */
#ifndef KVS_CU_H
#define KVS_CU_H

#include <cuda.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/uio.h>

#ifdef __cplusplus
extern "C" {
#endif

/*
 * The driver functions that kvshare calls. cuda.h defines most of these names as macros for a versioned symbol
 * (cuMemAlloc is cuMemAlloc_v2); each use here goes through that macro, so table, symbol and type agree by construction.
 */
/* clang-format off */
#define KVS_CU_FUNCTIONS(F)                                                                                            \
	F(cuInit) F(cuDriverGetVersion) F(cuGetErrorName) F(cuGetErrorString)                                          \
	F(cuDeviceGet) F(cuDeviceGetCount) F(cuDeviceGetName) F(cuDeviceGetAttribute) F(cuDeviceTotalMem)              \
	F(cuDevicePrimaryCtxRetain) F(cuDevicePrimaryCtxRelease) F(cuCtxSetCurrent) F(cuCtxGetCurrent)                 \
	F(cuCtxPushCurrent) F(cuCtxPopCurrent) F(cuCtxSynchronize)                                                     \
	F(cuMemGetInfo) F(cuMemAlloc) F(cuMemFree) F(cuMemAllocHost) F(cuMemFreeHost)                                  \
	F(cuMemHostRegister) F(cuMemHostUnregister) F(cuMemHostGetDevicePointer)                                       \
	F(cuMemcpyHtoD) F(cuMemcpyDtoH) F(cuMemcpyHtoDAsync) F(cuMemcpyDtoHAsync) F(cuMemcpyDtoDAsync)                 \
	F(cuMemsetD8) F(cuMemsetD8Async) F(cuMemsetD32Async)                                                           \
	F(cuMemGetAllocationGranularity) F(cuMemAddressReserve) F(cuMemAddressFree) F(cuMemCreate) F(cuMemRelease)     \
	F(cuMemMap) F(cuMemUnmap) F(cuMemSetAccess) F(cuMemGetAccess) F(cuMemRetainAllocationHandle)                   \
	F(cuMemGetAllocationPropertiesFromHandle) F(cuPointerGetAttribute)                                             \
	F(cuStreamCreate) F(cuStreamDestroy) F(cuStreamSynchronize) F(cuStreamQuery) F(cuStreamWaitEvent)              \
	F(cuEventCreate) F(cuEventDestroy) F(cuEventRecord) F(cuEventQuery) F(cuEventSynchronize) F(cuEventElapsedTime)\
	F(cuModuleLoadData) F(cuModuleUnload) F(cuModuleGetFunction)                                                   \
	F(cuFuncGetAttribute) F(cuFuncSetAttribute) F(cuLaunchKernel) F(cuLaunchHostFunc)
/* clang-format on */

/* A number for each function of the table: KVS_FN_cuInit, KVS_FN_cuMemAlloc, ... */
enum kvs_cu_function {
#define KVS_CU_NUMBER(name) KVS_FN_##name,
	KVS_CU_FUNCTIONS(KVS_CU_NUMBER)
#undef KVS_CU_NUMBER
		KVS_FN_COUNT
};

enum kvs_device_kind { KVS_DEVICE_CUDA, KVS_DEVICE_HOST };

typedef struct kvs_cu {
#define KVS_CU_MEMBER(name) __typeof__(name) *name;
	KVS_CU_FUNCTIONS(KVS_CU_MEMBER)
#undef KVS_CU_MEMBER
	enum kvs_device_kind kind;
	char name[128]; /* the device's own name */
	CUdevice device;
	CUcontext context;      /* the device's primary context, retained; or the adopted one */
	int driver_version;     /* 1000 * major + 10 * minor */
	int compute_capability; /* 10 * major + minor */
	int multiprocessors;
	int max_shared_bytes; /* dynamic shared memory that one block can opt in to */
	size_t memory_bytes;
	void *library; /* the handle from dlopen; NULL for an adopted driver */
	bool adopted;
} kvs_cu;

/*
 * Open a device: "cuda", "cuda:N", "host" (softcuda), or "auto" (a GPU, which softcuda never is, else host). Retains the
 * primary context and makes it current on the calling thread; another thread calls kvs_cu_bind() before it uses the
 * table. softcuda is $KVSHARE_SOFTCUDA (a path with a slash), or is looked for beside the program or library that holds
 * this code (softcuda/, ../softcuda/, ../lib/kvshare/softcuda/ and kvshare/softcuda/), never in the working directory.
 * Returns 0; -EINVAL (no such device string, a bare name in $KVSHARE_SOFTCUDA), -ENODEV (no driver or no such device;
 * the message says what to install), or what kvs_cu_fail() makes of the driver's error. On success the caller owes
 * kvs_cu_close(). */
int kvs_cu_open(const char *device, kvs_cu **out);

/*
 * The file that kvs_cu_open("host") would load, for a program that starts another one on softcuda: -ENODEV, -EINVAL,
 * -ENAMETOOLONG.
 */
int kvs_cu_find_softcuda(char *path, size_t bytes);

/*
 * A driver that somebody else opened, as an LD_PRELOAD shim or a plug-in finds it. `symbol` gives the driver's own
 * function of an exported name, version included ("cuMemAlloc_v2"), or NULL. A shim answers with the functions of the
 * real driver that it kept, so that calls through the table do not come back to its own hooks; for a dlopen handle, use
 * kvs_cu_symbol_of_library.
 */
struct kvs_cu_driver {
	void *(*symbol)(void *arg, const char *name);
	void *arg; /* for `symbol`; for kvs_cu_symbol_of_library, the handle */
};
void *kvs_cu_symbol_of_library(void *library, const char *name);

/*
 * Work with that driver in `context`, a live context of `device` (cuCtxGetDevice tells, where the context is current). The
 * owner keeps both: this never starts the driver, never retains, releases, resets or destroys the context, never makes it
 * current on the calling thread, and leaves the library loaded; closing frees the table alone. `symbol` is asked during
 * this call only. Streams are named where work is done on them (kvs_vmm_attach_stream()), so none is given here.
 * `kind` is KVS_DEVICE_HOST where the driver has softcuda's own functions too.
 * Returns 0, -EINVAL (no context), -ENODEV (a function is missing; the message names it), -ENOMEM, or what kvs_cu_fail() makes of an error.
 * On success the caller owes kvs_cu_close(), before the owner destroys the context.
 */
int kvs_cu_adopt(const struct kvs_cu_driver *driver, CUcontext context, CUdevice device, kvs_cu **out);

/* NULL is fine. Observers must be gone, and no other thread may be in a call. */
void kvs_cu_close(kvs_cu *cu);

/*
 * Make the context current on the calling thread, until something else is made current: for a caller's own threads. An
 * adopted context never replaces another: if the thread has one current, this returns -EBUSY and changes nothing.
 */
int kvs_cu_bind(const kvs_cu *cu);

/*
 * The same for a while, on a thread that belongs to somebody else: kvs_cu_leave() makes current again what was current
 * before. Pairs nest; each successful kvs_cu_enter() is followed by one kvs_cu_leave() on the same thread.
 */
int kvs_cu_enter(const kvs_cu *cu);
void kvs_cu_leave(const kvs_cu *cu);

/* ---- watching the table ---- */

/* A call through the table, as an observer sees it. Valid during the callback only. */
struct kvs_cu_call {
	enum kvs_cu_function function;
	bool after;              /* false: about to be made; true: made */
	CUresult result;         /* after; CUDA_SUCCESS before */
	uint64_t start_ns;       /* CLOCK_MONOTONIC when the call began; the same before and after */
	uint64_t nanoseconds;    /* after: how long the driver took; 0 before */
	const void *const *args; /* [arg_count]: a pointer to each argument, of its type in cuda.h; not to be written */
	unsigned int arg_count;
};
typedef void kvs_cu_callback(void *arg, const struct kvs_cu_call *call);
typedef struct kvs_cu_observer kvs_cu_observer;

#define KVS_CU_MAX_OBSERVED 8  /* tables of a process that are, or were, observed and are still open */
#define KVS_CU_MAX_OBSERVERS 8 /* of one table at a time */

/*
 * From now on `callback` runs on the calling thread before and after each call of `functions` (NULL: of all) that is made
 * through this table. The table's pointers are replaced for these functions alone: a function that nobody observes costs
 * nothing. Observers are called in no particular order. A callback may call through the table; such calls are not observed.
 * It must not wait for what somebody holds while calling through the table, as a kvs_vmm does while it changes mappings: so it
 * calls none of its functions. It must not throw or longjmp out. Other threads may be in calls meanwhile: one that has begun already may be missed, and
 * nobody hears of the end of a call without having heard of its beginning.
 * Returns 0; -EINVAL (no such function), -ENOSPC (one of the limits above).
 */
int kvs_cu_observe(kvs_cu *cu, const enum kvs_cu_function *functions, size_t count, kvs_cu_callback *callback,
	void *arg, kvs_cu_observer **out);

/*
 * End it; NULL is fine. When this returns, no callback of the observer is running and none will run, so what `arg` points to
 * can be freed; a call in progress then ends unheard. Safe while other threads call. It waits for callbacks, so it
 * must not be called from one: -EDEADLK, and the observer stays.
 */
int kvs_cu_unobserve(kvs_cu_observer *observer);

/*
 * Be told when each kernel ran (CLOCK_MONOTONIC), in the order of its stream, on a thread of the driver's; `callback` must not
 * call the driver. NULL ends it, and waits until no callback runs. One for the whole process. -ENOTSUP: only softcuda
 * tells; on a GPU this takes CUPTI.
 */
typedef void kvs_cu_kernel_callback(void *arg, const char *name, CUstream stream, uint64_t start_ns, uint64_t end_ns);
int kvs_cu_on_kernel(const kvs_cu *cu, kvs_cu_kernel_callback *callback, void *arg);

/* "cuMemMap" for KVS_FN_cuMemMap. */
const char *kvs_cu_function_name(enum kvs_cu_function function);

/* ---- giving back, and errors ---- */

/*
 * Give `object` back by `function`, a driver function of that one argument. Such a call may answer with the error of earlier,
 * asynchronous work (cuda.h says so at cuMemFree and others), so it is made once more if it fails; after that its error is
 * dropped, as the caller could do nothing about it.
 */
#define KVS_CU_GIVE_BACK(function, object)                                                                             \
	do {                                                                                                           \
		__typeof__(function) kvs_give_back_function = (function);                                              \
		__typeof__(object) kvs_give_back_object = (object);                                                    \
		if (kvs_give_back_function(kvs_give_back_object) != CUDA_SUCCESS)                                      \
			(void)kvs_give_back_function(kvs_give_back_object);                                            \
	} while (0)

/*
 * Leave a message for kvs_error() on this thread and return `err` (a negative errno), so that a caller can write
 * `return kvs_fail(-EINVAL, "...")`. The message says what was asked, what was found and what to do. The message so far may be
 * an argument: `kvs_fail(err, "%s: %s", name, kvs_error())` puts a name before it.
 */
int kvs_fail(int err, const char *format, ...) __attribute__((format(printf, 2, 3)));

/*
 * The same for a driver call that failed: appends CUDA's own name, number and text for `result` to the message, and
 * returns -ENOMEM for CUDA_ERROR_OUT_OF_MEMORY, -EINVAL for INVALID_VALUE, -ENODEV for NO_DEVICE and INVALID_DEVICE,
 * -ENOTSUP for NOT_SUPPORTED, else -EIO.
 */
int kvs_cu_fail(const kvs_cu *cu, CUresult result, const char *format, ...) __attribute__((format(printf, 3, 4)));

/*
 * This thread's last message; "" before the first. Valid until the next failure on this thread. It is one line of valid
 * UTF-8 without control characters (kvs_visible()), and where it was too long its middle is missing.
 */
const char *kvs_error(void);

/*
 * `text` in a form that is safe to show on a terminal: control characters (C0, DEL, C1, separators, marks that turn the
 * direction of writing) and bytes that are no UTF-8 as \x1b and the like; nothing else changes, so doing it twice does
 * no harm. Writes at most `bytes`, with the closing 0, to `out`; where that is too little the text ends in "...".
 * Returns `out`. For names from files:
 *   char shown[256];
 *   printf("%s\n", kvs_visible(name, shown, sizeof(shown)));
 */
char *kvs_visible(const char *text, char *out, size_t bytes);

/* ---- files ---- */

/*
 * Write a result to `path`: the one writer of every file that kvshare's libraries and programs leave.
 *
 * A regular file is written aside and takes its name when it is complete, so a reader never sees half of it, and a
 * failure (a full disk, a signal) leaves the old file unchanged. It replaces the file that a symbolic link leads to,
 * not the link; a link that leads nowhere gets its target. Mode, owner and group stay; a new file has those of any new
 * file. A file without write permission is not replaced. Where a new file could not take the old one's place unnoticed
 * (it has other hard links, its owner cannot be kept, its folder takes no new file, it is a mount point), it is
 * overwritten in place, and a failure then leaves a part. Anything else (a FIFO, a terminal or another device,
 * /dev/stdout, /dev/fd/N of a process substitution) is written through. A FIFO waits for its reader; a signal whose
 * handler does not restart calls ends that with -EINTR. SIGPIPE and SIGXFSZ are blocked on this thread meanwhile: both
 * become errors. Returns 0 or a negative errno, with a message that names the path and the reason.
 */
int kvs_file_write(const char *path, const void *data, size_t bytes);
/* The same for `count` pieces, one behind the other: a large file need not be in memory twice. */
int kvs_file_writev(const char *path, const struct iovec *pieces, size_t count);

/*
 * A file that is installed with us: `file` beside the program or library that holds this code, in ../, ../lib/kvshare/ or
 * kvshare/ from there; never in the working directory. -ENODEV: there is none.
 */
int kvs_find_beside(const char *file, char *path, size_t bytes);

#ifdef __cplusplus
}
#endif
#endif
