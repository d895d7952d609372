/*
 * driver/softcuda/device.h: the fixed limits of the device, which are those of a small Ampere GPU (compute capability
 * 8.0), so that kernels that launch here also launch there.
 */
#ifndef SOFTCUDA_DEVICE_H
#define SOFTCUDA_DEVICE_H

enum {
	SC_CAPABILITY = 80,
	SC_MULTIPROCESSORS = 8,
	SC_MAX_THREADS = 1024,
	SC_MAX_BLOCK_X = 1024,
	SC_MAX_BLOCK_Y = 1024,
	SC_MAX_BLOCK_Z = 64,
	SC_MAX_GRID_X = 0x7fffffff,
	SC_MAX_GRID_YZ = 65535,
	SC_THREADS_MULTIPROCESSOR = 2048,
	SC_BLOCKS_MULTIPROCESSOR = 32,
	SC_SHARED_STANDARD = 48 * 1024, /* without cuFuncSetAttribute */
	SC_SHARED_OPTIN = 99 * 1024,    /* the least that any GPU from compute capability 8.0 on has */
	SC_SHARED_MULTIPROCESSOR = 164 * 1024,
	SC_SHARED_RESERVED = 1024, /* of each block's, for the driver */
	SC_MAX_PARAMETER_BYTES = 4096,
};

#endif
