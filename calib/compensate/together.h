/*
 * calib/compensate/together.h: two parts of a fit at once. Private to calib/compensate/.
 */
#ifndef CALIB_TOGETHER_H
#define CALIB_TOGETHER_H

/* The threads that the engine's host device has, at least 1. */
int calib_threads(void);

/* Both calls, the first on a thread of its own where there are two; then it returns. They must share nothing that either writes. */
void calib_side_by_side(void (*first)(void *arg), void *first_arg, void (*second)(void *arg), void *second_arg);

#endif
