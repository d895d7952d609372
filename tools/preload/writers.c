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

/*
 * Where each comes from is told in docs/shim.md ("Known writers"). A kernel that copies may read the cache as well as write it, so the
 * place of its destination is named; where that is not known, as of PyTorch's copies with strides, the kernel is not here: it faults,
 * and `kvshare-run probe` finds the place.
 */
enum {
	FIRST_WORD = 1, /* only through the first word of that parameter */
	GENERAL = 2,    /* it stores to much else: where it does tells nothing about a cache */
	ALWAYS = 4,     /* beside what a probe has found too, which sees no zeros on zeros: it reads nothing */
};
static const struct {
	const char *pattern;
	uint64_t params; /* a bit for each parameter through which it writes */
	enum shim_role role;
	unsigned how; /* of these */
} known[] = {
	/* llama.cpp: src, rows, dst; rotations that store to rows, and shift K in place: x, dst; copies: src, dst */
	{"*set_rows*", PARAM(2), SHIM_WRITES, 0},
	{"_ZL*rope_norm*", PARAM(1), SHIM_WRITES, GENERAL},
	{"_ZL*rope_neox*", PARAM(1), SHIM_WRITES, GENERAL},
	{"_ZL*rope_multi*", PARAM(1), SHIM_WRITES, GENERAL},
	{"_ZL*cpy_scalar*", PARAM(1), SHIM_WRITES, GENERAL},
	{"_ZL*cpy_f32_q*", PARAM(1), SHIM_WRITES, GENERAL},
	{"_ZL*cpy_q_f32*", PARAM(1), SHIM_WRITES, GENERAL},
	/* vLLM: key, value, key_cache, value_cache; kv_c, k_pe, kv_cache */
	{"*reshape_and_cache*", PARAM(2) | PARAM(3), SHIM_WRITES, 0},
	{"*concat_and_cache_mla_rope*", SHIM_ANY_PARAM, SHIM_WRITES, 0},
	{"*concat_and_cache_*mla*", PARAM(2), SHIM_WRITES, 0},
	/* SGLang: k_cache, v_cache (older: others first), structs, and q, k, v, q_rope, k_rope, k_buffer, v_buffer; nano-vLLM */
	{"*store_kv_cache*", SHIM_ANY_PARAM, SHIM_WRITES, 0},
	{"*store_kvcache*", SHIM_ANY_PARAM, SHIM_WRITES, 0},
	{"*set_mla_kv_buffer*", SHIM_ANY_PARAM, SHIM_WRITES, 0},
	{"*BatchQKApplyRotaryPosIdsCosSinCacheEnhanced*", PARAM(5) | PARAM(6), SHIM_WRITES, 0},
	/* FlashInfer: a struct, key, value */
	{"*AppendPagedKVCache*", SHIM_ANY_PARAM, SHIM_WRITES, 0},
	{"*AppendPagedKVMlaCache*", SHIM_ANY_PARAM, SHIM_WRITES, 0},
	/*
	 * PyTorch: in a struct of offsets and pointers. All that index launches the same index_elementwise_kernel, so that name alone
	 * says nothing; its mangled one has the operation's too (index_put_kernel_impl, index_kernel_impl, which reads).
	 */
	{"*index_copy*", SHIM_ANY_PARAM, SHIM_WRITES, 0},
	{"*index_put*", SHIM_ANY_PARAM, SHIM_WRITES, 0},
	/* torch.zeros and fill_; copy_ of what is contiguous: their pointers are an array, the destination first */
	{"*FillFunctor*", SHIM_ANY_PARAM, SHIM_WRITES, GENERAL | ALWAYS},
	{"*vectorized_elementwise_kernel*direct_copy_kernel_cuda*", PARAM(2), SHIM_WRITES, FIRST_WORD | GENERAL},
	{"*unrolled_elementwise_kernel*direct_copy_kernel_cuda*", PARAM(2), SHIM_WRITES, FIRST_WORD | GENERAL},
	/* FasterTransformer, TensorRT-LLM */
	{"*masked_multihead_attention*", 0, SHIM_FUSED, 0},
	{"*append_and_attend*", 0, SHIM_FUSED, 0},
};

/* torch.compile names a kernel for all that it has fused, and what is fused with a store may read the cache. */
#define COMPILED "triton_"

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

static bool counts(size_t number)
{
	return known[number].role == SHIM_FUSED || known[number].how & ALWAYS || !shim_settings()->only_writers;
}

/* The number of the pattern that matches, or that of all. */
static size_t known_find(const char *name)
{
	size_t i = 0, count = sizeof(known) / sizeof(*known);

	if (!strncmp(name, COMPILED, strlen(COMPILED)))
		return count;
	while (i < count && (!counts(i) || fnmatch(known[i].pattern, name, 0)))
		i++;
	return i;
}

static enum shim_role known_role(size_t number, struct shim_written *written)
{
	if (number == sizeof(known) / sizeof(*known))
		return SHIM_READS;
	written->params = known[number].params;
	written->general = known[number].how & GENERAL;
	if (known[number].how & FIRST_WORD) {
		written->parts = written->params;
		written->count = 1;
		written->word[0].param = (size_t)__builtin_ctzll(written->params);
	}
	return known[number].role;
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
	return named ? SHIM_WRITES : known_role(known_find(name), written);
}
