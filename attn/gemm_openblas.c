/*
 * attn/gemm_openblas.c: GEMM on the host device: OpenBLAS, run in stream order by a host function.
 *
 * softcuda's device pointers are host pointers. A call's record must live until the stream gets to it; records come
 * from a pool that grows to the largest number of calls ever in flight. The library owns them all, so that a lost
 * context, whose host functions never run, leaks none.
 *
 * The number of OpenBLAS's threads is one setting for the whole process, and the last bits of a product depend on it:
 * the products of all streams take turns, each with its own number.
 */
#include "stream.h"

#include <dlfcn.h>
#include <errno.h>
#include <pthread.h>
#include <stdbool.h>
#include <stdlib.h>
#include <unistd.h>

/* The parts of cblas.h that are used, as the library is found at run time. */
enum { CBLAS_ROW_MAJOR = 101, CBLAS_NO_TRANS = 111, CBLAS_TRANS = 112 };
typedef void sgemm_fn(int order, int trans_a, int trans_b, int m, int n, int k, float alpha, const float *a, int lda,
	const float *b, int ldb, float beta, float *c, int ldc);
typedef void sgemv_fn(int order, int trans, int m, int n, float alpha, const float *a, int lda, const float *x,
	int incx, float beta, float *y, int incy);
typedef void set_threads_fn(int threads);
typedef void *take_buffer_fn(int position); /* of the pool that its threads work in; 0: any */
typedef void give_buffer_fn(void *buffer);

/* Below this many multiply-adds a call runs on one thread: waking the others costs more than it saves. */
#define ONE_THREAD_WORK (1 << 18)

struct record {
	struct attn_gemm_call call;
	struct openblas *library;
	struct record *next_free, *next_all;
};

struct openblas {
	struct attn_gemm_library base;
	sgemm_fn *sgemm;
	sgemv_fn *sgemv;
	set_threads_fn *set_threads;
	take_buffer_fn *take_buffer;
	give_buffer_fn *give_buffer;
	int threads;
	void *handle;
	pthread_mutex_t lock; /* guards free_list */
	struct record *free_list, *all;
};

static pthread_mutex_t turn = PTHREAD_MUTEX_INITIALIZER;

static void multiply(const struct openblas *library, const struct attn_gemm_call *call)
{
	const float *x = (const float *)call->x, *w = (const float *)call->w;
	float *out = (float *)call->out, beta = call->accumulate ? 1 : 0;
	bool small = (double)call->tokens * call->n * call->k < ONE_THREAD_WORK;

	pthread_mutex_lock(&turn);
	library->set_threads(small ? 1 : library->threads);
	if (call->tokens == 1)
		library->sgemv(CBLAS_ROW_MAJOR, CBLAS_NO_TRANS, call->n, call->k, 1, w, call->k, x, 1, beta, out, 1);
	else
		library->sgemm(CBLAS_ROW_MAJOR, CBLAS_NO_TRANS, CBLAS_TRANS, call->tokens, call->n, call->k, 1, x,
			call->k, w, call->k, beta, out, call->out_stride);
	pthread_mutex_unlock(&turn);
}

/* In stream order, on a thread of softcuda. */
static void CUDA_CB run_record(void *arg)
{
	struct record *record = arg;
	struct openblas *library = record->library;

	multiply(library, &record->call);
	pthread_mutex_lock(&library->lock);
	record->next_free = library->free_list;
	library->free_list = record;
	pthread_mutex_unlock(&library->lock);
}

static struct record *take_record(struct openblas *library)
{
	pthread_mutex_lock(&library->lock);
	struct record *record = library->free_list;
	if (record)
		library->free_list = record->next_free;
	pthread_mutex_unlock(&library->lock);
	if (record)
		return record;
	record = calloc(1, sizeof(*record));
	if (!record)
		return NULL;
	record->library = library;
	record->next_all = library->all;
	library->all = record;
	return record;
}

static int run(struct attn_gemm_library *base, kvs_stream *s, const struct attn_gemm_call *call)
{
	struct openblas *library = (struct openblas *)base;
	struct record *record = take_record(library);

	if (!record)
		return kvs_fail(-ENOMEM, "gemm: no memory for a call");
	record->call = *call;
	CUresult result = s->cu->cuLaunchHostFunc(s->handle, run_record, record);
	if (result == CUDA_SUCCESS)
		return 0;
	pthread_mutex_lock(&library->lock);
	record->next_free = library->free_list;
	library->free_list = record;
	pthread_mutex_unlock(&library->lock);
	return kvs_cu_fail(
		s->cu, result, "gemm: enqueueing [%d][%d] x [%d][%d]", call->tokens, call->k, call->n, call->k);
}

static void close_library(struct attn_gemm_library *base)
{
	struct openblas *library = (struct openblas *)base;

	while (library->all) {
		struct record *record = library->all;
		library->all = record->next_all;
		free(record);
	}
	pthread_mutex_destroy(&library->lock);
	if (library->handle)
		dlclose(library->handle);
	free(library);
}

static int find_functions(struct openblas *library)
{
	int err = kvs_openblas_open("the host device", &library->handle);

	if (err)
		return err;
	library->sgemm = (sgemm_fn *)dlsym(library->handle, "cblas_sgemm");
	library->sgemv = (sgemv_fn *)dlsym(library->handle, "cblas_sgemv");
	library->set_threads = (set_threads_fn *)dlsym(library->handle, "openblas_set_num_threads");
	library->take_buffer = (take_buffer_fn *)dlsym(library->handle, "blas_memory_alloc");
	library->give_buffer = (give_buffer_fn *)dlsym(library->handle, "blas_memory_free");
	if (!library->sgemm || !library->sgemv || !library->set_threads)
		return kvs_fail(-ENODEV, "libopenblas.so.0 lacks cblas_sgemm, cblas_sgemv or openblas_set_num_threads: "
					 "another library has taken its name");
	return 0;
}

/* One for each processor, or fewer where softcuda has fewer workers. */
static int threads_wanted(void)
{
	const char *text = getenv("SOFTCUDA_WORKERS"); /* softcuda has checked it */
	int processors = (int)sysconf(_SC_NPROCESSORS_ONLN), workers = text ? atoi(text) : 0;

	return workers > 0 && workers < processors ? workers : processors;
}

int attn_gemm_open_openblas(kvs_stream *s, struct attn_gemm_library **out)
{
	struct openblas *library = calloc(1, sizeof(*library));
	int err;

	(void)s;
	if (!library)
		return kvs_fail(-ENOMEM, "no memory for OpenBLAS");
	library->base = (struct attn_gemm_library){.run = run, .close = close_library};
	library->threads = threads_wanted();
	pthread_mutex_init(&library->lock, NULL);
	err = find_functions(library);
	if (!err)
		err = library->take_buffer && library->give_buffer /* not of its interface: a build may hide them */
			      ? attn_openblas_take_buffer(library->take_buffer, library->give_buffer)
			      : 0;
	if (err) {
		close_library(&library->base);
		return err;
	}
	*out = &library->base;
	return 0;
}
