/* tools/run/plan/plan.h: what the files of `kvshare-run plan` share. */
#ifndef KVS_RUN_PLAN_H
#define KVS_RUN_PLAN_H

#include "../run.h"

/* Prints a plan as a table with a map, or as one JSON object. `name` stands for the plan in the output. */
int plan_show(const kvs_plan *plan, const char *name, bool json);

enum plan_format { PLAN_JSON, PLAN_LCKV, PLAN_VLLM, PLAN_TRANSFORMERS, PLAN_CHECKPOINT };

/* The plan as text of that format, which is not PLAN_CHECKPOINT, which the caller frees. -EINVAL (the format cannot express it), -ENOMEM. */
int plan_export(const kvs_plan *plan, enum plan_format format, char **text);
/*
 * A new directory `out` (checkpoint.c): the checkpoint `dir` with the plan's matrices in its weights, and the plan for it as
 * kvshare_plan.json. -EEXIST, -EINVAL (the plan has no patch; the model is no directory), the errors of run_patch_load(), -EIO.
 */
int plan_write_checkpoint(const kvs_plan *plan, const char *plan_path, const char *dir, const char *out);
/* From LCKV's notation, 0_1_2_1. -EINVAL, with the place and the reason. */
int plan_from_lckv(const char *notation, kvs_plan **out);

#endif
