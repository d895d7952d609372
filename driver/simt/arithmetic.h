/*
 * driver/simt/arithmetic.h: CUDA's names for arithmetic that C spells otherwise (g++ build).
 *
 * The fast variants (__expf and the like) are exact here: a test must not depend on how a GPU rounds them.
 */
#ifndef KVS_SIMT_ARITHMETIC_H
#define KVS_SIMT_ARITHMETIC_H

#include <cmath>
#include <cstring>
#include <type_traits>

/* Macros, since glibc's math.h declares some of these names for itself. */
#define __expf(x) expf(x)
#define __exp10f(x) exp10f(x)
#define __logf(x) logf(x)
#define __log2f(x) log2f(x)
#define __sinf(x) sinf(x)
#define __cosf(x) cosf(x)
#define __powf(x, y) powf(x, y)
#define __fdividef(x, y) ((float)(x) / (float)(y))
#define __fmaf_rn(x, y, z) fmaf(x, y, z)
#define __frcp_rn(x) (1.0f / (float)(x))
#define __fsqrt_rn(x) sqrtf(x)

inline float rsqrtf(float x)
{
	return 1.0f / sqrtf(x);
}

inline float __saturatef(float x)
{
	return fminf(fmaxf(x, 0.0f), 1.0f); /* NaN becomes 0, as on a GPU */
}

template <typename A, typename B>
constexpr std::common_type_t<A, B> min(A a, B b)
{
	using type = std::common_type_t<A, B>;
	return (type)b < (type)a ? (type)b : (type)a;
}

template <typename A, typename B>
constexpr std::common_type_t<A, B> max(A a, B b)
{
	using type = std::common_type_t<A, B>;
	return (type)a < (type)b ? (type)b : (type)a;
}

namespace simt
{
template <typename To, typename From>
inline To bits_as(From from)
{
	static_assert(sizeof(To) == sizeof(From), "the same bits");
	To to;

	memcpy(&to, &from, sizeof(to));
	return to;
}
} // namespace simt

inline int __float_as_int(float x)
{
	return simt::bits_as<int>(x);
}

inline unsigned __float_as_uint(float x)
{
	return simt::bits_as<unsigned>(x);
}

inline float __int_as_float(int x)
{
	return simt::bits_as<float>(x);
}

inline float __uint_as_float(unsigned x)
{
	return simt::bits_as<float>(x);
}

inline int __popc(unsigned x)
{
	return __builtin_popcount(x);
}

inline int __popcll(unsigned long long x)
{
	return __builtin_popcountll(x);
}

inline int __clz(int x)
{
	return x ? __builtin_clz((unsigned)x) : 32;
}

inline int __ffs(int x)
{
	return __builtin_ffs(x);
}

template <typename T>
inline T __ldg(const T *address)
{
	return *address;
}

template <typename T>
inline T __ldcg(const T *address)
{
	return *address;
}

#endif
