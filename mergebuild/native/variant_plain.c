/* The kernels in plain C, for every processor. */
#include "all_kernels.inc"

const struct variant variant_plain = {
    "plain", load, store, apply, count_nonfinite, xxh3_begin, xxh3_update, xxh3_digest,
    tally, digit_of, find, sum_magnitudes, sum_squares, total_of, keep_by_rank, gram_add, gram_value, count_active, KERNELS,
};
