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
void driver_forget_observers(kvs_cu *cu);

/* softcuda's file, by the rules of kvs_cu_open(): -ENODEV, -EINVAL, -ENAMETOOLONG, with a message (locate.c). */
int driver_find_softcuda(char *path, size_t bytes);

#ifdef __cplusplus
}
#endif
#endif
