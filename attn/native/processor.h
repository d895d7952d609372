/*
 * attn/native/processor.h: whether this processor has what the AVX2 and AVX-512 bodies are compiled for. Private to attn/.
 */
#ifndef KVS_ATTN_PROCESSOR_H
#define KVS_ATTN_PROCESSOR_H

#include <stdbool.h>

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

#endif
