/*
 * driver/internal.h: what the files of driver/ share with each other. Internal to driver/.
 */
#ifndef KVS_DRIVER_INTERNAL_H
#define KVS_DRIVER_INTERNAL_H

#include "cu.h"

#ifdef __cplusplus
extern "C" {
#endif

/* A table is about to be freed: nothing of it stays (observe.cpp). */
void kvs_observe_forget(kvs_cu *cu);

/* softcuda's file, by the rules of kvs_cu_open(): -ENODEV, -EINVAL, -ENAMETOOLONG, with a message (locate.c). */
int kvs_softcuda_find(char *path, size_t bytes);

#ifdef __cplusplus
}
#endif
#endif
