/*
 * tools/preload/maps.h: tensor maps (cuTensorMapEncode*) that the program has made: opaque words in the parameters of a kernel that tell
 * it where a tensor lies (maps.c).
 */
#ifndef SHIM_MAPS_H
#define SHIM_MAPS_H

#include "preload.h"

#define SHIM_MAP_ALIGN 64 /* in the parameters ("must be 64-byte aligned": PTX ISA, tensor-map objects) */

/* What lies between the first and the last byte of a map's tensor. */
struct shim_map {
	CUdeviceptr address;
	size_t bytes;
};

extern atomic_bool shim_map_any; /* the program has made one */
bool shim_map_known(const unsigned char *value, struct shim_map *out);

/* A parameter of so many bytes may hold a known map. */
static inline bool shim_map_may_be_in(size_t bytes)
{
	return bytes >= sizeof(CUtensorMap) && atomic_load_explicit(&shim_map_any, memory_order_relaxed);
}

/* A known map `at` bytes into a parameter of `bytes` bytes. */
static inline bool shim_map_at(const unsigned char *value, size_t at, size_t bytes, struct shim_map *out)
{
	return at % SHIM_MAP_ALIGN == 0 && shim_map_may_be_in(bytes - at) && shim_map_known(value + at, out);
}

/* How a map lies to what is shared. */
enum shim_map_place {
	SHIM_MAP_ELSEWHERE, /* or of an owner */
	SHIM_MAP_BORROWED,  /* all of it in one tensor that borrows */
	SHIM_MAP_SPANS      /* of several, one of which borrows: no address is right for all */
};
enum shim_map_place shim_map_place(const struct shim_ranges *ranges, const struct shim_map *map, bool *shared);
/* Makes a map that is SHIM_MAP_BORROWED one of the sink. */
void shim_map_redirect(const struct shim_ranges *ranges, unsigned char *value, const struct shim_map *map);
/* A launch is handed a map that spans: says so once. */
void shim_map_spans(const char *kernel);

#endif
