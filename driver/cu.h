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
	F(cuCtxSynchronize)                                                                                            \
	F(cuMemGetInfo) F(cuMemAlloc) F(cuMemFree) F(cuMemAllocHost) F(cuMemFreeHost)                                  \
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

enum kvs_device_kind { KVS_DEVICE_CUDA, KVS_DEVICE_HOST };

typedef struct kvs_cu {
#define KVS_CU_MEMBER(name) __typeof__(name) *name;
	KVS_CU_FUNCTIONS(KVS_CU_MEMBER)
#undef KVS_CU_MEMBER
	enum kvs_device_kind kind;
	char name[128]; /* the device's own name */
	CUdevice device;
	CUcontext context;      /* the device's primary context, retained */
	int driver_version;     /* 1000 * major + 10 * minor */
	int compute_capability; /* 10 * major + minor */
	int multiprocessors;
	int max_shared_bytes; /* dynamic shared memory that one block can opt in to */
	size_t memory_bytes;
	void *library; /* what dlopen gave */
} kvs_cu;

/*
 * Open a device: "cuda", "cuda:N", "host" (softcuda), or "auto" (a GPU where there is one, else host). Retains the
 * primary context and makes it current on the calling thread; another thread calls kvs_cu_bind() before it uses the
 * table. softcuda is looked for in $KVSHARE_SOFTCUDA (a file), then beside the program or library that holds this code
 * (softcuda/, ../softcuda/, ../lib/kvshare/softcuda/ and kvshare/softcuda/).
 * Returns 0; -EINVAL (no such device string), -ENODEV (no driver or no such device; the message says what to install),
 * or what kvs_cu_fail() makes of the driver's error. On success the caller owes kvs_cu_close().
 */
int kvs_cu_open(const char *device, kvs_cu **out);
void kvs_cu_close(kvs_cu *cu); /* NULL is fine */

/* Make the context current on the calling thread. */
int kvs_cu_bind(const kvs_cu *cu);

/*
 * Make a driver call that gives something back. Such a call may answer with the error of earlier, asynchronous work (cuda.h
 * says so at cuMemFree and others) and is then made once more; whoever gives back has no use for its error. `call` is
 * evaluated up to twice.
 */
#define KVS_CU_GIVE_BACK(call) ((void)((call) && (call)))

/*
 * Leave a message for kvs_error() on this thread and return `err` (a negative errno), so that a caller can write
 * `return kvs_fail(-EINVAL, "...")`. The message says what was asked, what was there and what to do.
 */
int kvs_fail(int err, const char *format, ...) __attribute__((format(printf, 2, 3)));

/*
 * The same for a driver call that failed: appends CUDA's own name, number and text for `result` to the message, and
 * returns -ENOMEM for CUDA_ERROR_OUT_OF_MEMORY, -EINVAL for INVALID_VALUE, -ENODEV for NO_DEVICE and INVALID_DEVICE,
 * -ENOTSUP for NOT_SUPPORTED, else -EIO.
 */
int kvs_cu_fail(const kvs_cu *cu, CUresult result, const char *format, ...) __attribute__((format(printf, 3, 4)));

/* This thread's last message; "" before the first. Valid until the next failure on this thread. */
const char *kvs_error(void);

#ifdef __cplusplus
}
#endif
#endif
