/* What every variant of the kernels offers, and the values that go in and come out.
 *
 * A kernel is written once (`*.inc`) and compiled once for each instruction set (`variant_*.c`), which decides how many
 * values one instruction takes and nothing else: no product and sum are fused, no order of additions depends on width,
 * and subnormal numbers are kept. So all variants give the same bits, which are those of the torch kernels.
 *
 * Nothing here allocates, raises, or knows Python; `module.c` checks sizes before it calls.
 */
#ifndef MERGEBUILD_KERNELS_H
#define MERGEBUILD_KERNELS_H

#include <stddef.h>
#include <stdint.h>

#if defined(__FAST_MATH__)
#error "the kernels' bits are those of IEEE 754: compile them without -ffast-math"
#elif defined(_MSC_VER)
#pragma fp_contract(off) /* gcc and clang are told by an option: setup.py */
#endif

/* Dtypes of files, in the order of `DTYPES` in `__init__.py`. */
enum dtype { FLOAT64, FLOAT32, FLOAT16, BFLOAT16, FLOAT8_E4M3FN, FLOAT8_E5M2, DTYPE_COUNT };

/* Float32 values that are computed together: three such tiles stay in the first level of the cache. */
#define TILE 2048

/* Inputs at most that one call takes. */
#define MOST_INPUTS 64

struct xxh3_state; /* xxh3.h */

/* A tensor's elements as they lie in a file. No alignment is assumed. */
struct source {
    const unsigned char *bytes;
    enum dtype dtype;
    struct xxh3_state *hash; /* what the bytes are added to as they are read; NULL: nothing */
};

/* What a kernel is called with besides values: the numbers that its Python caller packs for it. */
struct call {
    const float *numbers;
    size_t number_count;
    int64_t option;
    uint64_t start; /* the index in the tensor of the first element of the call */
};

/* Makes `count` (at most TILE) values of `out` from as many of each input; `at` is the index in the call of the first. */
typedef void (*element_kernel)(const struct call *call, const float *const *inputs, size_t input_count, float *out,
                               size_t count, size_t at);

/* Whether a kernel can be called with so many inputs and these numbers; asked before it is. */
typedef int (*kernel_check)(const struct call *call, size_t input_count);

struct named_kernel {
    const char *name;
    element_kernel apply;
    kernel_check takes;
};

/* A kernel, and all that it is called with. */
struct work {
    element_kernel kernel;
    struct call call;
    struct source inputs[MOST_INPUTS];
    size_t input_count;
    int odd; /* whether inputs of float64 are rounded to odd */
};

/* Counts of half a key's digits; `upper`: of those keys whose upper half it is, or of the upper halves themselves. */
struct histogram {
    int32_t upper;
    uint32_t *counts;
};

/* With which probability an element is kept: `rank * step + least`, by the rank of its magnitude in its row. A row's
 * `length` elements have `behind - 1` others between them, of as many other rows; less than 2**31 elements. */
struct ranking {
    size_t length, behind;
    uint64_t stream; /* the key of the random numbers */
    double least, step;
};

/* A sum in the making: `sums.inc`. */
#define SUM_BLOCK 65536
struct running_sum {
    double total;
    uint64_t fill; /* values of the block that came */
    double room[SUM_BLOCK / 2];
};

/* What was seen of the values that were rounded. */
struct seen {
    uint64_t nonfinite;
    uint64_t overflowed; /* finite, and beyond the dtype's largest */
};

struct gram_state; /* gram.h */
struct product;    /* products.h */

struct variant {
    const char *name;

    /* Widen `count` elements, from element `first` on, to float32: those of float64 to the nearest, or to odd. */
    void (*load)(const struct source *source, size_t first, size_t count, float *out, int odd);

    /* Round float32 values to a dtype, to nearest even, any NaN to the one that `convert.inc` says; add up what is seen. */
    void (*store)(const float *values, size_t count, enum dtype dtype, unsigned char *out, struct seen *seen);

    /* Make `count` elements, tile by tile, and hash what is written, unless `hash` is NULL. */
    struct seen (*apply)(const struct work *work, size_t count, enum dtype dtype, unsigned char *out,
                         struct xxh3_state *hash);

    /* Count the values that are NaN or infinite as float32. */
    uint64_t (*count_nonfinite)(const struct source *source, size_t count);

    void (*xxh3_begin)(struct xxh3_state *state);
    void (*xxh3_update)(struct xxh3_state *state, const unsigned char *data, size_t size);
    void (*xxh3_digest)(const struct xxh3_state *state, unsigned char out[16]);

    /* What is counted and added up of all that a kernel makes: `selection.inc`, `sums.inc`. */
    void (*tally)(const struct work *work, size_t count, const struct histogram *histograms, size_t histogram_count);
    void (*digit_of)(const uint32_t *counts, uint64_t wanted, uint64_t found[3]);
    uint64_t (*find)(const struct work *work, size_t count, uint32_t key, uint64_t nth, uint64_t *index);
    void (*sum_magnitudes)(const struct work *work, size_t count, struct running_sum *sum);
    void (*sum_squares)(const struct work *work, size_t count, const struct source *first, const struct source *second,
                        struct running_sum *sum);
    double (*total_of)(struct running_sum *sum);

    /* Say of `count` elements, whole rows, which are kept (1, else 0) and, unless `chances` is NULL, their probabilities.
     * `room`: for two numbers an element of a row, and one of 32 bits for each element of the rows between each other. */
    void (*keep_by_rank)(const struct work *work, size_t count, const struct ranking *ranking, uint64_t *room,
                         float *kept, float *chances);

    /* Add the next `count` elements of each input to the sums; `totals` gets those so far, one a pair of vectors. */
    void (*gram_add)(struct gram_state *state, const struct source *inputs, size_t count);
    void (*gram_value)(struct gram_state *state, double *totals);

    /* Add to `totals`, of each input but the first: at how many places only it differs from the first by more than
     * epsilon, and at how many others do too. */
    void (*count_active)(const struct work *work, size_t count, float epsilon, uint64_t *totals);

    /* Take both sides of a product, which has its sizes; `turned`: each side lies transposed. */
    void (*product_begin)(struct product *product, const struct source *left, const struct source *right, int turned);

    /* Make rows of a product, or of two of them multiplied element by element, times `scale`: put into `out`, or added. */
    void (*product_rows)(const struct product *const *products, size_t product_count, double scale, size_t first,
                         size_t rows, float *out, int adds);

    const struct named_kernel *kernels; /* ends with a row without a name */
};

extern const struct variant variant_plain, variant_avx2, variant_avx512, variant_neon;

#endif
