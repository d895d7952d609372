/*
 * profiler/libcupti.h: opens NVIDIA's libcupti. Internal to profiler/; libkvshare-cupti.so has a copy of its own.
 */
#ifndef KVS_PROFILER_LIBCUPTI_H
#define KVS_PROFILER_LIBCUPTI_H

/*
 * The file that $KVSHARE_CUPTI names; or else a copy that the process has loaded already, or one on the loader's path or in
 * the toolkit's usual folders. It stays loaded. NULL with a message: there is none.
 */
void *prof_libcupti_open(void);

#endif
