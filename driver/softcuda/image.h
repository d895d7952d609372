/*
 * driver/softcuda/image.h: loading the shared object that a module is made of.
 */
#ifndef SOFTCUDA_IMAGE_H
#define SOFTCUDA_IMAGE_H

#include "module.h"

/* How long it is, from its header, whose bytes must be there. */
CUresult sc_image_size(const void *bytes, size_t *size);
enum { SC_IMAGE_LEAST = 64 };

/* NO_BINARY_FOR_GPU: code for another device. INVALID_IMAGE: no module at all. */
CUresult sc_image_load(const void *bytes, struct sc_image **out);

#endif
