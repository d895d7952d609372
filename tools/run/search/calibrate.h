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
	bool order_set, threshold_set, resume;

	/* While it runs. */
	struct kvs_calib_text text;
	struct kvs_plan_model plan_model;
	struct kvs_trial *replay;
	struct run_watch watch;
	enum kvs_search_end end;
};

/* Writes the plan or plans, and prints the result. */
int run_calibrate_report(struct run_calibrate *env, const struct run_session *session,
	const struct kvs_search_result *result, double seconds);

#endif
