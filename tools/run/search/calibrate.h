/* tools/run/search/calibrate.h: the options and the state of `calibrate`, for calibrate.c and calibrate_report.c. */
#ifndef KVS_RUN_CALIBRATE_H
#define KVS_RUN_CALIBRATE_H

#include "../../../calib/calib.h"
#include "../run.h"

#define RUN_EXIT_EXHAUSTED 3       /* fewer layers share than asked for */
#define RUN_SWEEP_PLAN "plan.json" /* in a sweep's directory: the plan with all trials */

struct run_calibrate {
	struct run_model_options model;
	struct kvs_calib_text_options text_options;
	struct kvs_search_options search;
	const char *text_path, *output;
	int share;   /* 0: by rate */
	double rate; /* 0: the default */
	int batch;   /* samples; 0: by rows */
	bool order_set, threshold_set, resume, compensate;
	bool search_set;       /* --method, --distance or --cosine */
	bool protect_set;      /* --protect-last */
	const char *plan_path; /* compensate this plan, and search none */
	struct kvs_compensate_options compensate_options;
	int skip; /* its rank; -1: auto, 0: none */
	struct kvs_fit_samples fit_samples;

	/* While it runs. */
	struct kvs_calib_text text;       /* the search's; empty where there is none and the fit has its own */
	struct kvs_calib_text own;        /* the fit's; empty where it takes the search's */
	const struct kvs_calib_text *fit; /* one of the two */
	bool may_fit;                     /* without --compensate: the text is long enough for it */
	struct kvs_plan_model plan_model;
	struct kvs_trial *replay;
	kvs_plan *earlier; /* the plan that --resume goes on from, if its matrices lie beside it */
	bool as_it_was;    /* it is what was found, and there are no new matrices: both files stay */
	struct run_watch watch;
	enum kvs_search_end end;
	const kvs_checkpoint *ckpt;
	struct kvs_compensation compensation;
	double fit_full_nll; /* of the unshared model on the text that is held back from the fit */
	char *stopped_path;  /* where a fit that is stopped leaves its matrices */
	bool compensated,
		compensate_stopped; /* `compensation` holds a result, and its patch is there; Ctrl-C came first */
	char patch_digest[KVS_PATCH_DIGEST];
};

/* compensate.c. Before the search: an earlier plan's patch in the way is -EEXIST, a plan's file that can have none -EINVAL. */
int run_compensate_check(const struct run_calibrate *env);
/* Fits for this plan, measures, and writes the patch, if it helps, under a name of its own. Ctrl-C is no error. */
int run_compensate(struct run_calibrate *env, struct run_session *session, const kvs_plan *plan);
/* Into the plan that is about to be written: what was done, and the digest of its patch. Nothing after a fit that failed. */
int run_compensate_record(const struct run_calibrate *env, kvs_plan *plan);
/*
 * After the plan, or its failure `failed`, which it returns: the patch takes its name, or goes. Removes the patch of an earlier
 * plan, if there is a new plan without one, and what a stopped fit left.
 */
int run_compensate_settle(const struct run_calibrate *env, int failed);
/* After Ctrl-C: fails with -ECANCELED, with a message that tells what is kept and how to go on. */
int run_compensate_stop(const struct run_calibrate *env, bool plan_written);
json_t *run_compensate_json(const struct run_calibrate *env);
void run_compensate_print(const struct run_calibrate *env, FILE *out);
/* compensate_plan.c: `--plan`, instead of a search. The text is cut and the engine open. */
int run_compensate_plan(struct run_calibrate *env, struct run_session *session);

/* Writes the plan or plans: of a search that was stopped, or that failed after its first trial, as far as it came. */
int run_calibrate_save(struct run_calibrate *env, const struct kvs_search_result *result);
/* The same, and prints the result. */
int run_calibrate_report(struct run_calibrate *env, const struct run_session *session,
	const struct kvs_search_result *result, double seconds);

#endif
