/* calib/study.h: a study as its files share it. Private to calib/. */
#ifndef KVS_CALIB_STUDY_H
#define KVS_CALIB_STUDY_H

#include "calib.h"

#define KVS_STUDY_PARTS 3 /* places of the calibration text that searches start from */
#define KVS_STUDY_TEXTS 5 /* ways to cut it: the main one, two other numbers of samples, two other parts */

/* The calibration text, cut in one way. */
struct kvs_study_text {
	int samples, part; /* part p starts at p / KVS_STUDY_PARTS of the bytes, at a line */
	char *missing;     /* why the text could not be cut so; NULL: it was */
	struct kvs_calib_text cut;
};

/* What a row came to for one number of layers. */
struct kvs_study_point {
	int tensors;        /* that share; fewer than wanted: the method goes no further, and there is no more to say */
	int *owners;        /* [2][layers]: of K, of V; NULL where too few share */
	size_t token_bytes; /* of K and V in all layers, for one token */
	struct kvs_quality quality;
};

/* One method with one seed on one cut of the calibration text. */
struct kvs_study_row {
	enum kvs_study_method method;
	uint64_t seed; /* of random orders; 0 elsewhere */
	int text;
	bool done;
	struct kvs_study_point points[KVS_STUDY_MOST_RATES];
};

struct kvs_study {
	int layers, kv_heads, head_dim;
	struct json_t *settings; /* studies that agree in it can be one */
	struct kvs_study_text texts[KVS_STUDY_TEXTS];
	struct kvs_calib_text measured;                /* the windows that every plan is measured on */
	int shares[KVS_STUDY_MOST_RATES], share_count; /* ascending numbers of layers */
	enum kvs_dtype kv_dtype;
	double threshold; /* of walks */
	double full_nll;  /* NAN: not measured yet */
	struct kvs_study_row *rows;
	size_t row_count, row_room;
};

/* The row of that method, seed and text, made where there is none; NULL: no memory. */
struct kvs_study_row *kvs_study_row(struct kvs_study *study, enum kvs_study_method method, uint64_t seed, int text);
/* Fills in the settings (study_json.c): the whole of what was asked for, but which rows, which are told apart by themselves. */
int kvs_study_describe(struct kvs_study *study, const kvs_checkpoint *ckpt, const struct kvs_study_options *options);
size_t kvs_study_token_bytes(const struct kvs_study *study, int tensors, bool merged);
/* The study as it is now, written aside and renamed. */
int kvs_study_save(const struct kvs_study *study, const char *path);

/* Of all done rows of a method on a text, for one number of layers. */
struct kvs_study_mean {
	size_t count;                       /* 0: there is nothing, the rest is NAN */
	double nll, deviation, least, most; /* loss, its standard deviation over seeds (0 of one) */
	double top1_agreement, kl;          /* means */
	size_t token_bytes;
};
struct kvs_study_mean kvs_study_mean(const struct kvs_study *study, enum kvs_study_method method, int text, int share);
/* Loss above the unshared model's. */
static inline double kvs_study_cost(const struct kvs_study *study, const struct kvs_study_mean *mean)
{
	return mean->nll - study->full_nll;
}
bool kvs_study_has(const struct kvs_study *study, enum kvs_study_method method, int text); /* a row that is done */
/* Whether a method is run on other parts of the text, or (by_part false) with other numbers of samples. */
bool kvs_study_varies(enum kvs_study_method method, bool by_part);

extern const char *const kvs_study_titles[KVS_STUDY_METHODS];       /* for people (study_report.c) */
int kvs_study_draw(const struct kvs_study *study, const char *dir); /* charts (study_charts.c) */

#endif
