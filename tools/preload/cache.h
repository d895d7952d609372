/*
 * tools/preload/cache.h: KV caches made of the program's allocations, for the files that build them (cache.c), hand them out
 * (request.c) and follow what the program maps itself (reserved.c). All of it is guarded by shim_cache_lock.
 */
#ifndef SHIM_CACHE_H
#define SHIM_CACHE_H

#include "preload.h"

#include <pthread.h>

struct shim_tensor {
	enum kvs_k_or_v which;
	int layer, owner; /* the layer that it borrows from, or its own */
	struct shim_place place;
	bool lends;
	kvs_region *region; /* NULL: not there yet, or shares nothing and is a part of a gap */
};

struct shim_allocation {
	kvs_space *space; /* NULL: not there */
	CUdeviceptr base;
	size_t bytes;      /* as the program asked */
	bool freed;        /* by the program; what others borrow is still there */
	bool late;         /* freed while nobody might wait for its last use */
	CUmemoryPool pool; /* of the program's, which it is from; NULL: none */
	bool plain;        /* the program got memory that is not ours */
	kvs_region **gaps; /* [gap_count], between the tensors that share */
	size_t gap_count;
	struct shim_shadow {
		CUdeviceptr start;
		size_t first, bytes; /* of the allocation: from where, and how much; 0: none */
	} shadow;                    /* where its borrowers are stored to (shadow.c) */
	/* Of memory that the program maps itself: what it has reserved, and how much of the part that is ours it has mapped. */
	CUdeviceptr reserved; /* 0: none */
	size_t reserved_bytes, mapped_bytes;
	bool left; /* it has freed the reservation; so shall we, once nobody borrows from it */
};

struct shim_cache {
	struct shim_cache *next;
	struct shim_device *device;
	kvs_space *sink_space;
	kvs_region *sink;
	bool given_up;             /* some of it is plain memory, so nothing more is shared in this cache */
	unsigned long graph_calls; /* when it began */
	int layers, allocation_count;
	struct shim_tensor *tensors;         /* [2 * layers], K and V of layer 0, of layer 1, ... */
	struct shim_allocation *allocations; /* [allocation_count] */
};
extern pthread_mutex_t shim_cache_lock;
extern struct shim_cache *shim_caches;
extern atomic_int shim_live; /* allocations that are ours, for hooks that need not look if there is none */

/* ---- cache.c ---- */

static inline bool shim_borrows(const struct shim_tensor *tensor)
{
	return tensor->owner != tensor->layer;
}

/* An empty cache: the program's allocations come into it one by one. */
int shim_cache_create(struct shim_device *device, struct shim_cache **out);
/* The tensor that shares and lies at or behind `from`, the first of them; NULL: none. */
struct shim_tensor *shim_tensor_next(struct shim_cache *cache, int number, size_t from);
/*
 * The part of an allocation that is ours: all of it; of a reservation, which may be as large as the device, what lies from the
 * first tensor that shares to the last. Empty: nothing in it is shared.
 */
void shim_extent_of(struct shim_cache *cache, int number, size_t *first, size_t *end);
/* Backs it with blocks. On failure it is as before. */
int shim_allocation_open(struct shim_cache *cache, int number, size_t bytes);
/* One that was emptied while others borrowed from it is whole again, with what they read. On failure it is as before. */
int shim_allocation_refill(struct shim_cache *cache, int number);
/* Frees what nobody borrows any more; true: nothing is left. */
bool shim_allocation_empty(struct shim_cache *cache, int number);
void shim_allocation_close(struct shim_cache *cache, int number);
/* What the program has freed goes as soon as nobody borrows it; then the cache itself; with `end` in any case. */
void shim_cache_settle(struct shim_cache *cache, bool end);
/* A part of the cache is plain memory, and a cache that is shared in part is neither of what was asked for. */
void shim_cache_give_up(struct shim_cache *cache);

/* ---- shadow.c ---- */

/* For an allocation that holds a borrower and something else; others have none. On failure it is as before. */
int shim_shadow_open(struct shim_cache *cache, int number);
/* Nobody stores there any more. */
void shim_shadow_close(struct shim_allocation *allocation);
/* Where stores meant for the tensor go; 0: to itself. */
CUdeviceptr shim_tensor_sink(const struct shim_cache *cache, const struct shim_tensor *tensor);

/* ---- request.c ---- */

/* The hooks of launches and copies see the caches as they are now. */
int shim_cache_publish(void);
/* The statistics do. */
void shim_cache_note(void);
/* The allocation's memory is the program's own: its cache is not what was asked for. */
void shim_cache_refused(struct shim_cache *cache, int number);
/* What the program gets where its memory could not be backed: plain memory, or with --strict an error. */
CUresult shim_cache_failure(int err, size_t bytes);

/* ---- order.c ---- */

/* Those that come before the cache's have not all been there yet; this one has been made, and counts if it is one of them. */
bool shim_is_skipping(void);
bool shim_is_skipped(size_t bytes);
bool shim_is_live(const struct shim_allocation *allocation);
/*
 * The place of an allocation of `bytes` bytes, of a cache that may be new. -ECANCELED: it is none of a cache's; -EEXIST: a cache
 * is whole, -EBUSY: nobody can tell; and the errors of a new cache.
 */
int shim_place_find(size_t bytes, struct shim_cache **out, int *number);
/* The program has plain memory there: in a place that shares nothing, or as a stray. */
void shim_place_plain(struct shim_cache *cache, int number, CUdeviceptr address);
void shim_stray_add(CUdeviceptr address);
void shim_stray_gone(CUdeviceptr address);
void shim_order_free(CUcontext context);
void shim_order_forget(void);

#endif
