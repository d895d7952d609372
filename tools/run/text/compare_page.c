/*
 * tools/run/text/compare_page.c: the page of `kvshare-run compare`: one run of each side from the beginning, traced.
 */
#include "compare.h"

#include <stdlib.h>
#include <unistd.h>

static int run_side(const struct run_model_options *options, const int32_t *ids, int prompt, int decode)
{
	struct run_session session = {0};
	int err = run_session_open(options, &session);

	if (err)
		return err;
	session.profile_path = NULL; /* the page says what is in it */
	err = run_compare_prefill(session.engine, ids, prompt);
	if (!err)
		err = run_compare_decode(session.engine, ids + prompt, decode);
	run_session_close(&session);
	return err;
}

static int trace_side(const struct run_model_options *model, enum run_side side, const int32_t *ids, int prompt,
	int decode, kvs_report **report)
{
	struct run_model_options options = *model;
	char path[4096];
	int err = run_make_temporary("compare", path, sizeof(path));

	if (err)
		return err;
	if (side == RUN_FULL)
		options.plan_path = options.owners = NULL;
	options.profile_path = path;
	options.keep_patch = false;
	err = run_side(&options, ids, prompt, decode);
	if (!err)
		err = kvs_report_make(path, report);
	unlink(path);
	return err;
}

static int write_page(kvs_report *const *reports, const struct kvs_diff_page *page, const char *path)
{
	char *text;
	int err = kvs_report_diff_html(reports[RUN_FULL], reports[RUN_SHARED], page, &text);

	if (err)
		return err;
	err = run_write_output(path, text);
	free(text);
	return err;
}

int run_compare_page(const struct run_model_options *model, const int32_t *ids, int prompt, int decode,
	const struct kvs_diff_page *page, const char *path)
{
	kvs_report *reports[2] = {NULL, NULL};
	int err = 0;

	for (enum run_side side = RUN_FULL; side < RUN_SIDES && !err; side++)
		err = trace_side(model, side, ids, prompt, decode, &reports[side]);
	if (!err)
		err = write_page(reports, page, path);
	kvs_report_free(reports[RUN_FULL]);
	kvs_report_free(reports[RUN_SHARED]);
	return err;
}
