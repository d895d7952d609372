/*
 * calib/study/given.c: plans that a study did not find itself, beside those that it did: each is measured on every text alone, and
 * once more with its refitted matrices, if it has any.
 */
#include "study.h"

#include <errno.h>
#include <jansson.h>
#include <stdlib.h>
#include <string.h>

static int no_memory(void)
{
	return kvs_fail(-ENOMEM, "no memory for the plans of a study");
}

/* ---- before ---- */

static int take_owners(struct kvs_study *study, const kvs_plan *plan, struct study_point *point)
{
	int layers = study->layers;

	point->owners = malloc(sizeof(*point->owners) * 2 * layers);
	if (!point->owners)
		return no_memory();
	for (int i = 0; i < 2 * layers; i++) {
		point->owners[i] = kvs_plan_owner(plan, i % layers, i < layers ? KVS_K : KVS_V);
		point->tensors += point->owners[i] != i % layers;
	}
	point->token_bytes = study_token_bytes(study, point->tensors, false);
	return 0;
}

static int take(struct kvs_study *study, const struct kvs_study_plan *from)
{
	struct study_given *given = &study->given[study->given_count++];
	const char *slash = strrchr(from->name, '/');
	int err;

	given->plan = from->plan;
	given->patch = from->patch;
	given->title = strdup(slash ? slash + 1 : from->name);
	err = given->title ? take_owners(study, from->plan, &given->alone) : no_memory();
	if (!err && from->patch)
		err = take_owners(study, from->plan, &given->with);
	return err;
}

int study_take_given(struct kvs_study *study, const struct kvs_study_options *options)
{
	int err = 0;

	for (int i = 0; i < options->plan_count && !err; i++)
		err = take(study, &options->plans[i]);
	return err;
}

void study_free_given(struct kvs_study *study)
{
	for (int i = 0; i < study->given_count; i++) {
		struct study_given *given = &study->given[i];
		free(given->title);
		free(given->alone.owners);
		free(given->alone.sample);
		free(given->with.owners);
		free(given->with.sample);
	}
}

/* ---- JSON ---- */

/* A plan's matrices are told by the digest that it has of them. */
static json_t *describe(const struct study_given *given)
{
	json_t *record = given->patch ? calib_plan_record(given->plan) : NULL;
	json_t *patch = json_object_get(json_object_get(record, "compensation"), "patch");
	json_t *object = json_pack("{s:s,s:f}", "name", given->title, "shared", given->alone.tensors / 2.0);

	if (object && patch && json_object_set(object, "patch", patch)) {
		json_decref(object);
		object = NULL;
	}
	json_decref(record);
	return object;
}

int study_describe_given(struct kvs_study *study)
{
	json_t *plans = json_array();
	int failed = plans ? 0 : -1;

	for (int i = 0; i < study->given_count && !failed; i++)
		failed = json_array_append_new(plans, describe(&study->given[i]));
	if (!failed && study->given_count)
		failed = json_object_set(study->settings, "plans", plans);
	json_decref(plans);
	return failed ? no_memory() : 0;
}

static json_t *result_json(const struct kvs_study *study, const struct study_given *given)
{
	json_t *alone = study_point_json(study, &given->alone, given->alone.tensors / 2, false),
	       *with = given->patch ? study_point_json(study, &given->with, given->with.tensors / 2, false) : NULL;
	json_t *object = json_pack("{s:s,s:o}", "name", given->title, "alone", alone);

	if (given->patch && json_object_set_new(object, "with_matrices", with)) {
		json_decref(object);
		return NULL;
	}
	return object;
}

int study_given_json(const struct kvs_study *study, json_t *object)
{
	json_t *plans = json_array();
	int failed = plans ? 0 : -1;

	for (int i = 0; i < study->given_count && !failed; i++)
		failed = json_array_append_new(
			plans, study->given[i].done ? result_json(study, &study->given[i]) : json_null());
	if (!failed && study->given_count)
		failed = json_object_set(object, "plans", plans);
	json_decref(plans);
	return failed ? no_memory() : 0;
}

/* The same plan with the same texts, or else nothing of it is taken. */
static int read_point(struct kvs_study *study, const json_t *object, struct study_point *point)
{
	static const char *const keys[] = {"k_owners", "v_owners"};

	for (int i = 0; i < 2 * study->layers; i++) {
		const json_t *owner =
			json_array_get(json_object_get(object, keys[i / study->layers]), i % study->layers);
		if (!json_is_integer(owner) || json_integer_value(owner) != point->owners[i])
			return -EINVAL;
	}
	return study_read_measures(study, object, false, study->prompt.text, point);
}

int study_read_given(struct kvs_study *study, const json_t *root)
{
	const json_t *plans = json_object_get(root, "plans");
	int err = 0;

	for (int i = 0; i < study->given_count && !err; i++) {
		struct study_given *given = &study->given[i];
		const json_t *object = json_array_get(plans, i);
		if (!json_is_object(object))
			continue;
		err = read_point(study, json_object_get(object, "alone"), &given->alone);
		if (!err && given->patch)
			err = read_point(study, json_object_get(object, "with_matrices"), &given->with);
		given->done = !err;
	}
	return err;
}

/* ---- Markdown ---- */

static void print_row(FILE *out, const struct kvs_study *study, const struct study_given *given, bool with)
{
	const struct study_point *point = with ? &given->with : &given->alone;
	const struct kvs_quality *q = &point->quality;

	fputs("| ", out);
	study_print_escaped(out, given->title);
	fprintf(out, "%s | %g | %.1f %% | %+.4f |", with ? ", with its matrices" : "", point->tensors / 2.0,
		100.0 * point->token_bytes / study_token_bytes(study, 0, false), q->nll - study->full_nll);
	for (int a = 0; a < study->also_count; a++)
		fprintf(out, " %+.4f |", point->also[a].nll - study->also[a].full_nll);
	fprintf(out, " %.2f %% | %.4f |\n", 100 * q->top1_agreement, q->kl);
}

static void print_samples(FILE *out, const struct kvs_study *study)
{
	fputs("| model | text |\n|---|---|\n", out);
	for (int i = 0; i < 2 * study->given_count; i++) {
		const struct study_given *given = &study->given[i / 2];
		const char *sample = i % 2 ? given->with.sample : given->alone.sample;
		if (!sample)
			continue;
		fputs("| ", out);
		study_print_escaped(out, given->title);
		fprintf(out, "%s | ", i % 2 ? ", with its matrices" : "");
		study_print_escaped(out, sample);
		fputs(" |\n", out);
	}
	fputc('\n', out);
}

void study_print_given(FILE *out, const struct kvs_study *study)
{
	if (!study->given_count)
		return;
	fputs("## The plans that were given\n\nLoss above the unshared model's on the same text, nats a token.\n\n"
	      "| plan | layers share | of the KV bytes | the text measured on |",
		out);
	study_print_also_titles(out, study);
	fputs(" top-1 agreement | KL to full |\n|---|---|---|---|---|---|", out);
	for (int a = 0; a < study->also_count; a++)
		fputs("---|", out);
	fputc('\n', out);
	for (int i = 0; i < study->given_count; i++) {
		if (!study->given[i].done)
			continue;
		print_row(out, study, &study->given[i], false);
		if (study->given[i].patch)
			print_row(out, study, &study->given[i], true);
	}
	fputc('\n', out);
	if (study->prompt.text)
		print_samples(out, study);
}
