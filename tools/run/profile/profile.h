/*
 * tools/run/profile/profile.h: a program of ours that writes down what it does.
 */
#ifndef KVS_RUN_PROFILE_H
#define KVS_RUN_PROFILE_H

#include "../../../model/model.h"

/* A trace of this process's own calls (ours.c). */
struct run_profile;

/*
 * From now on everything that is called through `cu` goes into the trace at `path`; NULL: into $KVSHARE_PROFILE, behind what
 * other processes write there, and where that is not set *out is NULL. What kvs_trace_open() and kvs_cu_observe() answer.
 */
int run_profile_open(const char *path, kvs_cu *cu, struct run_profile **out);
/* Before an engine is opened: it tells the profile what its memory is for. NULL is fine. */
void run_profile_engine(struct run_profile *profile, struct kvs_engine_options *options);
/* Before `cu` is closed. NULL is fine. What kvs_trace_close() answers. */
int run_profile_close(struct run_profile *profile);

#endif
