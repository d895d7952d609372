/*
 * driver/observe.h: between cu.c and observe.cpp. Internal to driver/.
 */
#ifndef KVS_DRIVER_OBSERVE_H
#define KVS_DRIVER_OBSERVE_H

#include "cu.h"

#ifdef __cplusplus
extern "C" {
#endif

/* A table is about to be freed: nothing of it stays here. */
void kvs_observe_forget(kvs_cu *cu);

#ifdef __cplusplus
}
#endif
#endif
