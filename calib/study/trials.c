/*
 * calib/study/trials.c: how a row searches, and the trials of an earlier search that need not be run again.
 *
 * `calibrate` can be stopped and resumed within a search, and a study cannot, so a long search may come from there. A plan
 * that it wrote has every trial. The row runs its search all the same, and takes each trial that comes up from the plan.
 */
#include "../search.h"
#include "study.h"

#include <errno.h>
#include <jansson.h>
#include <stdlib.h>
#include <string.h>

static enum kvs_method search_method(enum kvs_study_method method)
{
	switch (method) {
	case KVS_STUDY_NLL:
	case KVS_STUDY_NLL_SPLIT:
		return KVS_METHOD_NLL;
	case KVS_STUDY_REFIT:
		return KVS_METHOD_REFIT;
	default:
		return KVS_METHOD_KVSHARER;
	}
}

/* The others draw or count their pairs, and try none. */
static bool has_trials(const struct study_row *row)
{
	return !row->fit && row->method != KVS_STUDY_RANDOM && row->method != KVS_STUDY_ADJACENT &&
	       row->method != KVS_STUDY_MERGE;
}

struct kvs_search_options study_search_options(const struct kvs_study *study, const struct study_row *row)
{
	enum kvs_study_method method = row->method;

	return (struct kvs_search_options){.method = search_method(method),
		.share = study->shares[study->share_count - 1],
		.pairs = {.order = study_is_random(method)       ? KVS_ORDER_RANDOM
				   : method == KVS_STUDY_SIMILAR ? KVS_ORDER_SIMILAR
								 : KVS_ORDER_DISSIMILAR,
			.seed = row->seed,
			.split = method == KVS_STUDY_DISSIMILAR_SPLIT || method == KVS_STUDY_NLL_SPLIT},
		.threshold = search_method(method) == KVS_METHOD_KVSHARER ? study->threshold : KVS_THRESHOLD,
		.plans_alone = true,
		.sweep = true,
		.ckpt = study->ckpt};
}

/* The plan's search was by the row's method: of all rows, what differs from this one is worth saying. */
static bool is_of_method(const kvs_plan *plan, const struct study_row *row)
{
	static const char *const names[] = {
		[KVS_METHOD_KVSHARER] = "kvsharer", [KVS_METHOD_NLL] = "nll", [KVS_METHOD_REFIT] = "refit"};
	json_t *record = calib_plan_record(plan);
	const char *name = json_string_value(json_object_get(record, "method"));
	bool same = name && !strcmp(name, names[search_method(row->method)]);

	json_decref(record);
	return same;
}

/* Of two plans of the same search, the one that went further. */
static int take(struct study_row *row, const kvs_plan *plan, const struct kvs_search_options *options,
	const struct kvs_calib_text *text)
{
	struct kvs_trial *trials;
	size_t count;
	int err = kvs_search_replay(plan, options, text, &trials, &count);

	if (err)
		return err;
	if (count < row->replay_count) {
		free(trials);
		return 0;
	}
	free(row->replay);
	row->replay = trials;
	row->replay_count = count;
	row->replay_full_nll = kvs_search_full_nll(plan);
	return 0;
}

/* Fails with the difference from the first row of the plan's method, or from the first that searches at all. */
static int fits_no_row(const struct kvs_study *study, const kvs_plan *plan)
{
	const struct study_row *nearest = NULL;
	struct kvs_search_options options;

	for (size_t i = 0; i < study->row_count; i++) {
		const struct study_row *row = &study->rows[i];
		if (has_trials(row) && (!nearest || (!is_of_method(plan, nearest) && is_of_method(plan, row))))
			nearest = row;
	}
	if (!nearest)
		return kvs_fail(-EINVAL,
			"none of the --methods tries pairs one by one, so there is no search to take trials for");
	options = study_search_options(study, nearest);
	calib_search_is_of(plan, &options, &study->cuts[nearest->cut].text);
	return kvs_fail(-EINVAL, "its trials are of none of the study's searches; of %s: %s",
		kvs_study_method_name(nearest->method), kvs_error());
}

static int give(struct kvs_study *study, const kvs_plan *plan)
{
	const struct kvs_plan_model model = kvs_checkpoint_plan_model(study->ckpt);
	int err = kvs_plan_check(plan, &model);

	for (size_t i = 0; i < study->row_count && !err; i++) {
		struct study_row *row = &study->rows[i];
		const struct kvs_calib_text *text = &study->cuts[row->cut].text;
		struct kvs_search_options options = study_search_options(study, row);
		if (!has_trials(row))
			continue;
		err = calib_search_is_of(plan, &options, text);
		if (!err)
			return take(row, plan, &options, text);
		if (err == -EINVAL)
			err = 0;
	}
	return err ? err : fits_no_row(study, plan);
}

int study_take_trials(struct kvs_study *study, const struct kvs_study_options *options)
{
	int err = 0;

	for (int i = 0; i < options->trials_count && !err; i++) {
		err = give(study, options->trials[i].plan);
		if (err)
			kvs_fail(err, "%s: %s", options->trials[i].name, kvs_error());
	}
	return err;
}
