/* The kernels for x86-64 processors with AVX2 and F16C. */
#if defined(__x86_64__) && defined(__GNUC__)
#include <immintrin.h>
#define VARIANT_AVX2
#if defined(__clang__)
#pragma clang attribute push(__attribute__((target("avx2,f16c"))), apply_to = function)
#else
#pragma GCC push_options
#pragma GCC target("avx2,f16c")
#endif
#define VARIANT variant_avx2
#define VARIANT_NAME "avx2"
#include "all_kernels.inc"
#if defined(__clang__)
#pragma clang attribute pop
#else
#pragma GCC pop_options
#endif
#else
typedef int variant_avx2_is_elsewhere;
#endif
