/*
 * driver/softcuda/names.h: what the files share that are made from the list of all driver functions (names.inc, which
 * names.awk makes from cuda.h).
 */
#ifndef SOFTCUDA_NAMES_H
#define SOFTCUDA_NAMES_H

#include <stdbool.h>

bool sc_is_absent(void *function); /* it is the answer for a function that softcuda does not have (absent.c) */
bool sc_is_absent_per_thread(void *function); /* it leads to one (perthread.c) */

#endif
