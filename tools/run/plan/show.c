/*
 * tools/run/plan/show.c: a plan as a table with a row for each layer and a map whose lines join the layers that share.
 *
 * A group is an owner with its borrowers. It has a lane, a column of the map, from the owner's row to its last
 * borrower's; below that the lane is free for another group, so that the map stays narrow however many layers there
 * are.
 */
#include "plan.h"

#include <errno.h>
#include <langinfo.h>
#include <locale.h>
#include <stdlib.h>
#include <string.h>

/* The map of K's owners or of V's. */
struct map {
	int layers, lanes;
	int *owner; /* [layers] */
	int *last;  /* [layers]: an owner's last borrower; the layer itself if it has none */
	int *lane;  /* [layers]: the lane of its group; -1: it shares with no other */
};

struct strokes {
	const char *owner, *borrower, *across, *down, *crossing, *start, *branch, *end;
};

static const struct strokes utf8_strokes = {"●", "○", "─", "│", "┼", "╮", "┤", "╯"};
static const struct strokes ascii_strokes = {"@", "o", "-", "|", "|", ".", "+", "'"};

/* ---- the map ---- */

static void assign_lanes(struct map *map, int *until /* [layers]: last row that uses a lane */)
{
	for (int layer = 0; layer < map->layers; layer++) {
		int owner = map->owner[layer], lane = 0;

		map->lane[layer] = owner == layer ? -1 : map->lane[owner];
		if (map->last[layer] == layer)
			continue;
		while (lane < map->lanes && until[lane] >= layer)
			lane++;
		if (lane == map->lanes)
			map->lanes++;
		map->lane[layer] = lane;
		until[lane] = map->last[layer];
	}
}

static int map_create(const kvs_plan *plan, enum kvs_k_or_v which, struct map *map)
{
	int layers = kvs_plan_layers(plan);
	int *numbers = malloc(sizeof(*numbers) * 4 * layers);

	if (!numbers)
		return kvs_fail(-ENOMEM, "no memory for a map of %d layers", layers);
	*map = (struct map){.layers = layers, .owner = numbers, .last = numbers + layers, .lane = numbers + 2 * layers};
	for (int layer = 0; layer < layers; layer++) {
		map->owner[layer] = kvs_plan_owner(plan, layer, which);
		map->last[layer] = layer;
		map->last[map->owner[layer]] = layer;
	}
	assign_lanes(map, numbers + 3 * layers);
	return 0;
}

static void map_clear(struct map *map)
{
	free(map->owner);
}

/* A lane is in use in every row between its owner's and its last borrower's. */
static void find_lanes_in_use(const struct map *map, int row, bool *in_use)
{
	memset(in_use, 0, sizeof(*in_use) * map->lanes);
	for (int owner = 0; owner < row; owner++)
		if (map->owner[owner] == owner && map->lane[owner] >= 0 && map->last[owner] > row)
			in_use[map->lane[owner]] = true;
}

static const char *lane_stroke(const struct strokes *strokes, const struct map *map, int row, int lane, bool in_use)
{
	int own = map->lane[row], owner = map->owner[row];

	if (lane > own)
		return in_use ? strokes->down : " ";
	if (lane < own)
		return in_use ? strokes->crossing : strokes->across;
	if (owner == row)
		return strokes->start;
	return map->last[owner] == row ? strokes->end : strokes->branch;
}

/* One row: the layer's own mark, then a character for each lane. */
static void put_map_row(const struct strokes *strokes, const struct map *map, int row, bool *in_use)
{
	find_lanes_in_use(map, row, in_use);
	fputs(map->owner[row] == row ? strokes->owner : strokes->borrower, stdout);
	fputs(map->lane[row] >= 0 ? strokes->across : " ", stdout);
	for (int lane = 0; lane < map->lanes; lane++)
		fputs(lane_stroke(strokes, map, row, lane, in_use[lane]), stdout);
}

/* ---- the table ---- */

static int owned_by(const struct map *map)
{
	int count = 0;

	for (int layer = 0; layer < map->layers; layer++)
		count += map->owner[layer] == layer;
	return count;
}

static double kv_fraction(const struct map *k, const struct map *v)
{
	return (owned_by(k) + owned_by(v)) / (2.0 * k->layers);
}

static void put_borrowers(const struct map *map, int owner, const char *what)
{
	const char *separator = "";

	if (map->last[owner] == owner || map->owner[owner] != owner)
		return;
	printf("  %s", what);
	for (int layer = owner + 1; layer <= map->last[owner]; layer++) {
		if (map->owner[layer] == owner) {
			printf("%s%d", separator, layer);
			separator = ", ";
		}
	}
}

static void put_owner(const struct map *map, int layer)
{
	if (map->owner[layer] == layer)
		fputs("    own", stdout);
	else
		printf("%7d", map->owner[layer]);
}

static bool same_owners(const struct map *k, const struct map *v)
{
	return !memcmp(k->owner, v->owner, sizeof(*k->owner) * k->layers);
}

static int put_table(const struct map *k, const struct map *v)
{
	bool same = same_owners(k, v), *in_use = calloc(k->layers, sizeof(*in_use));
	const struct strokes *strokes = strcmp(nl_langinfo(CODESET), "UTF-8") ? &ascii_strokes : &utf8_strokes;

	if (!in_use)
		return kvs_fail(-ENOMEM, "no memory for a map of %d layers", k->layers);
	printf("layer      K      V  %-*s", k->lanes + 2, same ? "map" : "K");
	if (!same)
		printf("  %-*s", v->lanes + 2, "V");
	puts("  read by");
	for (int layer = 0; layer < k->layers; layer++) {
		printf("%5d", layer);
		put_owner(k, layer);
		put_owner(v, layer);
		fputs("  ", stdout);
		put_map_row(strokes, k, layer, in_use);
		if (!same) {
			fputs("  ", stdout);
			put_map_row(strokes, v, layer, in_use);
		}
		put_borrowers(k, layer, same ? "" : "K: ");
		if (!same)
			put_borrowers(v, layer, "V: ");
		putchar('\n');
	}
	free(in_use);
	return 0;
}

static void put_heading(const char *name, const struct map *k, const struct map *v)
{
	char shown[512];

	printf("%s: %d layers\n", kvs_visible(name, shown, sizeof(shown)), k->layers);
	printf("  K          %d of %d layers own theirs\n", owned_by(k), k->layers);
	printf("  V          %d of %d\n", owned_by(v), v->layers);
	printf("  KV memory  %.1f %% of what it is without sharing\n", 100 * kv_fraction(k, v));
}

/* ---- how it was found ---- */

/* A string of the file, made safe for a terminal; NULL if it has none. */
static const char *text_of(const json_t *object, const char *key, char shown[static 256])
{
	const char *text = json_string_value(json_object_get(object, key));

	return text ? kvs_visible(text, shown, 256) : NULL;
}

static void put_model(const json_t *model)
{
	char shown[256];

	if (text_of(model, "architecture", shown))
		printf("  made for   %s, %lld KV heads of %lld dimensions\n", shown,
			(long long)json_integer_value(json_object_get(model, "kv_heads")),
			(long long)json_integer_value(json_object_get(model, "head_dim")));
}

static void put_loss(const json_t *nll)
{
	const json_t *full = json_object_get(nll, "full"), *shared = json_object_get(nll, "shared");

	if (json_is_number(full) && json_is_number(shared))
		printf("  loss       %.4f nats a token, %+.4f against %.4f without sharing\n",
			json_number_value(shared), json_number_value(shared) - json_number_value(full),
			json_number_value(full));
	else if (json_is_number(full))
		printf("  loss       not measured; %.4f nats a token without sharing\n", json_number_value(full));
}

static void put_compensation(const json_t *record)
{
	const json_t *plain = json_object_get(record, "plain_nll"), *nll = json_object_get(record, "nll"),
		     *full = json_object_get(
			     record, "full_nll"); /* on the text held back from the fit, not the search's */

	if (!json_is_number(plain) || !json_is_number(nll))
		return;
	printf("  matrices   refitted, %s: loss %.4f nats a token, of the plan alone %.4f",
		json_is_string(json_object_get(record, "in_weights")) ? "in the model's weights"
		: json_is_true(json_object_get(record, "applied"))    ? "in the file beside it"
								      : "and left out",
		json_number_value(nll), json_number_value(plain));
	if (json_is_number(full))
		printf(", without sharing %.4f", json_number_value(full));
	putchar('\n');
}

/* A plan's calibration may be any object: fields that are missing or of another type are skipped. */
static void put_calibration(const json_t *calibration)
{
	static const char *const words[][2] = {{"  method     %s\n", "method"}, {"  policy     %s\n", "policy"},
		{"  order      %s\n", "order"}, {"  best walk  %s\n", "walk"}, {"  ended      %s\n", "end"}};
	static const char *const numbers[][2] = {{"  threshold  %.4g\n", "threshold"},
		{"  cosine     %.4f to the full model's hidden states\n", "hidden_cosine"}};
	char shown[256];

	for (size_t i = 0; i < sizeof(words) / sizeof(*words); i++)
		if (text_of(calibration, words[i][1], shown))
			printf(words[i][0], shown);
	for (size_t i = 0; i < sizeof(numbers) / sizeof(*numbers); i++) {
		const json_t *number = json_object_get(calibration, numbers[i][1]);
		if (json_is_number(number))
			printf(numbers[i][0], json_number_value(number));
	}
	put_loss(json_object_get(calibration, "nll"));
	put_compensation(json_object_get(calibration, "compensation"));
	if (json_is_array(json_object_get(calibration, "trials")))
		printf("  trials     %zu\n", json_array_size(json_object_get(calibration, "trials")));
}

/* The plan's own file, with figures that follow from it. */
static int put_json(json_t *document, const struct map *k, const struct map *v)
{
	json_object_del(document, "kvshare_plan"); /* this is not a plan file */
	if (json_object_set_new(document, "k_owned", json_integer(owned_by(k))) ||
		json_object_set_new(document, "v_owned", json_integer(owned_by(v))) ||
		json_object_set_new(document, "kv_fraction", json_real(kv_fraction(k, v))))
		return kvs_fail(-ENOMEM, "no memory for the JSON report");
	return run_print_json(json_incref(document));
}

static int put_text(const char *name, const json_t *document, const struct map *k, const struct map *v)
{
	setlocale(LC_CTYPE, "");
	put_heading(name, k, v);
	put_model(json_object_get(document, "model"));
	put_calibration(json_object_get(document, "calibration"));
	putchar('\n');
	return put_table(k, v);
}

static int plan_document(const kvs_plan *plan, json_t **document)
{
	char *text;
	int err = kvs_plan_text(plan, &text);

	if (err)
		return err;
	*document = json_loads(text, 0, NULL);
	free(text);
	return *document ? 0 : kvs_fail(-ENOMEM, "no memory for a plan's text");
}

int plan_show(const kvs_plan *plan, const char *name, bool json)
{
	struct map k, v;
	json_t *document;
	int err = plan_document(plan, &document);

	if (err)
		return err;
	err = map_create(plan, KVS_K, &k);
	if (err)
		goto out_document;
	err = map_create(plan, KVS_V, &v);
	if (err)
		goto out_k;
	err = json ? put_json(document, &k, &v) : put_text(name, document, &k, &v);
	map_clear(&v);
out_k:
	map_clear(&k);
out_document:
	json_decref(document);
	return err;
}
