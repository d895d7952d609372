/*
 * calib/study/fit.c: matrices refitted for a plan of a study.
 *
 * Every fit has an engine of its own, in which its matrices stay: the plan is measured with them.
 */
#include "study.h"

#include <stdio.h>
#include <string.h>
#include <time.h>

static double cpu_s(void)
{
	struct timespec now;

	clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &now);
	return now.tv_sec + now.tv_nsec * 1e-9;
}

/* A line of /proc/self/status, such as "VmRSS:"; -1: it cannot be read. */
static int64_t status_bytes(const char *key)
{
	FILE *file = fopen("/proc/self/status", "re");
	char line[256];
	long long kib = -1;

	while (file && fgets(line, sizeof(line), file))
		if (!strncmp(line, key, strlen(key)))
			sscanf(line + strlen(key), "%lld", &kib);
	if (file)
		fclose(file);
	return kib < 0 ? -1 : kib * 1024;
}

/* From here on VmHWM is the peak. Returns the resident memory of now; -1: the kernel does not let the peak be reset. */
static int64_t begin_peak(void)
{
	FILE *file = fopen("/proc/self/clear_refs", "we");
	bool reset = file && fputs("5", file) >= 0;

	if (file)
		reset = !fclose(file) && reset;
	return reset ? status_bytes("VmRSS:") : -1;
}

static int64_t peak_since(int64_t before)
{
	int64_t peak = before < 0 ? -1 : status_bytes("VmHWM:");

	return peak > before ? peak - before : 0;
}

static struct kvs_compensate_options options_of(const struct kvs_study *study, enum kvs_study_fit fit)
{
	static const unsigned matrices[KVS_STUDY_FITS] = {
		[KVS_STUDY_FIT_O] = KVS_REFIT_OUTPUTS,
		[KVS_STUDY_FIT_QO] = KVS_REFIT_QUERIES | KVS_REFIT_OUTPUTS,
		[KVS_STUDY_FIT_ALL] = KVS_REFIT_ALL,
		[KVS_STUDY_FIT_SKIP] = KVS_REFIT_ALL,
		[KVS_STUDY_FIT_LINEAR] = KVS_REFIT_ALL,
	};

	return (struct kvs_compensate_options){.matrices = matrices[fit],
		.skip = fit == KVS_STUDY_FIT_SKIP ? kvs_skip_rank(kvs_checkpoint_config(study->ckpt)) : 0,
		.linear = fit == KVS_STUDY_FIT_LINEAR};
}

static int fit_in(kvs_engine *engine, const struct kvs_study *study, const struct study_row *row, const kvs_plan *plan,
	const struct kvs_calib_progress *progress, struct study_fit *fit)
{
	struct kvs_compensate_options options = options_of(study, row->fit);
	struct kvs_compensation result;
	int64_t before = begin_peak();
	double start = cpu_s();
	int err = kvs_compensate(
		engine, study->ckpt, study_fit_text(&study->cuts[row->cut]), plan, &options, progress, &result);

	if (err)
		return err;
	*fit = (struct study_fit){.tokens = result.tokens,
		.matrices = (int)result.count,
		.plain_nll = result.plain_nll,
		.nll = result.nll,
		.applied = result.applied,
		.cpu_s = cpu_s() - start,
		.peak_bytes = peak_since(before)};
	kvs_compensation_clear(&result);
	return 0;
}

int study_open_own(const struct kvs_study *study, kvs_engine **out)
{
	struct kvs_study quiet = *study;

	quiet.engine.progress = NULL; /* the bar is the study's */
	return kvs_study_open_engine(study->cu, study->ckpt, &quiet, out);
}

int study_fit_engine(const struct kvs_study *study, const struct study_row *row, const kvs_plan *plan,
	const struct kvs_calib_progress *progress, kvs_engine **out, struct study_fit *fit)
{
	kvs_engine *engine;
	int err = study_open_own(study, &engine);

	if (err)
		return err;
	err = fit_in(engine, study, row, plan, progress, fit);
	if (err)
		kvs_engine_close(engine);
	else
		*out = engine;
	return err;
}
