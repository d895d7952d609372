/*
 * tools/preload/writers.c: the kernels that are known to write a KV cache, by name, and those that cannot be shared.
 *
 * Names are those of the driver (mangled for C++), matched as a shell matches file names. $KVSHARE_WRITERS adds to them:
 * PATTERN or PATTERN:PARAMETER, separated by commas; with
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
	{"*set_rows*", PARAM(2), SHIM_WRITES},                       /* llama.cpp: src, rows, dst */
	{"*reshape_and_cache*", PARAM(2) | PARAM(3), SHIM_WRITES},   /* vLLM: key, value, key_cache, value_cache */
	{"*concat_and_cache_mla*", SHIM_ANY_PARAM, SHIM_WRITES},     /* vLLM */
	{"*index_copy*", SHIM_ANY_PARAM, SHIM_WRITES},               /* PyTorch: in a struct of offsets and pointers */
	{"*index_put*", SHIM_ANY_PARAM, SHIM_WRITES},                /* PyTorch */
	{"*index_elementwise_kernel*", SHIM_ANY_PARAM, SHIM_WRITES}, /* PyTorch */
	{"*store_kv_cache*", SHIM_ANY_PARAM, SHIM_WRITES},           /* SGLang */
	{"*store_kvcache*", SHIM_ANY_PARAM, SHIM_WRITES},            /* nano-vLLM */
	{"*set_mla_kv_buffer*", SHIM_ANY_PARAM, SHIM_WRITES},        /* SGLang */
	{"*AppendPagedKVCache*", SHIM_ANY_PARAM, SHIM_WRITES},       /* FlashInfer */
	{"*masked_multihead_attention*", 0, SHIM_FUSED},             /* FasterTransformer, TensorRT-LLM */
	{"*append_and_attend*", 0, SHIM_FUSED},
};

/* One entry of $KVSHARE_WRITERS, `length` characters long. */
static bool entry_matches(const char *entry, size_t length, const char *name, uint64_t *params)
{
	char pattern[4096], *colon; /* mangled names of templates are long */

	if (!length || length >= sizeof(pattern))
		return false;
	memcpy(pattern, entry, length);
	pattern[length] = '\0';
	colon = strrchr(pattern, ':');
	*params = SHIM_ANY_PARAM;
	if (colon && colon[1] >= '0' && colon[1] <= '9') {
		unsigned long number = strtoul(colon + 1, NULL, 10);

		*params = number < 64 ? PARAM(number) : 0; /* there is no bit for it: such a store faults */
		*colon = '\0';
	}
	return !fnmatch(pattern, name, 0);
}

enum shim_role shim_role_of(const char *name, uint64_t *params)
{
	const char *entry = shim_settings()->writers;
	bool named = false;
	uint64_t more;

	*params = 0; /* a kernel may be named once for each parameter */
	while (entry && *entry) {
		size_t length = strcspn(entry, ",");

		if (entry_matches(entry, length, name, &more)) {
			named = true;
			*params |= more;
		}
		entry += length + (entry[length] == ',');
	}
	if (named)
		return SHIM_WRITES;
	for (size_t i = 0; i < sizeof(known) / sizeof(*known); i++) {
		*params = known[i].params;
		if (!fnmatch(known[i].pattern, name, 0) &&
			(known[i].role == SHIM_FUSED || !shim_settings()->only_writers))
			return known[i].role;
	}
	*params = 0;
	return SHIM_READS;
}
