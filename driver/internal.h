/*
 * driver/internal.h: names that the files of driver/ share. Private to driver/.
 */
#ifndef KVS_DRIVER_INTERNAL_H
#define KVS_DRIVER_INTERNAL_H

#include "cu.h"

#ifdef __cplusplus
extern "C" {
#endif

/* Forgets the observers of a table that is about to be freed (observe.cpp). */
void driver_forget_observers(kvs_cu *cu);

#ifdef __cplusplus
}
#endif
#endif
