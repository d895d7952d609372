/* calib/search.h: what the walks share. Private to calib/. */
#ifndef KVS_CALIB_SEARCH_H
#define KVS_CALIB_SEARCH_H

#include "calib.h"

/* Owner maps on the way, and how many tensors of them borrow. */
struct kvs_maps {
	int layers, tensors;
	int *k, *v; /* [layers] each, one allocation at k */
};

struct kvs_search {
	kvs_engine *engine;
	const struct kvs_calib_text *text;
	struct kvs_capture *capture;
	const struct kvs_search_options *options;
	struct kvs_search_result *result;
	size_t replay_at, trial_room;
	int target;                     /* tensors that should share */
	struct kvs_search_point *swept; /* [walk * options->share + layers that share - 1], with options->sweep */
};

int kvs_maps_create(int layers, struct kvs_maps *out); /* every layer its own owner */
void kvs_maps_clear(struct kvs_maps *maps);
/* to = from with `pair` in it. */
void kvs_maps_apply(const struct kvs_maps *from, const struct kvs_pair *pair, struct kvs_maps *to);
bool kvs_maps_borrows(const struct kvs_maps *maps, const struct kvs_pair *pair); /* its layer shares already */
void kvs_maps_swap(struct kvs_maps *a, struct kvs_maps *b);
int kvs_maps_plan(const struct kvs_maps *maps, kvs_plan **out);

/* -ECANCELED when the callback wants to stop. */
int kvs_search_tell(struct kvs_search *search, const char *what, size_t done, size_t total);
/* Whether the next recorded trial is this one; its figures then. */
bool kvs_search_recall(struct kvs_search *search, struct kvs_trial *trial);
int kvs_search_record(struct kvs_search *search, const struct kvs_trial *trial);
/* Remembers `maps` as what `walk` came to, with its loss or NAN; and as a point of the sweep. */
int kvs_search_accept(struct kvs_search *search, enum kvs_walk walk, const struct kvs_maps *maps, double nll);

/* The greedy walk (search_nll.c) over pairs of any order. */
int kvs_search_greedy(struct kvs_search *search, const struct kvs_pair *pairs, size_t count, struct kvs_maps *maps);

#endif
