/*
 * attn/native/processor.h: the instruction sets of native bodies: those that this processor has, and the one that is wanted.
 * Private to attn/.
 */
#ifndef KVS_ATTN_PROCESSOR_H
#define KVS_ATTN_PROCESSOR_H

#include <stdbool.h>
#include <stdlib.h>
#include <string.h>

#ifdef __x86_64__
#include <cpuid.h>
#endif

/* AVX2 with FMA and F16C, and a system that saves their registers; clang does not know the last by name. */
static inline bool attn_has_avx2(void)
{
#ifdef __x86_64__
	unsigned eax, ebx, ecx, edx;

	return __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") &&
	       __get_cpuid(1, &eax, &ebx, &ecx, &edx) && ecx & bit_F16C;
#else
	return false;
#endif
}

/* AVX-512's foundation beside those, and a system that saves its registers. */
static inline bool attn_has_avx512(void)
{
#ifdef __x86_64__
	return attn_has_avx2() && __builtin_cpu_supports("avx512f");
#else
	return false;
#endif
}

/* A processor that has one has all before it. */
enum attn_set { ATTN_SET_PLAIN, ATTN_SET_AVX2, ATTN_SET_AVX512 };

static inline enum attn_set attn_set_best(void)
{
	return attn_has_avx512() ? ATTN_SET_AVX512 : attn_has_avx2() ? ATTN_SET_AVX2 : ATTN_SET_PLAIN;
}

/* As KVS_HOST_KERNELS has it. */
static inline const char *attn_set_name(enum attn_set set)
{
	static const char *const names[] = {"plain", "avx2", "avx512"};

	return names[set];
}

/* The set that KVS_HOST_KERNELS names, whether the processor has it or not; the best where it names none. */
static inline enum attn_set attn_set_wanted(void)
{
	const char *kernels = getenv("KVS_HOST_KERNELS");

	for (enum attn_set set = ATTN_SET_PLAIN; kernels && set <= ATTN_SET_AVX512; set++) {
		if (!strcmp(kernels, attn_set_name(set)))
			return set;
	}
	return attn_set_best();
}

#endif
