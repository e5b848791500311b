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
#include "all_kernels.inc"
#if defined(__clang__)
#pragma clang attribute pop
#else
#pragma GCC pop_options
#endif

const struct variant variant_avx2 = {
    "avx2", load, store, apply, count_nonfinite, xxh3_begin, xxh3_update, xxh3_digest,
    tally, digit_of, find, sum_magnitudes, sum_squares, total_of, keep_by_rank, gram_add, gram_value, count_active, KERNELS,
};
#else
typedef int variant_avx2_is_elsewhere;
#endif
