/*
 * profiler/calls.c: the functions of the driver that an account follows.
 */
#include "calls.h"

#include <stdbool.h>
#include <stddef.h>
#include <string.h>

static const struct {
	const char *name; /* without version and variant; with a * at its end, all that begin so */
	enum prof_call_class class;
} functions[] = {
	{"cuMemAlloc", PROF_CALL_ALLOC},
	{"cuMemAllocPitch", PROF_CALL_ALLOC},
	{"cuMemAllocAsync", PROF_CALL_ALLOC},
	{"cuMemAllocFromPoolAsync", PROF_CALL_ALLOC},
	{"cuMemAllocManaged", PROF_CALL_ALLOC},
	{"cuMemFree", PROF_CALL_FREE},
	{"cuMemFreeAsync", PROF_CALL_FREE},
	{"cuMemAllocHost", PROF_CALL_ALLOC_HOST},
	{"cuMemHostAlloc", PROF_CALL_ALLOC_HOST},
	{"cuMemFreeHost", PROF_CALL_FREE_HOST},
	{"cuMemAddressReserve", PROF_CALL_RESERVE},
	{"cuMemAddressFree", PROF_CALL_UNRESERVE},
	{"cuMemCreate", PROF_CALL_CREATE},
	{"cuMemRetainAllocationHandle", PROF_CALL_RETAIN},
	{"cuMemImportFromShareableHandle", PROF_CALL_OTHER},
	{"cuMemRelease", PROF_CALL_RELEASE},
	{"cuMemMap", PROF_CALL_MAP},
	{"cuMemUnmap", PROF_CALL_UNMAP},
	{"cuMemSetAccess", PROF_CALL_ACCESS},
	{"cuMemcpy*", PROF_CALL_COPY},
	{"cuMemset*", PROF_CALL_COPY},
	{"cuStreamSynchronize", PROF_CALL_SYNCHRONIZE},
	{"cuEventSynchronize", PROF_CALL_SYNCHRONIZE},
	{"cuCtxSynchronize", PROF_CALL_SYNCHRONIZE},
	{"cuLaunch*", PROF_CALL_LAUNCH},
	{"cuGraphLaunch", PROF_CALL_LAUNCH},
};

/* Without "_v2", "_ptsz" and "_ptds" at its end. */
static size_t base_length(const char *name)
{
	size_t length = strlen(name);

	if (length > 5 && (!strcmp(name + length - 5, "_ptsz") || !strcmp(name + length - 5, "_ptds")))
		length -= 5;
	if (length > 3 && name[length - 3] == '_' && name[length - 2] == 'v')
		length -= 3;
	return length;
}

enum prof_call_class prof_call_class_of(const char *function)
{
	size_t length = base_length(function);

	for (size_t i = 0; i < sizeof(functions) / sizeof(*functions); i++) {
		const char *name = functions[i].name;
		size_t bytes = strlen(name);
		bool prefix = name[bytes - 1] == '*';
		if (prefix ? !strncmp(function, name, bytes - 1) : bytes == length && !memcmp(function, name, bytes))
			return functions[i].class;
	}
	return PROF_CALL_OTHER;
}
