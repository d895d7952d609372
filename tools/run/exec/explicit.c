/*
 * tools/run/exec/explicit.c: an explicit layout for a cache that no other kind describes, from the places to which K and V of
 * each layer in turn were stored. It is a guess, so it has to be plausible: all tensors have the size of the narrowest gap
 * between two places, which is a granule or more, and they cover at least half of each allocation.
 */
#include "exec.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>

/* From a place to the next one in its allocation, or to the end. */
static size_t room_behind(const struct exec_places *p, size_t i)
{
	size_t room = p->bytes[p->at[i].allocation] - p->at[i].offset;

	for (size_t j = 0; j < p->count; j++) {
		size_t distance = p->at[j].offset - p->at[i].offset;

		if (p->at[j].allocation == p->at[i].allocation && p->at[j].offset > p->at[i].offset && distance < room)
			room = distance;
	}
	return room;
}

static size_t places_in(const struct exec_places *p, size_t allocation)
{
	size_t count = 0;

	for (size_t i = 0; i < p->count; i++)
		count += p->at[i].allocation == allocation;
	return count;
}

static size_t tensor_bytes(const struct exec_places *p)
{
	size_t bytes = SIZE_MAX;

	for (size_t i = 0; i < p->count; i++) {
		size_t room = room_behind(p, i);

		bytes = room < bytes ? room : bytes;
	}
	for (size_t i = 0; i < p->count; i++)
		if (places_in(p, p->at[i].allocation) * bytes < p->bytes[p->at[i].allocation] / 2)
			return 0;
	return bytes;
}

static bool are_same(const struct exec_places *p, size_t a, size_t b)
{
	return p->bytes[a] == p->bytes[b] && p->reserved[a] == p->reserved[b];
}

size_t exec_same_before(const struct exec_places *p, size_t allocation)
{
	size_t count = 0;

	for (size_t i = 0; i < allocation; i++)
		count += are_same(p, i, allocation);
	return count;
}

/*
 * The shim takes the first allocation of each size in its turn: so those of the first size that come before are skipped,
 * and none of a cache's sizes may come between that is not the cache's.
 */
static bool turns_find(const struct exec_places *p, size_t *skip)
{
	size_t first = p->allocations;

	for (size_t i = p->allocations; i-- > 0;) {
		if (!places_in(p, i))
			continue;
		for (size_t j = i + 1; first < p->allocations && j < first; j++)
			if (are_same(p, j, first))
				return false;
		first = i;
	}
	if (first == p->allocations)
		return false;
	*skip = exec_same_before(p, first);
	return true;
}

static size_t number_of(const struct exec_places *p, size_t allocation)
{
	size_t number = 0;

	for (size_t i = 0; i < allocation; i++)
		number += places_in(p, i) > 0;
	return number;
}

static void runs_write(FILE *out, const struct exec_places *p, size_t which, size_t bytes)
{
	fprintf(out, ",\n \"%s\": [", which ? "v" : "k");
	for (size_t i = which; i < p->count; i += 2)
		fprintf(out, "%s\n  {\"allocation\": %zu, \"offset\": %zu, \"bytes\": %zu}", i == which ? "" : ",",
			number_of(p, p->at[i].allocation), p->at[i].offset, bytes);
	fputs("]", out);
}

int exec_explicit_guess(const struct exec_places *p, size_t *bytes, char **text)
{
	const char *comma = "";
	size_t length, skip;
	FILE *out;

	*bytes = p->count < 4 || p->count % 2 ? 0 : tensor_bytes(p);
	if (!*bytes || *bytes < p->granule || !turns_find(p, &skip))
		return kvs_fail(-ENOENT, "the stores are no layout");
	out = open_memstream(text, &length);
	if (!out)
		return kvs_fail(-ENOMEM, "no memory for a layout");
	fprintf(out, "{\"kvshare_layout\": 1, \"kind\": \"explicit\", \"skip\": %zu, \"allocations\": [", skip);
	for (size_t i = 0; i < p->allocations; i++) {
		if (places_in(p, i)) {
			fprintf(out, "%s%zu", comma, p->bytes[i]);
			comma = ", ";
		}
	}
	fputs("]", out);
	runs_write(out, p, 0, *bytes);
	runs_write(out, p, 1, *bytes);
	fputs("}\n", out);
	if (!fclose(out))
		return 0;
	free(*text);
	return kvs_fail(-ENOMEM, "no memory for a layout");
}
