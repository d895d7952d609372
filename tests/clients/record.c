/*
 * tests/clients/record.c: a library for LD_PRELOAD that writes down what a program's calls of the driver came to: the name of each
 * function, its result, and some of what it returned through pointers, one line a call, to the end of the file $RECORD. It hands
 * everything on to what comes behind it, be that the driver or another library. It knows nothing of kvshare.
 *
 * RECORD_NAMES(F) has all functions of the driver; it is made from the library's symbols when this is built. None of their arguments
 * are floating point, so all of them fit the same twenty words: those that a function does not have are whatever lies there.
 */
#define _GNU_SOURCE
#include "record_names.h"

#include <dlfcn.h>
#include <fcntl.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

typedef uintptr_t word;
typedef unsigned function(word, word, word, word, word, word, word, word, word, word, word, word, word, word, word,
	word, word, word, word, word);

/* Values that do not change from run to run, as addresses do. Bytes 0: as many as the third argument says, and only their sum. */
static const struct out {
	const char *name;
	int argument;
	size_t bytes;
} outs[] = {
	{"cuMemGetInfo_v2", 0, 8},
	{"cuMemGetInfo_v2", 1, 8},
	{"cuMemGetAddressRange_v2", 1, 8},
	{"cuMemAllocPitch_v2", 1, 8},
	{"cuMemGetAccess", 0, 8},
	{"cuMemGetAllocationGranularity", 0, 8},
	{"cuStreamIsCapturing", 1, 4},
	{"cuFuncGetParamInfo", 2, 8},
	{"cuFuncGetParamInfo", 3, 8},
	{"cuGraphGetNodes", 2, 8},
	{"cuMemcpyDtoH_v2", 0, 0},
};

static __thread int depth; /* calls that the driver makes itself are not the program's */

static uint64_t value_of(const struct out *out, const word *arguments)
{
	const unsigned char *at = (const unsigned char *)arguments[out->argument];
	uint64_t value = 0;

	if (out->bytes)
		memcpy(&value, at, out->bytes);
	for (size_t i = 0; !out->bytes && i < arguments[2]; i++)
		value = value * 31 + at[i];
	return value;
}

static void note(const char *name, unsigned result, const word *arguments)
{
	static const char *path;
	char line[512];
	int length = snprintf(line, sizeof(line), "%s %u", name, result), file;

	for (size_t i = 0; i < sizeof(outs) / sizeof(*outs); i++)
		if (!result && !strcmp(outs[i].name, name) && arguments[outs[i].argument])
			length += snprintf(line + length, sizeof(line) - length, " %llx",
				(unsigned long long)value_of(&outs[i], arguments));
	line[length++] = '\n';
	path = path ? path : getenv("RECORD");
	file = path ? open(path, O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0666) : -1;
	if (file < 0 || write(file, line, length) != length)
		abort();
	close(file);
}

#define DEFINE(name)                                                                                                   \
	unsigned name(word a, word b, word c, word d, word e, word f, word g, word h, word i, word j, word k, word l,  \
		word m, word n, word o, word p, word q, word r, word s, word t)                                        \
	{                                                                                                              \
		static function *next;                                                                                 \
		const word arguments[] = {a, b, c, d};                                                                 \
		unsigned result;                                                                                       \
                                                                                                                       \
		if (!next)                                                                                             \
			next = (function *)dlsym(RTLD_NEXT, #name);                                                    \
		if (!next)                                                                                             \
			return 801; /* CUDA_ERROR_NOT_SUPPORTED */                                                     \
		depth++;                                                                                               \
		result = next(a, b, c, d, e, f, g, h, i, j, k, l, m, n, o, p, q, r, s, t);                             \
		if (!--depth)                                                                                          \
			note(#name, result, arguments);                                                                \
		return result;                                                                                         \
	}
RECORD_NAMES(DEFINE)
