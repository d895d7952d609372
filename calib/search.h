/*
 * calib/search.h: what the walks have in common: owner maps, the state of a search, recalled trials. Private to calib/.
 */
#ifndef CALIB_SEARCH_H
#define CALIB_SEARCH_H

#include "calib.h"

/* The owner maps of a plan in the making. `tensors`: the number that borrow, K or V of a layer each. */
struct calib_maps {
	int layers, tensors;
	int *k, *v; /* [layers] each, one allocation at `k` */
};

struct calib_search {
	kvs_engine *engine;
	const struct kvs_calib_text *text;
	struct kvs_capture *capture;
	const struct kvs_search_options *options;
	struct kvs_search_result *result;
	size_t replay_at, trial_room;
	int target;                   /* tensors that should share */
	double cost, done, walk_cost; /* of all walks, of those that are over, of the one that runs; for the progress */
	kvs_rerun *rerun;             /* of the samples, while the paper's walks run; NULL: whole runs */
	struct kvs_search_point
		*swept; /* [walk][options->share], the second by layers that share - 1; NULL without a sweep */
};

int calib_maps_create(int layers, struct calib_maps *out); /* every layer its own owner */
void calib_maps_clear(struct calib_maps *maps);
/* to = from with `pair` in it. */
void calib_maps_apply(const struct calib_maps *from, const struct kvs_pair *pair, struct calib_maps *to);
bool calib_maps_borrows(const struct calib_maps *maps, const struct kvs_pair *pair); /* the pair's layer does */
void calib_maps_swap(struct calib_maps *a, struct calib_maps *b);
int calib_maps_plan(const struct calib_maps *maps, kvs_plan **out);

/* Part `part`, from 0 to 1, of the walk that runs is done. -ECANCELED if the callback asks to stop. */
int calib_search_tell(struct calib_search *search, const char *what, double part);
bool calib_walk_is_wanted(const struct kvs_search_options *options, enum kvs_walk walk);
/* As kvs_search_cost(), of one walk (cost.c). */
double calib_walk_cost(
	const struct kvs_search_options *options, const struct kvs_calib_text *text, int layers, enum kvs_walk walk);
/* Whether the next trial of the replay is this one; if so, fills in its figures. */
bool calib_search_recall(struct calib_search *search, struct kvs_trial *trial);
int calib_search_record(struct calib_search *search, const struct kvs_trial *trial);
/* Notes `maps`, with its loss or NAN, as the point that `walk` has reached, and as a point of the sweep. */
int calib_search_accept(struct calib_search *search, enum kvs_walk walk, const struct calib_maps *maps, double nll);

/* Whether the plan's search had this text and these options (record.c). -EINVAL names the difference; -ENOENT, -ENOMEM. */
int calib_search_is_of(
	const kvs_plan *plan, const struct kvs_search_options *options, const struct kvs_calib_text *text);

/* The greedy walk (search_nll.c), over pairs in any order. */
int calib_search_greedy(
	struct calib_search *search, const struct kvs_pair *pairs, size_t count, struct calib_maps *maps);
/* The numbers of windows up to the end of each part of the text on which the first step measures a pair; returns how many. */
#define CALIB_STAGES 3
int calib_nll_stages(const struct kvs_calib_text *text, int windows[CALIB_STAGES]);
/* About how many trials of the whole text it makes, for each pair, until `layers` layers share (cost.c). */
double calib_nll_trials(const struct kvs_calib_text *text, double layers);
int calib_trials_damaged(void); /* -EINVAL, with the message on a plan's trials (record.c) */
/* The walk by what compensation leaves (search_refit.c). */
int calib_search_refit(struct calib_search *search, struct calib_maps *maps);

#endif
