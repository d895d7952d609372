/*
 * tools/preload/layout.c: the layout of a cache, from text, and the places of its tensors.
 */
#include "layout.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

/* How much larger than its tensors a slab may be: allocators round up, and leave room behind. */
#define SLAB_SLACK_BYTES ((size_t)1 << 20)
/* Reservations are whole granules. */
#define RESERVED_SLACK_BYTES (((size_t)2 << 20) - 1)

static const char *const kinds[] = {"slab", "tensors", "halves", "explicit", NULL};
static const char *const orders[] = {"kv", "kkvv", NULL};
static const char *const memories[] = {"allocated", "reserved", NULL};

static int word_find(const char *const *words, const char *text, size_t length)
{
	for (int i = 0; words[i]; i++)
		if (strlen(words[i]) == length && !strncmp(words[i], text, length))
			return i;
	return -1;
}

int shim_bytes_parse(const char *text, size_t length, size_t *out)
{
	static const struct {
		const char *suffix;
		int shift;
	} units[] = {{"", 0}, {"B", 0}, {"K", 10}, {"KiB", 10}, {"M", 20}, {"MiB", 20}, {"G", 30}, {"GiB", 30}};
	char word[32], *end;
	unsigned long long value;

	if (!length || length >= sizeof(word) || text[0] < '0' || text[0] > '9')
		return -EINVAL;
	memcpy(word, text, length);
	word[length] = '\0';
	errno = 0;
	value = strtoull(word, &end, 10);
	for (size_t i = 0; !errno && i < sizeof(units) / sizeof(*units); i++) {
		if (!strcmp(end, units[i].suffix) && value <= SIZE_MAX >> 1 >> units[i].shift) {
			*out = (size_t)value << units[i].shift;
			return 0;
		}
	}
	return -EINVAL;
}

/* What the text gave, before it is known to fit together. */
struct fields {
	size_t layers, k, v, bytes, stride, offset, size, skip;
	int memory; /* of memories */
	int order;
	struct shim_places *places; /* explicit */
};

static size_t *field_of(struct fields *fields, const char *key, size_t length)
{
	const struct {
		const char *name;
		size_t *field;
	} names[] = {{"layers", &fields->layers}, {"k", &fields->k}, {"v", &fields->v}, {"k_bytes", &fields->k},
		{"v_bytes", &fields->v}, {"bytes", &fields->bytes}, {"stride", &fields->stride},
		{"offset", &fields->offset}, {"size", &fields->size}, {"skip", &fields->skip}};

	for (size_t i = 0; i < sizeof(names) / sizeof(*names); i++)
		if (strlen(names[i].name) == length && !strncmp(names[i].name, key, length))
			return names[i].field;
	return NULL;
}

static int field_set(struct fields *fields, const char *key, size_t key_length, const char *value, size_t length)
{
	size_t *field = field_of(fields, key, key_length);
	int err = fields->places ? shim_explicit_field(fields->places, key, key_length, value, length) : -ENOENT;

	if (err != -ENOENT)
		return err;
	if (fields->places && field != &fields->layers && field != &fields->skip)
		field = NULL; /* those of the other kinds say nothing here */
	if (!fields->places && key_length == 5 && !strncmp(key, "order", 5)) {
		fields->order = word_find(orders, value, length);
		return fields->order < 0 ? kvs_fail(-EINVAL, "layout: order is \"%.*s\"; kv or kkvv is expected",
						   (int)length, value)
					 : 0;
	}
	if (key_length == 6 && !strncmp(key, "memory", 6)) {
		fields->memory = word_find(memories, value, length);
		return fields->memory < 0
			       ? kvs_fail(-EINVAL, "layout: memory is \"%.*s\"; allocated or reserved is expected",
					 (int)length, value)
			       : 0;
	}
	if (!field)
		return kvs_fail(-EINVAL, "layout: there is no \"%.*s\"", (int)key_length, key);
	if (shim_bytes_parse(value, length, field))
		return kvs_fail(-EINVAL, "layout: %.*s is \"%.*s\"; a number such as 4194304 or 4MiB is expected",
			(int)key_length, key, (int)length, value);
	return 0;
}

static int layout_make(int kind, const struct fields *fields, struct shim_layout *out)
{
	size_t k = fields->k, v = fields->v;

	if (kind == SHIM_TENSORS && fields->bytes)
		k = v = fields->bytes;
	if (kind == SHIM_HALVES && fields->bytes)
		k = v = fields->bytes / 2;
	if (kind != SHIM_SLAB && k != v)
		return kvs_fail(-EINVAL, "layout: K and V of %s have one size (bytes=4MiB)", kinds[kind]);
	if (fields->layers < 1 || fields->layers > KVS_PLAN_MAX_LAYERS)
		return kvs_fail(
			-EINVAL, "layout: layers is %zu; 1 to %d are expected", fields->layers, KVS_PLAN_MAX_LAYERS);
	if (!k || !v || k > SIZE_MAX / 4 / fields->layers || v > SIZE_MAX / 4 / fields->layers)
		return kvs_fail(-EINVAL, "layout: the sizes of K and V of one layer are missing or too large (%s)",
			kind == SHIM_SLAB ? "k=4MiB,v=4MiB" : "bytes=4MiB");
	if (fields->stride && (fields->stride < k + v || fields->stride > SIZE_MAX / 4 / fields->layers))
		return kvs_fail(-EINVAL, "layout: stride is %zu, K and V of a layer take %zu", fields->stride, k + v);
	if (fields->skip > 1000000 || fields->offset > SIZE_MAX / 4)
		return kvs_fail(-EINVAL, "layout: skip or offset is too large");
	*out = (struct shim_layout){.kind = kind,
		.order = fields->order,
		.layers = (int)fields->layers,
		.k_bytes = k,
		.v_bytes = v,
		.stride_bytes = fields->stride ? fields->stride : k + v,
		.offset_bytes = fields->offset,
		.size_bytes = fields->size,
		.skip = (int)fields->skip};
	return 0;
}

static int fields_read(const char *text, struct fields *fields)
{
	int err = 0;

	while (!err && *text) {
		size_t key = strcspn(text, "=,"), value = text[key] == '=' ? strcspn(text + key + 1, ",") : 0;

		err = field_set(fields, text, key, text + key + (value != 0), value);
		text += key + (text[key] == '=') + value;
		text += *text == ',';
	}
	return err;
}

int shim_layout_parse(const char *text, struct shim_layout *out)
{
	size_t length = strcspn(text, ":");
	int kind = word_find(kinds, text, length), err;
	struct fields fields = {0};

	if (kind < 0 || text[length] != ':')
		return kvs_fail(-EINVAL,
			"layout: \"%s\" is none; slab:..., tensors:..., halves:... or explicit:... is expected", text);
	if (kind == SHIM_EXPLICIT && !(fields.places = calloc(1, sizeof(*fields.places))))
		return kvs_fail(-ENOMEM, "no memory for a layout");
	err = fields_read(text + length + 1, &fields);
	if (!err)
		err = fields.places ? shim_explicit_make(fields.places, fields.layers, fields.skip, out)
				    : layout_make(kind, &fields, out);
	if (err)
		free(fields.places);
	else
		out->reserved = fields.memory == 1;
	return err;
}

void shim_layout_clear(struct shim_layout *layout)
{
	free(layout->places);
	layout->places = NULL;
}

struct shim_place shim_layout_place(const struct shim_layout *layout, enum kvs_k_or_v which, int layer)
{
	size_t bytes = which == KVS_K ? layout->k_bytes : layout->v_bytes, l = (size_t)layer;
	bool interleaved = layout->order == SHIM_KV;

	if (layout->kind == SHIM_EXPLICIT)
		return layout->places->at[which][layer];
	if (layout->kind == SHIM_HALVES)
		return (struct shim_place){layer, which == KVS_K ? 0 : layout->k_bytes, bytes};
	if (layout->kind == SHIM_TENSORS)
		return (struct shim_place){
			interleaved ? 2 * layer + (which == KVS_V) : layer + (which == KVS_V) * layout->layers, 0,
			bytes};
	if (interleaved)
		return (struct shim_place){0,
			layout->offset_bytes + l * layout->stride_bytes + (which == KVS_K ? 0 : layout->k_bytes),
			bytes};
	return (struct shim_place){0,
		layout->offset_bytes +
			(which == KVS_K ? l * bytes : (size_t)layout->layers * layout->k_bytes + l * bytes),
		bytes};
}

int shim_layout_allocations(const struct shim_layout *layout)
{
	if (layout->kind == SHIM_EXPLICIT)
		return layout->places->allocations;
	return layout->kind == SHIM_SLAB ? 1 : layout->kind == SHIM_HALVES ? layout->layers : 2 * layout->layers;
}

/* From the start of the slab to the end of its last tensor. */
static size_t slab_bytes(const struct shim_layout *layout)
{
	struct shim_place last = shim_layout_place(layout, KVS_V, layout->layers - 1);

	return last.offset + last.bytes;
}

bool shim_layout_fits(const struct shim_layout *layout, size_t bytes)
{
	size_t least, slack;

	if (layout->kind == SHIM_EXPLICIT) {
		for (int i = 0; i < layout->places->allocations; i++)
			if (layout->places->bytes[i] == bytes)
				return true;
		return false;
	}
	least = layout->kind == SHIM_SLAB ? slab_bytes(layout)
					  : layout->k_bytes + (layout->kind == SHIM_HALVES ? layout->v_bytes : 0);
	if (layout->size_bytes)
		return bytes == layout->size_bytes && bytes >= least;
	slack = layout->reserved ? RESERVED_SLACK_BYTES : layout->kind == SHIM_SLAB ? SLAB_SLACK_BYTES : 0;
	return bytes >= least && bytes - least <= slack;
}

bool shim_layout_fits_at(const struct shim_layout *layout, int number, size_t bytes)
{
	return layout->kind == SHIM_EXPLICIT ? layout->places->bytes[number] == bytes : shim_layout_fits(layout, bytes);
}

/* A tensor that shares starts at a granule, and its last granule holds nothing else: it is whole, or its allocation ends with it. */
static int place_check(const struct shim_layout *layout, enum kvs_k_or_v which, int layer, size_t granule)
{
	struct shim_place place = shim_layout_place(layout, which, layer);
	bool ends = layout->kind == SHIM_TENSORS && layout->size_bytes <= place.bytes;

	if (layout->kind == SHIM_EXPLICIT)
		return shim_explicit_check(layout, which, layer, granule);
	if (place.offset % granule == 0 && (ends || place.bytes % granule == 0))
		return 0;
	return kvs_fail(-EINVAL,
		"%s of layer %d takes %zu bytes at offset %zu, which are not whole granules of %zu: %zu bytes a layer "
		"would align it (choose a context size with that in mind)",
		which == KVS_K ? "K" : "V", layer, place.bytes, place.offset, granule,
		(place.bytes + granule - 1) / granule * granule);
}

/* Each tensor that is an allocation of its own is rounded up to whole granules, and there is a sink: small ones had better not share. */
static int size_check(const struct shim_layout *layout, const struct shim_owners *owners, size_t granule)
{
	size_t rounded = (layout->k_bytes + granule - 1) / granule * granule, shared = 0, kept = 0;
	bool lends[2 * KVS_PLAN_MAX_LAYERS] = {0};

	for (int i = 0; i < 2 * layout->layers; i++) {
		int owner = 2 * shim_owner(owners, i / 2, i % 2 ? KVS_V : KVS_K) + i % 2;

		shared += owner != i;
		kept += owner != i && !lends[owner];
		lends[owner] |= owner != i;
	}
	if (layout->kind != SHIM_TENSORS || layout->reserved || !shared ||
		kept * rounded + granule <= (shared + kept) * layout->k_bytes)
		return 0;
	return kvs_fail(-EINVAL,
		"tensors of %zu bytes would take more memory shared, in blocks of %zu bytes, than alone",
		layout->k_bytes, granule);
}

int shim_layout_check(const struct shim_layout *layout, const struct shim_owners *owners, size_t granule)
{
	int err = 0;

	if (owners->layers != layout->layers)
		return kvs_fail(-EINVAL, "the plan has %d layers, the layout %d", owners->layers, layout->layers);
	for (int i = 0; !err && i < 2 * layout->layers; i++) {
		enum kvs_k_or_v which = i % 2 ? KVS_V : KVS_K;
		int owner = shim_owner(owners, i / 2, which);

		if (owner == i / 2)
			continue;
		if (layout->kind == SHIM_EXPLICIT)
			err = shim_explicit_pair(layout, which, i / 2, owner);
		if (!err && granule)
			err = place_check(layout, which, i / 2, granule);
		if (!err && granule)
			err = place_check(layout, which, owner, granule);
	}
	return err || !granule ? err : size_check(layout, owners, granule);
}

/* ---- owners ---- */

int shim_owner(const struct shim_owners *owners, int layer, enum kvs_k_or_v which)
{
	return (which == KVS_K ? owners->k : owners->v)[layer];
}

bool shim_owners_share(const struct shim_owners *owners)
{
	for (int layer = 0; layer < owners->layers; layer++) {
		if (owners->k[layer] != layer || owners->v[layer] != layer)
			return true;
	}
	return false;
}

static int list_parse(const char *text, int *owner, int *layers)
{
	for (*layers = 0; *text; ++*layers) {
		char *end;
		unsigned long value = strtoul(text, &end, 10);

		if (*layers == KVS_PLAN_MAX_LAYERS || *text < '0' || *text > '9' || (*end && (*end != ',' || !end[1])))
			return kvs_fail(-EINVAL, "owners: \"%s\" is no list such as 0,1,2,1", text);
		if (value > (unsigned long)*layers)
			return kvs_fail(-EINVAL, "owners: layer %d borrows from layer %lu, which comes after it",
				*layers, value);
		owner[*layers] = (int)value;
		if (owner[value] != (int)value)
			return kvs_fail(-EINVAL, "owners: layer %d borrows from layer %lu, which borrows itself",
				*layers, value);
		text = *end ? end + 1 : end;
	}
	return *layers ? 0 : kvs_fail(-EINVAL, "owners: the list is empty");
}

int shim_owners_parse(const char *k, const char *v, struct shim_owners *out)
{
	int v_layers, err = list_parse(k, out->k, &out->layers);

	if (!err)
		err = list_parse(v ? v : k, out->v, &v_layers);
	if (!err && v_layers != out->layers)
		err = kvs_fail(-EINVAL, "owners: %d layers of K and %d of V", out->layers, v_layers);
	return err;
}
