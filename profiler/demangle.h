/*
 * profiler/demangle.h: names of C++ as people write them. Internal to profiler/.
 */
#ifndef KVS_PROFILER_DEMANGLE_H
#define KVS_PROFILER_DEMANGLE_H

#include <stddef.h>

#define PROF_PLAIN_NAME 2048 /* bytes that are enough for most */

/*
 * `name` in plain words in out[bytes]; or `name` itself where it is no mangled name, the plain one is longer than `bytes`, or
 * this was built without libiberty.
 */
const char *prof_demangle(const char *name, char *out, size_t bytes);

#endif
