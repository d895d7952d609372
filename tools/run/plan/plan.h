/* tools/run/plan/plan.h: the parts of `kvshare-run plan`: plan.c, show.c, export.c. */
#ifndef KVS_RUN_PLAN_H
#define KVS_RUN_PLAN_H

#include "../run.h"

/* What `plan show` prints: as a table with a map, or one JSON object. `name` is what the plan is called. */
int plan_show(const kvs_plan *plan, const char *name, bool json);

enum plan_format { PLAN_JSON, PLAN_LCKV, PLAN_VLLM, PLAN_TRANSFORMERS };

/* The plan as text of that format, which the caller frees. -EINVAL where the format cannot say it, -ENOMEM. */
int plan_export(const kvs_plan *plan, enum plan_format format, char **text);
/* From LCKV's notation, 0_1_2_1. -EINVAL with the place and the reason. */
int plan_from_lckv(const char *notation, kvs_plan **out);

#endif
