/*
 * driver/softcuda/image.h: loading the shared object that a module is made of.
 */
#ifndef SOFTCUDA_IMAGE_H
#define SOFTCUDA_IMAGE_H

#include "module.h"

/* NO_BINARY_FOR_GPU: code for another device. INVALID_IMAGE: no module at all. */
CUresult sc_image_load(const void *bytes, struct sc_image **out);

#endif
