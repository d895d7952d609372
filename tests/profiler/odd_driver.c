/*
 * A libcuda.so.1 that does what drivers may do and softcuda does not: functions that call each other and themselves, one function of
 * two names, one that never returns. Nothing here is CUDA; only the names are.
 */
#include <stdint.h>
#include <unistd.h>

#define EXPORT __attribute__((visibility("default"), noinline))

typedef void callback(void);

EXPORT int cuMemAllocPitch_v2(uint64_t *address, uint64_t *pitch, uint64_t width, uint64_t height, unsigned element);
EXPORT int cuMemAlloc_v2(uint64_t *address, uint64_t bytes);
EXPORT int cuMemFree_v2(uint64_t address);
EXPORT int cuMemcpyAsync(uint64_t to, uint64_t from, uint64_t bytes, void *stream);
EXPORT int cuMemcpyAsync_ptsz(uint64_t to, uint64_t from, uint64_t bytes, void *stream);
EXPORT int cuStreamSynchronize(callback *leave);
EXPORT int cuLaunchKernel(unsigned fails, unsigned sleeps_us);

int cuMemAllocPitch_v2(uint64_t *address, uint64_t *pitch, uint64_t width, uint64_t height, unsigned element)
{
	*pitch = width + 2;
	*address = 0x7000 + height * element;
	return 0;
}

int cuMemAlloc_v2(uint64_t *address, uint64_t bytes)
{
	uint64_t pitch;

	return cuMemAllocPitch_v2(address, &pitch, bytes, 1, 1);
}

int cuMemFree_v2(uint64_t address)
{
	int (*volatile again)(uint64_t) = cuMemFree_v2;

	return address ? again(address - 1) + 1 : 0;
}

int cuMemcpyAsync(uint64_t to, uint64_t from, uint64_t bytes, void *stream)
{
	(void)to, (void)from, (void)bytes, (void)stream;
	return 0;
}

int cuMemcpyAsync_ptsz(uint64_t to, uint64_t from, uint64_t bytes, void *stream)
	__attribute__((alias("cuMemcpyAsync")));

int cuStreamSynchronize(callback *leave)
{
	if (leave)
		leave();
	return 0;
}

int cuLaunchKernel(unsigned fails, unsigned sleeps_us)
{
	if (sleeps_us)
		usleep(sleeps_us);
	return fails ? 719 : 0;
}
