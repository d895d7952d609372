/* calib/study/study.h: the data of a study, for the files of this folder. Private to calib/. */
#ifndef CALIB_STUDY_H
#define CALIB_STUDY_H

#include "../measure.h"

#include <stdio.h>

#define STUDY_TEXT_TOKENS 2048 /* to measure on, if nobody says how many */
#define STUDY_AMOUNTS 3        /* of the first text: as asked for, a third, five thirds */
#define STUDY_ALSO (KVS_STUDY_MOST_ALSO + 1)
#define STUDY_CUTS (STUDY_AMOUNTS + KVS_STUDY_MOST_SOURCES - 1)

/* One way to cut one calibration text. Every method is run on the first. */
struct study_cut {
	int source; /* index of the text */
	int samples;
	char *missing;  /* the reason why the text could not be cut like this; NULL: it was */
	char *unfit;    /* the reason why no matrices can be fitted on it; NULL: they can */
	char *unpaired; /* the reason why `refit`, which should, cannot search on it; NULL: it can, or need not */
	struct kvs_calib_text text;
	struct kvs_calib_text fit_text; /* samples that matrices are fitted on; without any, those of `text` */
};
static inline const struct kvs_calib_text *study_fit_text(const struct study_cut *cut)
{
	return cut->fit_text.samples ? &cut->fit_text : &cut->text;
}
static inline int study_fit_tokens(const struct study_cut *cut)
{
	return study_fit_text(cut)->samples * study_fit_text(cut)->sample_tokens;
}

/* A further text that plans are measured on, or the first in longer windows. */
struct study_also {
	char *title; /* a column's */
	struct kvs_calib_text text;
	double full_nll; /* the unshared model's; NAN: not measured yet */
};

/* A prompt that models go on with. */
struct study_prompt {
	char *text;   /* NULL: there is none */
	int32_t *ids; /* [count] */
	size_t count;
	int tokens;     /* to go on by */
	char *unshared; /* what the unshared model writes; NULL: not run yet */
};

/* How matrices were refitted for a plan. */
struct study_fit {
	int tokens;            /* that the fit saw */
	int matrices;          /* that were refitted */
	double plain_nll, nll; /* on the held-back text of study_fit_text(): the plan alone, and with the matrices */
	bool applied;          /* the second is lower: `calibrate --compensate` would keep them */
	double cpu_s;          /* of all threads, with the two losses */
	int64_t peak_bytes;    /* by which the process's resident memory rose at its peak; 0: not known */
};

/* The result of a row for one number of layers, or of a plan that was given. */
struct study_point {
	int tensors;        /* that share; if there are too few, the method goes no further, and the rest is empty */
	int *owners;        /* [2][layers]: of K, of V; NULL if too few share */
	size_t token_bytes; /* of K and V in all layers, for one token */
	struct kvs_quality quality;
	struct kvs_quality also[STUDY_ALSO]; /* [also_count]; not of merged tensors */
	struct study_fit fit;                /* of rows with one */
	char *sample;                        /* what the model goes on with; NULL: it was not asked */
};

/* One method with one seed on one cut, and what is refitted for its plans, which are those of the row with ALONE. */
struct study_row {
	enum kvs_study_method method;
	enum kvs_study_fit fit;
	uint64_t seed; /* of random orders; 0 elsewhere */
	int cut;
	bool done;
	struct kvs_trial *replay; /* [replay_count] of an earlier search, which need not be run again */
	size_t replay_count;
	double replay_full_nll; /* kvs_search_full_nll() of its plan */
	struct study_point points[KVS_STUDY_MOST_RATES];
};

/* A plan that the study did not find, and what it gives. */
struct study_given {
	char *title;
	const kvs_plan *plan;
	const kvs_patch *patch; /* NULL: it has none, and `with` is empty */
	bool done;
	struct study_point alone, with; /* their owners from the start */
};

struct kvs_study {
	int layers, kv_heads, head_dim;
	const kvs_checkpoint *ckpt;
	const kvs_tokenizer *tok;
	struct study_prompt prompt;
	kvs_cu *cu;
	struct kvs_engine_options engine;
	double threshold;        /* of walks */
	unsigned varied;         /* methods that are run on the other cuts too */
	struct json_t *settings; /* studies with equal settings can go on from each other's file */
	struct study_cut cuts[STUDY_CUTS];
	int cut_count;
	struct kvs_calib_text measured;     /* the windows that every plan is measured on */
	struct study_also also[STUDY_ALSO]; /* other windows */
	int also_count;
	double held_nll; /* with `also`: the unshared model's, on the held-back windows of the first cut; NAN: not yet */
	struct kvs_fit_samples fit;                    /* as asked for; of none: those of the search */
	int shares[KVS_STUDY_MOST_RATES], share_count; /* ascending numbers of layers */
	double full_nll;                               /* NAN: not measured yet */
	struct study_row *rows;                        /* by cut, method, seed and fit */
	size_t row_count, row_room;
	struct study_given given[KVS_STUDY_MOST_PLANS];
	int given_count;
};

bool study_is_random(enum kvs_study_method method); /* the method has seeds */
/* A method is run on other cuts than the first: it should be, or a file has such rows. */
bool study_varies(const struct kvs_study *study, enum kvs_study_method method);
bool study_any_varies(const struct kvs_study *study); /* one that has rows */
/* Whether a method can be run on a cut, and a fit for its plans there. */
bool study_fits(const struct kvs_study *study, enum kvs_study_method method, enum kvs_study_fit fit, int cut);
/* That row, made if there is none yet; NULL: no memory. */
struct study_row *study_row(
	struct kvs_study *study, enum kvs_study_method method, uint64_t seed, enum kvs_study_fit fit, int cut);
/* The row whose plans a row with a fit takes; NULL: it is not there. */
const struct study_row *study_alone(const struct kvs_study *study, const struct study_row *row);
void study_sort(struct kvs_study *study);
/* Fills in the settings (json.c): all that was asked for except the rows, which say themselves what they are of. */
int study_describe(struct kvs_study *study, const kvs_checkpoint *ckpt, const struct kvs_study_options *options);
/* K and V of one token in all layers, with a plan in which `tensors` borrow, or with as many merged. */
size_t study_token_bytes(const struct kvs_study *study, int tensors, bool merged);
/* Writes the study in its present state, aside, and renames the file. */
int study_save(const struct kvs_study *study, const char *path);

/* trials.c: how a row searches; progress and replay are the caller's to set. */
struct kvs_search_options study_search_options(const struct kvs_study *study, const struct study_row *row);
/* Gives each plan's trials to the row that its search is of; a message starts with the plan's name. */
int study_take_trials(struct kvs_study *study, const struct kvs_study_options *options);
/* also.c: cuts the further texts, and refuses those that are among the others. */
int study_cut_also(struct kvs_study *study, const kvs_tokenizer *tok, const struct kvs_study_options *options);
void study_free_also(struct kvs_study *study);
int study_describe_also(struct kvs_study *study); /* into the settings, if there are any */
/* To and from a point's JSON, or with NULL that of the unshared model, if there are any. -ENOMEM; -EINVAL. */
int study_also_json(const struct kvs_study *study, const struct study_point *point, struct json_t *object);
int study_read_also(struct kvs_study *study, const struct json_t *object, struct study_point *point);
void study_print_also_titles(FILE *out, const struct kvs_study *study); /* a column's head for each */
void study_print_also(FILE *out, const struct kvs_study *study);        /* a section, if there are any */
/*
 * json.c: to a point's JSON: its plan, its losses on every text (merged tensors: the first alone), and what the model goes on with;
 * and all but the plan from there.
 */
struct json_t *study_point_json(const struct kvs_study *study, const struct study_point *point, int share, bool merged);
int study_read_measures(
	struct kvs_study *study, const struct json_t *object, bool merged, bool sampled, struct study_point *point);
/* given.c: the plans that were given; into the settings, and into and from study.json, if there are any. */
int study_take_given(struct kvs_study *study, const struct kvs_study_options *options);
void study_free_given(struct kvs_study *study);
int study_describe_given(struct kvs_study *study);
int study_given_json(const struct kvs_study *study, struct json_t *object);
int study_read_given(struct kvs_study *study, const struct json_t *root); /* -ENOMEM; -EINVAL */
void study_print_given(FILE *out, const struct kvs_study *study);         /* a section */
/* sample.c: the prompt's tokens, and the settings that go with it. */
int study_take_prompt(struct kvs_study *study, const struct kvs_study_options *options);
void study_free_prompt(struct kvs_study *study);
int study_describe_prompt(struct kvs_study *study);
/* The row's plans are given the prompt: those without seeds on the first cut. */
bool study_samples(const struct kvs_study *study, const struct study_row *row);
/* What an engine goes on with under a plan, always by the likeliest token; the caller frees it. */
int study_sample(const struct kvs_study *study, kvs_engine *engine, const kvs_plan *plan, char **text);
void study_print_samples(FILE *out, const struct kvs_study *study); /* a section, if there is a prompt */
/* An engine with the checkpoint's matrices whose loading no bar shows; it is the caller's. Errors as kvs_engine_open(). */
int study_open_own(const struct kvs_study *study, kvs_engine **out);

/*
 * Refits for a plan, on the samples of the row's cut, in an engine of its own, which is the caller's: so a result
 * depends on no row before it, even where the engine keeps quantised matrices as they are. Errors as kvs_compensate(),
 * or those of kvs_engine_open().
 */
int study_fit_engine(const struct kvs_study *study, const struct study_row *row, const kvs_plan *plan,
	const struct kvs_calib_progress *progress, kvs_engine **out, struct study_fit *fit);

/* Means over all done rows of a method on a cut, for one number of layers (index `share`). */
struct study_mean {
	size_t count, rows;                 /* rows that share so many layers (0: the rest is NAN), and all rows */
	double nll, deviation, least, most; /* loss, its standard deviation over seeds (0 with one), its range */
	double top1_agreement, kl;          /* means */
	size_t token_bytes;
	double cpu_s;   /* of a fit; mean */
	size_t applied; /* rows whose matrices help on the held-back text */
};
struct study_mean study_mean_of(
	const struct kvs_study *study, enum kvs_study_method method, enum kvs_study_fit fit, int cut, int share);
static inline struct study_mean study_mean(
	const struct kvs_study *study, enum kvs_study_method method, int cut, int share)
{
	return study_mean_of(study, method, KVS_STUDY_ALONE, cut, share);
}
/* Loss above the unshared model's. */
static inline double study_cost(const struct kvs_study *study, const struct study_mean *mean)
{
	return mean->nll - study->full_nll;
}
/* There is a row that is done: without a fit; with that one. */
bool study_has(const struct kvs_study *study, enum kvs_study_method method, int cut);
bool study_has_fit(const struct kvs_study *study, enum kvs_study_method method, enum kvs_study_fit fit, int cut);
bool study_is_compensated(
	const struct kvs_study *study, enum kvs_study_method method); /* any of them, on the first cut */
bool study_has_fits(const struct kvs_study *study);                   /* there is a row with a fit, done or not */

/*
 * Indices of the cuts of the first text by amount, ascending, or of the first cut of each text; returns their number.
 */
int study_series(const struct kvs_study *study, bool by_source, int cuts[STUDY_CUTS]);
/* A method was run on more than the first of these cuts, with this fit. */
bool study_compares(const struct kvs_study *study, enum kvs_study_fit fit, bool by_source);

extern const char *const study_titles[KVS_STUDY_METHODS];  /* for people (markdown.c) */
extern const char *const study_fit_titles[KVS_STUDY_FITS]; /* the same (compensated.c) */
/* "similar first: `similar`"; with seeds, also their number, and the number of all if some are missing. */
void study_name_row(const struct study_mean *mean, enum kvs_study_method m, char *name, size_t size);
/* Text as it is, in a cell of a table; a newline is shown as a sign. */
void study_print_escaped(FILE *out, const char *text);
/* "| FIRST |", and a column for each number of layers. */
void study_print_head(FILE *out, const struct kvs_study *study, const char *first);
void study_print_compensated(FILE *out, const struct kvs_study *study); /* a section, if there are rows with a fit */
int study_draw(const struct kvs_study *study, const char *dir);         /* charts (charts.c) */

#endif
