/*
 * calib/compensate/stopped.h: the file in which a fit that was stopped leaves its matrices. Private to calib/compensate/.
 */
#ifndef CALIB_STOPPED_H
#define CALIB_STOPPED_H

#include "../calib.h"

/* What a refusal ends with: a search that is gone on with takes the file where there is one. */
#define CALIB_STOPPED_ANEW "; without --resume, or after a search without this file, the fit begins anew"

/* All that decides a fit: two with the same of these make the same matrices. */
struct calib_fit_settings {
	kvs_engine *engine;
	const kvs_checkpoint *ckpt;
	const struct kvs_calib_text *text;
	const kvs_plan *plan;
	const struct kvs_compensate_options *options;
};

/* The matrices of the first fit->layers layers, and the plan's loss. -EIO, -ENOMEM. */
int calib_stopped_write(
	const char *path, const struct calib_fit_settings *settings, const struct kvs_compensation *fit);
/*
 * The same again; the caller clears `fit`. -EINVAL (cut, changed, or of other settings: the message names one), -ENOENT,
 * -EIO, -ENOMEM.
 */
int calib_stopped_read(const char *path, const struct calib_fit_settings *settings, struct kvs_compensation *fit);

#endif
