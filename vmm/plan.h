/* vmm/plan.h: the data of a plan, for plan.c and plan_json.c. Private to vmm/. */
#ifndef VMM_PLAN_H
#define VMM_PLAN_H

#include "kvshare.h"

#include <jansson.h>

struct kvs_plan {
	int layers;
	int *k_owners, *v_owners;    /* [layers] */
	struct kvs_plan_model model; /* strings are the plan's own; architecture NULL: unknown */
	json_t *document;            /* the file that was loaded, with its unknown keys; NULL: made by hand */
};

/*
 * Whether `owners` is a map: owner[l] <= l and owner[owner[l]] == owner[l]. `name` opens the message: "plan.json:
 * k_owners". -EINVAL.
 */
int vmm_plan_check_owners(const char *name, int layers, const int *owners);

#endif
