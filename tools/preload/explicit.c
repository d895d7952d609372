/*
 * tools/preload/explicit.c: layouts that name each place: the sizes of the allocations in the order in which the program makes
 * them, and runs of layers in them.
 *
 *   explicit:size=34MiB,size=16MiB,k=0:2MiB:4MiB:2:8MiB,k=1:0:4MiB:2:8MiB,v=...
 *
 * A run is ALLOCATION:OFFSET:BYTES, for one layer, or ALLOCATION:OFFSET:BYTES:LAYERS:STRIDE. Runs of K come in the order of the
 * layers, and so do runs of V. A stride may be negative: layers that lie the other way round.
 */
#include "layout.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

static const char *const names[] = {"K", "V"};

static int size_add(struct shim_places *places, const char *value, size_t length)
{
	size_t bytes;

	if (places->allocations == 2 * KVS_PLAN_MAX_LAYERS)
		return kvs_fail(-EINVAL, "layout: more than %d allocations", 2 * KVS_PLAN_MAX_LAYERS);
	if (shim_bytes_parse(value, length, &bytes) || !bytes)
		return kvs_fail(-EINVAL, "layout: size is \"%.*s\"; a number such as 4194304 or 4MiB is expected",
			(int)length, value);
	places->bytes[places->allocations++] = bytes;
	return 0;
}

/* The numbers of a run, of which the last may be negative. */
static int run_read(const char *value, size_t length, size_t number[5], bool *down)
{
	size_t count = 0, at = 0;

	*down = false;
	while (count < 5 && at <= length) {
		size_t word = strcspn(value + at, ":,");

		*down = count == 4 && value[at] == '-';
		if (shim_bytes_parse(value + at + *down, word - *down, &number[count++]))
			return -EINVAL;
		at += word + 1;
	}
	return at == length + 1 && (count == 3 || count == 5) ? 0 : -EINVAL;
}

static int run_add(struct shim_places *places, int which, const char *value, size_t length)
{
	size_t number[5] = {0, 0, 0, 1, 0}, offset;
	int *layers = &places->layers[which];
	bool down;

	if (run_read(value, length, number, &down))
		return kvs_fail(-EINVAL,
			"layout: a run of %s is \"%.*s\"; ALLOCATION:OFFSET:BYTES or "
			"ALLOCATION:OFFSET:BYTES:LAYERS:STRIDE is expected",
			names[which], (int)length, value);
	if (number[3] < 1 || number[3] > (size_t)(KVS_PLAN_MAX_LAYERS - *layers))
		return kvs_fail(-EINVAL, "layout: a run of %s has %zu layers; there may be %d in all", names[which],
			number[3], KVS_PLAN_MAX_LAYERS);
	if (number[0] >= (size_t)places->allocations)
		return kvs_fail(-EINVAL, "layout: %s of layer %d is in allocation %zu, and %d are given", names[which],
			*layers, number[0], places->allocations);
	for (size_t i = 0; i < number[3]; i++) {
		size_t whole = places->bytes[number[0]];

		if (i && number[4] > whole)
			offset = whole;
		else
			offset = down ? number[1] - i * number[4] : number[1] + i * number[4];
		if (!number[2] || number[2] > whole || offset > whole - number[2])
			return kvs_fail(-EINVAL,
				"layout: %s of layer %d takes %zu bytes at offset %zu of allocation %zu, which has "
				"%zu",
				names[which], *layers, number[2], offset, number[0], whole);
		places->at[which][(*layers)++] = (struct shim_place){(int)number[0], offset, number[2]};
	}
	return 0;
}

static const struct shim_place *place_of(const struct shim_places *places, int i)
{
	return &places->at[i % 2][i / 2];
}

static int overlaps_check(const struct shim_places *places)
{
	for (int i = 0; i < 2 * places->layers[KVS_K]; i++) {
		const struct shim_place *a = place_of(places, i);

		for (int j = 0; j < i; j++) {
			const struct shim_place *b = place_of(places, j);

			if (a->allocation == b->allocation && a->offset < b->offset + b->bytes &&
				b->offset < a->offset + a->bytes)
				return kvs_fail(-EINVAL, "layout: %s of layer %d overlaps %s of layer %d", names[i % 2],
					i / 2, names[j % 2], j / 2);
		}
	}
	return 0;
}

static int places_check(const struct shim_places *places, size_t layers)
{
	if (places->layers[0] != places->layers[1] || !places->layers[0])
		return kvs_fail(
			-EINVAL, "layout: it has K of %d layers and V of %d", places->layers[0], places->layers[1]);
	if (layers && layers != (size_t)places->layers[0])
		return kvs_fail(
			-EINVAL, "layout: layers is %zu, and K and V of %d are given", layers, places->layers[0]);
	return overlaps_check(places);
}

int shim_explicit_field(
	struct shim_places *places, const char *key, size_t key_length, const char *value, size_t length)
{
	if (key_length == 4 && !strncmp(key, "size", 4))
		return size_add(places, value, length);
	return key_length == 1 && (*key == 'k' || *key == 'v') ? run_add(places, *key == 'v', value, length) : -ENOENT;
}

int shim_explicit_make(struct shim_places *places, size_t layers, size_t skip, struct shim_layout *out)
{
	int err = places_check(places, layers);

	if (!err && skip > 1000000)
		err = kvs_fail(-EINVAL, "layout: skip is too large");
	if (err)
		return err;
	*out = (struct shim_layout){
		.kind = SHIM_EXPLICIT, .layers = places->layers[0], .skip = (int)skip, .places = places};
	for (int layer = 0; layer < out->layers; layer++) {
		for (int which = 0; which < 2; which++) {
			size_t *largest = which ? &out->v_bytes : &out->k_bytes, bytes = places->at[which][layer].bytes;

			*largest = bytes > *largest ? bytes : *largest;
		}
	}
	return 0;
}

/* The last granule of what shares may hold nothing else, unless the allocation ends there. */
int shim_explicit_check(const struct shim_layout *layout, enum kvs_k_or_v which, int layer, size_t granule)
{
	struct shim_place place = layout->places->at[which][layer];
	size_t whole = (place.bytes + granule - 1) / granule * granule;

	if (place.offset % granule == 0 &&
		(place.bytes == whole || place.offset + place.bytes == layout->places->bytes[place.allocation]))
		return 0;
	return kvs_fail(-EINVAL,
		"%s of layer %d takes %zu bytes at offset %zu of allocation %d, which are not whole granules of %zu: "
		"%zu bytes at offset %zu would align it",
		names[which], layer, place.bytes, place.offset, place.allocation, granule, whole,
		(place.offset + granule - 1) / granule * granule);
}

int shim_explicit_pair(const struct shim_layout *layout, enum kvs_k_or_v which, int layer, int owner)
{
	const struct shim_place *places = layout->places->at[which];

	if (places[layer].bytes != places[owner].bytes)
		return kvs_fail(-EINVAL, "%s of layer %d takes %zu bytes, and that of layer %d, its owner, %zu",
			names[which], layer, places[layer].bytes, owner, places[owner].bytes);
	if (places[layer].allocation < places[owner].allocation)
		return kvs_fail(-EINVAL,
			"%s of layer %d is in allocation %d, and that of layer %d, its owner, comes later, in %d",
			names[which], layer, places[layer].allocation, owner, places[owner].allocation);
	return 0;
}
