/* calib/study/study.h: the data of a study, for the files of this folder. Private to calib/. */
#ifndef CALIB_STUDY_H
#define CALIB_STUDY_H

#include "../measure.h"

#define STUDY_AMOUNTS 3 /* of the first text: as asked for, a third, five thirds */
#define STUDY_CUTS (STUDY_AMOUNTS + KVS_STUDY_MOST_SOURCES - 1)

/* One way to cut one calibration text. Every method is run on the first. */
struct study_cut {
	int source; /* index of the text */
	int samples;
	char *missing; /* the reason why the text could not be cut like this; NULL: it was */
	struct kvs_calib_text text;
};

/* The result of a row for one number of layers. */
struct study_point {
	int tensors;        /* that share; if there are too few, the method goes no further, and the rest is empty */
	int *owners;        /* [2][layers]: of K, of V; NULL if too few share */
	size_t token_bytes; /* of K and V in all layers, for one token */
	struct kvs_quality quality;
};

/* One method with one seed on one cut. */
struct study_row {
	enum kvs_study_method method;
	uint64_t seed; /* of random orders; 0 elsewhere */
	int cut;
	bool done;
	struct study_point points[KVS_STUDY_MOST_RATES];
};

struct kvs_study {
	int layers, kv_heads, head_dim;
	struct kvs_engine_options engine;
	double threshold;        /* of walks */
	struct json_t *settings; /* studies with equal settings can go on from each other's file */
	struct study_cut cuts[STUDY_CUTS];
	int cut_count;
	struct kvs_calib_text measured;                /* the windows that every plan is measured on */
	int shares[KVS_STUDY_MOST_RATES], share_count; /* ascending numbers of layers */
	double full_nll;                               /* NAN: not measured yet */
	struct study_row *rows;                        /* by cut, method and seed */
	size_t row_count, row_room;
};

bool study_is_random(enum kvs_study_method method); /* the method has seeds */
/* Whether a method is run on a cut: all are on the first, on others those that depend on the text most. */
bool study_runs(enum kvs_study_method method, int cut);
/* The row of that method, seed and cut, made if there is none yet; NULL: no memory. */
struct study_row *study_row(struct kvs_study *study, enum kvs_study_method method, uint64_t seed, int cut);
void study_sort(struct kvs_study *study);
/* Fills in the settings (json.c): all that was asked for except the rows, which say themselves what they are of. */
int study_describe(struct kvs_study *study, const kvs_checkpoint *ckpt, const struct kvs_study_options *options);
/* K and V of one token in all layers, with a plan in which `tensors` borrow, or with as many merged. */
size_t study_token_bytes(const struct kvs_study *study, int tensors, bool merged);
/* Writes the study in its present state, aside, and renames the file. */
int study_save(const struct kvs_study *study, const char *path);

/* Means over all done rows of a method on a cut, for one number of layers (index `share`). */
struct study_mean {
	size_t count, rows;                 /* rows that share so many layers (0: the rest is NAN), and all rows */
	double nll, deviation, least, most; /* loss, its standard deviation over seeds (0 with one), its range */
	double top1_agreement, kl;          /* means */
	size_t token_bytes;
};
struct study_mean study_mean(const struct kvs_study *study, enum kvs_study_method method, int cut, int share);
/* Loss above the unshared model's. */
static inline double study_cost(const struct kvs_study *study, const struct study_mean *mean)
{
	return mean->nll - study->full_nll;
}
bool study_has(const struct kvs_study *study, enum kvs_study_method method, int cut); /* there is a row that is done */

/*
 * Indices of the cuts of the first text by amount, ascending, or of the first cut of each text; returns their number.
 */
int study_series(const struct kvs_study *study, bool by_source, int cuts[STUDY_CUTS]);

extern const char *const study_titles[KVS_STUDY_METHODS];       /* for people (markdown.c) */
int study_draw(const struct kvs_study *study, const char *dir); /* charts (charts.c) */

#endif
