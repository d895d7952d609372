/*
 * tools/preload/writers.c: the kernels that are known to write a KV cache, by name, and those that cannot be shared.
 *
 * Names are those of the driver (mangled for C++), matched as a shell matches file names. $KVSHARE_WRITERS adds to them:
 * PATTERN, PATTERN:PARAMETER or PATTERN:PARAMETER+OFFSET (one word of a struct), separated by commas; with
 * $KVSHARE_ONLY_WRITERS, as for what `kvshare-run probe` found, no others write.
 */
#include "preload.h"

#include <fnmatch.h>
#include <stdlib.h>
#include <string.h>

#define PARAM(n) (UINT64_C(1) << (n))

static const struct {
	const char *pattern;
	uint64_t params; /* a bit for each parameter through which it writes */
	enum shim_role role;
} known[] = {
	{"*set_rows*", PARAM(2), SHIM_WRITES},                     /* llama.cpp: src, rows, dst */
	{"*reshape_and_cache*", PARAM(2) | PARAM(3), SHIM_WRITES}, /* vLLM: key, value, key_cache, value_cache */
	{"*concat_and_cache_mla*", SHIM_ANY_PARAM, SHIM_WRITES},   /* vLLM */
	{"*index_copy*", SHIM_ANY_PARAM, SHIM_WRITES},             /* PyTorch: in a struct of offsets and pointers */
	/*
	 * PyTorch: all that index launches the same index_elementwise_kernel, so that name alone says nothing; its mangled one has
	 * the operation's too (index_put_kernel_impl, index_kernel_impl, which reads).
	 */
	{"*index_put*", SHIM_ANY_PARAM, SHIM_WRITES},
	{"*store_kv_cache*", SHIM_ANY_PARAM, SHIM_WRITES},     /* SGLang */
	{"*store_kvcache*", SHIM_ANY_PARAM, SHIM_WRITES},      /* nano-vLLM */
	{"*set_mla_kv_buffer*", SHIM_ANY_PARAM, SHIM_WRITES},  /* SGLang */
	{"*AppendPagedKVCache*", SHIM_ANY_PARAM, SHIM_WRITES}, /* FlashInfer */
	{"*masked_multihead_attention*", 0, SHIM_FUSED},       /* FasterTransformer, TensorRT-LLM */
	{"*append_and_attend*", 0, SHIM_FUSED},
};

/* `text` is PARAMETER or PARAMETER+OFFSET. */
static void written_add(struct shim_written *written, const char *text)
{
	char *end;
	unsigned long number = strtoul(text, &end, 10);
	uint64_t bit = number < 64 ? PARAM(number) : 0; /* there is no bit for it: such a store faults */
	bool whole = written->params & ~written->parts & bit;

	written->params |= bit;
	if (*end != '+' || whole || written->count == SHIM_MAX_WORDS) {
		written->parts &= ~bit;
		return;
	}
	written->parts |= bit;
	written->word[written->count].param = number;
	written->word[written->count++].offset = strtoul(end + 1, NULL, 10);
}

/* One entry of $KVSHARE_WRITERS, `length` characters long. */
static bool entry_matches(const char *entry, size_t length, const char *name, struct shim_written *written)
{
	char pattern[4096], *colon; /* mangled names of templates are long */

	if (!length || length >= sizeof(pattern))
		return false;
	memcpy(pattern, entry, length);
	pattern[length] = '\0';
	colon = strrchr(pattern, ':');
	if (!colon || colon[1] < '0' || colon[1] > '9')
		colon = NULL;
	if (colon)
		*colon = '\0';
	if (fnmatch(pattern, name, 0))
		return false;
	if (colon)
		written_add(written, colon + 1);
	else
		*written = (struct shim_written){.params = SHIM_ANY_PARAM};
	return true;
}

enum shim_role shim_role_of(const char *name, struct shim_written *written)
{
	const char *entry = shim_settings()->writers;
	bool named = false;

	*written =
		(struct shim_written){0}; /* a kernel may be named once for each parameter, and for each word of one */
	while (entry && *entry) {
		size_t length = strcspn(entry, ",");

		named |= entry_matches(entry, length, name, written);
		entry += length + (entry[length] == ',');
	}
	if (named)
		return SHIM_WRITES;
	for (size_t i = 0; i < sizeof(known) / sizeof(*known); i++) {
		written->params = known[i].params;
		if (!fnmatch(known[i].pattern, name, 0) &&
			(known[i].role == SHIM_FUSED || !shim_settings()->only_writers))
			return known[i].role;
	}
	written->params = 0;
	return SHIM_READS;
}
