/*
 * attn/openblas_room.c: loading OpenBLAS, where this process has the address space and the threads that it needs.
 *
 * OpenBLAS does not handle their lack: it retries an mmap that fails for ever (OpenBLAS#5289), and where it cannot
 * create a thread it ends the program with SIGINT. So both are tried here first, all at once, as it will take them, and
 * given back. Its threads map their buffers while it is being loaded, when threads of softcuda may call malloc for the
 * first time, so their room is checked too: what they took in between would leave a thread of OpenBLAS in its loop for
 * ever, and with it the thread that unloads the library.
 */
#include "native/processor.h"
#include "stream.h"

#include <dlfcn.h>
#include <errno.h>
#include <pthread.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#define LIBRARY_BYTES ((size_t)64 << 20)
#define BUFFER_BYTES ((size_t)130 << 20) /* BUFFER_SIZE of its x86-64 build, 128 MiB, and what it aligns by */
#define STACK_BYTES ((size_t)8 << 20)
/* Reserved briefly when a thread first calls malloc: OpenBLAS's, softcuda's one per processor, and two streams'. */
#define ARENA_BYTES ((size_t)128 << 20)

struct crowd {
	pthread_mutex_t lock;
	pthread_cond_t may_go;
	bool go;
};

static void *stand(void *arg)
{
	struct crowd *crowd = arg;

	pthread_mutex_lock(&crowd->lock);
	while (!crowd->go)
		pthread_cond_wait(&crowd->may_go, &crowd->lock);
	pthread_mutex_unlock(&crowd->lock);
	return NULL;
}

/* Starts `count` threads that all exist at the same time, and ends them. */
static int try_threads(int count)
{
	struct crowd crowd = {.lock = PTHREAD_MUTEX_INITIALIZER, .may_go = PTHREAD_COND_INITIALIZER};
	pthread_t *threads = calloc(count + 1, sizeof(*threads));
	int started = 0, error = threads ? 0 : ENOMEM;

	while (started < count && !error) {
		error = pthread_create(&threads[started], NULL, stand, &crowd);
		started += !error;
	}
	pthread_mutex_lock(&crowd.lock);
	crowd.go = true;
	pthread_cond_broadcast(&crowd.may_go);
	pthread_mutex_unlock(&crowd.lock);
	for (int i = 0; i < started; i++)
		pthread_join(threads[i], NULL);
	free(threads);
	return error ? kvs_fail(-error, "OpenBLAS takes %d threads beside this one, and after %d: %s (ulimit -u?)",
			       count, started, strerror(error))
		     : 0;
}

static int try_space(size_t bytes)
{
	void *room = mmap(NULL, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);

	if (room == MAP_FAILED)
		return kvs_fail(-ENOMEM, "OpenBLAS takes %zu MiB of address space, and there is less: %s (ulimit -v?)",
			bytes >> 20, strerror(errno));
	munmap(room, bytes);
	return 0;
}

int kvs_openblas_check_room(int threads)
{
	int err = try_space(LIBRARY_BYTES + (BUFFER_BYTES + STACK_BYTES) * threads + ARENA_BYTES * (2 * threads + 2));

	return err ? err : try_threads(threads - 1);
}

/*
 * With its kernels for AVX2 on every processor that has it, unless OPENBLAS_CORETYPE says otherwise. So a fit has the same
 * bits on all of them, and a processor that is younger than the library does not fall back to SSE3 ("Prescott"). It reads
 * the variable while it is loaded.
 */
static void *load(const char *name)
{
	bool choose = attn_has_avx2() && !getenv("OPENBLAS_CORETYPE");
	void *handle;

	if (choose)
		setenv("OPENBLAS_CORETYPE", "Haswell", 0);
	handle = dlopen(name, RTLD_NOW | RTLD_LOCAL);
	if (choose)
		unsetenv("OPENBLAS_CORETYPE");
	return handle;
}

int kvs_openblas_open(const char *who, void **handle)
{
	static const char name[] = "libopenblas.so.0";
	int err;

	*handle = dlopen(name, RTLD_NOW | RTLD_LOCAL | RTLD_NOLOAD);
	if (*handle)
		return 0;
	err = kvs_openblas_check_room((int)sysconf(_SC_NPROCESSORS_ONLN));
	if (err)
		return err;
	*handle = load(name);
	return *handle ? 0 : kvs_fail(-ENODEV, "%s needs OpenBLAS (Debian: libopenblas0): %s", who, dlerror());
}

int attn_openblas_take_buffer(void *(*take)(int), void (*give)(void *))
{
	int err = try_space(BUFFER_BYTES);

	if (!err)
		give(take(0));
	return err;
}
