/*
 * tools/run/session.c: from a model's options to an open engine.
 */
#include "profile/profile.h"
#include "run.h"

#include "../../profiler/profiler.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

void run_show_load(void *arg, size_t done_bytes, size_t total_bytes)
{
	(void)arg;
	run_progress_show("loading weights", "", done_bytes, total_bytes);
}

static int load_plan(const struct run_model_options *options, kvs_plan **plan)
{
	if (options->plan_path)
		return kvs_plan_load(options->plan_path, plan);
	if (options->owners)
		return kvs_plan_parse(options->owners, plan);
	return 0;
}

static int open_engine(const struct run_model_options *options, struct run_session *session)
{
	struct kvs_engine_options engine = {.plan = session->plan,
		.ctx_tokens = options->ctx_tokens,
		.chunk_tokens = options->chunk_tokens,
		.score_rows = options->score_rows,
		.kv_dtype = options->kv_dtype,
		.kv_dtype_set = options->kv_dtype_set,
		.no_premap = options->no_premap,
		.policy = options->policy,
		.progress = options->quiet ? NULL : run_show_load};
	int err;

	run_profile_engine(session->profile, &engine);
	err = kvs_engine_open(session->cu, session->ckpt, &engine, &session->engine);
	if (!err && session->patch)
		err = kvs_engine_set_patch(session->engine, session->patch, NULL);
	if (!err && !options->keep_patch) {
		kvs_patch_close(session->patch); /* as large as the matrices, which are the engine's now */
		session->patch = NULL;
	}
	run_progress_clear();
	return err;
}

static void warn_of(const kvs_checkpoint *ckpt)
{
	char *text, *line, *rest, shown[1024];

	if (kvs_checkpoint_warnings(ckpt, &text))
		return; /* out of memory: the next allocation reports it */
	for (rest = text; (line = strsep(&rest, "\n")) && *line;)
		fprintf(stderr, "kvshare-run: warning: %s\n", kvs_visible(line, shown, sizeof(shown)));
	free(text);
}

/* It runs, but with rotations that the model never saw in training. */
static void warn_of_context(const struct run_model_options *options, const struct kvs_config *config)
{
	if (options->ctx_tokens > config->max_positions)
		fprintf(stderr,
			"kvshare-run: warning: --ctx %d goes past the %d positions that the model was trained for "
			"(config.json: max_position_embeddings); text beyond them may make no sense\n",
			options->ctx_tokens, config->max_positions);
}

/* softcuda reads its number of workers when it is loaded; OpenBLAS's threads follow it (attn/gemm_openblas.c). */
static int take_threads(int threads)
{
	char text[16];

	snprintf(text, sizeof(text), "%d", threads);
	return threads && setenv("SOFTCUDA_WORKERS", text, 1) ? kvs_fail(-ENOMEM, "no memory for a setting") : 0;
}

/* A GPU that this build has no kernels for is none for "auto". */
static int leave_gpu(kvs_cu **cu)
{
	if (!kvs_kernels_check(*cu))
		return 0;
	fprintf(stderr, "kvshare-run: warning: the GPU is not used, all runs on the CPU (--device host): %s\n",
		kvs_error());
	kvs_cu_close(*cu);
	return kvs_cu_open("host", cu);
}

/*
 * A GPU hands out memory in granules of 2 MiB, and so does softcuda to a program that it is to test. kvshare-run itself asks
 * it for small ones: a small model has many layers with little in each, and would hold several times what its tokens need.
 * What the user chose stays.
 */
int run_device_open(const char *device, kvs_cu **out)
{
	int err;

	if (setenv("SOFTCUDA_GRANULARITY", "64K", 0))
		return kvs_fail(-ENOMEM, "no memory for a setting");
	device = device ? device : "auto";
	err = kvs_cu_open(device, out);
	return err || strcmp(device, "auto") ? err : leave_gpu(out);
}

int run_session_open_model(const struct run_model_options *options, struct run_session *session)
{
	int err;

	*session = (struct run_session){0};
	err = load_plan(options, &session->plan);
	if (!err)
		run_policy_warn(options->plan_path, session->plan, options->policy);
	if (!err)
		err = kvs_checkpoint_open(options->dir, &session->ckpt);
	if (!err)
		warn_of_context(options, kvs_checkpoint_config(session->ckpt));
	if (!err)
		err = run_patch_load(options->plan_path, session->plan, session->ckpt, &session->patch);
	if (!err)
		err = kvs_tokenizer_open(options->dir, &session->tokenizer);
	if (!err)
		err = take_threads(options->threads);
	if (!err)
		err = run_device_open(options->device, &session->cu);
	if (!err)
		err = run_profile_open(options->profile_path, session->cu, &session->profile);
	if (!err && !options->quiet && !options->json)
		session->profile_path = options->profile_path;
	if (err)
		run_session_close(session);
	else
		warn_of(session->ckpt);
	return err;
}

int run_session_open(const struct run_model_options *options, struct run_session *session)
{
	double start = run_now_s();
	int err = run_session_open_model(options, session);

	if (err)
		return err;
	err = open_engine(options, session);
	if (err)
		run_session_close(session);
	session->load_s = run_now_s() - start;
	return err;
}

static void say_what_is_in(const char *trace)
{
	kvs_report *report;
	char *text;

	if (kvs_report_make(trace, &report)) {
		run_complain();
		return;
	}
	if (!kvs_report_text(report, &text)) {
		fputs(text, stderr);
		free(text);
	}
	kvs_report_free(report);
}

void run_session_close(struct run_session *session)
{
	kvs_engine_close(session->engine);
	if (run_profile_close(session->profile))
		fprintf(stderr, "kvshare-run: warning: %s\n", kvs_error());
	if (session->profile && session->profile_path)
		say_what_is_in(session->profile_path);
	kvs_cu_close(session->cu);
	kvs_tokenizer_close(session->tokenizer);
	kvs_patch_close(session->patch);
	kvs_checkpoint_close(session->ckpt);
	kvs_plan_free(session->plan);
	*session = (struct run_session){0};
}
