/*
 * profiler/demangle.c: by GNU's libiberty, if it was there when this was built.
 *
 * Names come from traces, which anybody may have written: one of 400 bytes can stand for one of terabytes, because a mangled name
 * refers to parts of itself. So not __cxa_demangle is asked, which would gather all of it, but libiberty, which hands out piece
 * after piece and keeps nothing: it is left in the middle when there is too much.
 */
#include "demangle.h"

#ifdef PROF_LIBIBERTY

#include <libiberty/demangle.h>
#include <setjmp.h>
#include <string.h>

struct plain {
	char *out;
	size_t bytes, used;
	jmp_buf too_long;
};

static void add_piece(const char *piece, size_t bytes, void *arg)
{
	struct plain *plain = arg;

	if (bytes >= plain->bytes - plain->used)
		longjmp(plain->too_long, 1);
	memcpy(plain->out + plain->used, piece, bytes);
	plain->used += bytes;
	plain->out[plain->used] = 0;
}

const char *prof_demangle(const char *name, char *out, size_t bytes)
{
	struct plain plain = {.out = out, .bytes = bytes};

	if (strncmp(name, "_Z", 2) != 0)
		return name;
	if (setjmp(plain.too_long))
		return name;
	return cplus_demangle_v3_callback(name, DMGL_PARAMS | DMGL_ANSI, add_piece, &plain) && plain.used ? out : name;
}

#else

const char *prof_demangle(const char *name, char *out, size_t bytes)
{
	(void)out;
	(void)bytes;
	return name;
}

#endif
