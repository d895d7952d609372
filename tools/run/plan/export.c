/*
 * tools/run/plan/export.c: plans in the notation of other engines.
 *
 * The Python for vLLM and transformers lies in exports/, as files that can be read and tried. Here only @K_OWNERS@ and
 * @V_OWNERS@ in them are replaced by the plan's owners, and @MATRICES@ by the digest of the matrices that the model has in its
 * weights.
 */
#include "plan.h"

#include <ctype.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>

extern const char plan_export_transformers[], plan_export_vllm[]; /* exports.S */

static void put_owners(FILE *out, const kvs_plan *plan, enum kvs_k_or_v which, const char *separator)
{
	for (int layer = 0; layer < kvs_plan_layers(plan); layer++)
		fprintf(out, "%s%d", layer ? separator : "", kvs_plan_owner(plan, layer, which));
}

/* As Python: what config.json of the plan's model has as "kvshare_matrices" (checkpoint.c). */
static void put_matrices(FILE *out, const char *digest)
{
	if (*digest)
		fprintf(out, "\"%s\"", digest);
	else
		fputs("None", out);
}

/* Copies `python`, with the plan in place of @K_OWNERS@, @V_OWNERS@ and @MATRICES@. */
static void put_python(FILE *out, const kvs_plan *plan, const char *matrices, const char *python)
{
	static const char *const places[] = {"@K_OWNERS@", "@V_OWNERS@", "@MATRICES@"};

	while (*python) {
		size_t i = 0;

		while (i < 3 && strncmp(python, places[i], strlen(places[i])))
			i++;
		if (i == 3) {
			fputc(*python++, out);
			continue;
		}
		if (i == 2)
			put_matrices(out, matrices);
		else
			put_owners(out, plan, i ? KVS_V : KVS_K, ", ");
		python += strlen(places[i]);
	}
}

/*
 * 0 if K and V have the same owners; otherwise -EINVAL, naming the first layer that differs and `who` cannot express
 * it.
 */
static int need_same_owners(const kvs_plan *plan, const char *who)
{
	for (int layer = 0; layer < kvs_plan_layers(plan); layer++) {
		int k = kvs_plan_owner(plan, layer, KVS_K), v = kvs_plan_owner(plan, layer, KVS_V);

		if (k != v)
			return kvs_fail(-EINVAL,
				"layer %d reads K of layer %d and V of layer %d: %s can only express plans in which "
				"both have the same owner",
				layer, k, v, who);
	}
	return 0;
}

static int check_expressible(const kvs_plan *plan, enum plan_format format)
{
	if (format == PLAN_LCKV)
		return need_same_owners(plan, "LCKV's notation");
	if (format == PLAN_VLLM)
		return need_same_owners(plan, "vLLM");
	return 0;
}

int plan_export(const kvs_plan *plan, enum plan_format format, char **text)
{
	char matrices[KVS_PATCH_DIGEST] = "";
	size_t bytes;
	FILE *out;
	int err;

	if (format == PLAN_JSON)
		return kvs_plan_text(plan, text);
	err = check_expressible(plan, format);
	if (!err)
		run_patch_in_weights(plan, matrices); /* one that is damaged is warned of by the caller */
	if (err)
		return err;
	out = open_memstream(text, &bytes);
	if (!out)
		return kvs_fail(-ENOMEM, "no memory for an export");
	if (format == PLAN_LCKV) {
		put_owners(out, plan, KVS_K, "_");
		fputc('\n', out);
	} else {
		put_python(out, plan, matrices, format == PLAN_VLLM ? plan_export_vllm : plan_export_transformers);
	}
	if (!fclose(out))
		return 0;
	free(*text);
	return kvs_fail(-ENOMEM, "no memory for an export");
}

int plan_from_lckv(const char *notation, kvs_plan **out)
{
	char *owners = strdup(notation);
	int err = owners ? 0 : kvs_fail(-ENOMEM, "no memory for a plan");

	for (size_t i = 0; !err && owners[i]; i++) {
		if (owners[i] == '_')
			owners[i] = ','; /* the result is a list as --owners takes it */
		else if (!isdigit((unsigned char)owners[i]))
			err = kvs_fail(-EINVAL,
				"\"%s\", character %zu: layer numbers with _ between them are expected, as in "
				"0_1_2_1%s",
				notation, i + 1, owners[i] == 's' ? "; a plan has no sliding windows (s)" : "");
	}
	if (!err)
		err = kvs_plan_parse(owners, out);
	free(owners);
	return err;
}
