/* The kernels for 64-bit ARM processors, all of which have NEON. */
#if defined(__aarch64__)
#include <arm_neon.h>
#define VARIANT_NEON
#include "all_kernels.inc"

const struct variant variant_neon = {
    "neon", load, store, apply, count_nonfinite, xxh3_begin, xxh3_update, xxh3_digest,
    tally, digit_of, find, sum_magnitudes, sum_squares, total_of, keep_by_rank, gram_add, gram_value, count_active, KERNELS,
};
#else
typedef int variant_neon_is_elsewhere;
#endif
