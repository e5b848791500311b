/* The functions that every variant of the kernels has, and the types of their arguments and results.
 *
 * A kernel is written once (`*.inc`) and compiled once for each instruction set (`variant_*.c`). The instruction set only
 * decides how many values one instruction takes: products and sums are never fused, the order of additions never
 * depends on the width of registers, and subnormal numbers are kept. So all variants give the same bits, those of the
 * torch kernels.
 *
 * Kernels allocate nothing, raise nothing and know nothing of Python; `module.c` checks all sizes before it calls them.
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

/* The most inputs that one call takes. */
#define MOST_INPUTS 64

struct xxh3_state; /* xxh3.h */

/* The scales of a tensor's elements, which are a matrix with rows of `columns`: one per block, in row order. */
struct scales {
    const unsigned char *bytes; /* NULL: the tensor has no scales */
    enum dtype dtype;
    uint64_t columns, block_rows, block_columns;
    uint64_t first; /* the index in the tensor of the source's first element */
};

/* A tensor's elements as they are stored in a file. No alignment is assumed. */
struct source {
    const unsigned char *bytes;
    enum dtype dtype;
    struct xxh3_state *hash; /* the hash that the bytes are added to as they are read, or NULL */
    struct scales scales;
};

/* The arguments of a kernel besides its inputs: an option, and the numbers that its Python caller packs for it. */
struct call {
    const float *numbers;
    size_t number_count;
    int64_t option;
    uint64_t start; /* the index in the tensor of the first element of the call */
    size_t row;     /* for a kernel of rows, the number of elements of a row; else 0 */
    double *room;   /* for a kernel of rows, scratch memory for `ROW_ROOM` values */
};

/* The size of a kernel of rows' scratch memory, in float64 values. */
#define ROW_ROOM(inputs, row) (((inputs) + 3) * (row))

/* Makes `count` values of `out`, at most TILE, from as many values of each input. `at` is the index of the first of them
 * among the elements of the call. A kernel of rows makes whole rows, which may be longer than a tile. */
typedef void (*element_kernel)(const struct call *call, const float *const *inputs, size_t input_count, float *out,
                               size_t count, size_t at);

/* Returns whether a kernel takes this number of inputs and these numbers; checked before the kernel is called. */
typedef int (*kernel_check)(const struct call *call, size_t input_count);

struct named_kernel {
    const char *name;
    element_kernel apply;
    kernel_check takes;
};

/* A kernel with all its arguments. */
struct work {
    element_kernel kernel;
    struct call call;
    struct source inputs[MOST_INPUTS];
    size_t input_count;
    int odd;     /* whether inputs of float64 are rounded to odd */
    float *rows; /* of a kernel of rows: room for a tile of each input and of the result */
};

/* How often each digit (half of a key) occurs: lower halves of the keys with the upper half `upper`, or, if that is
 * UPPER_HALVES (selection.inc), upper halves of all keys. A key has a sign where values are ordered, not their
 * magnitudes. */
struct histogram {
    int32_t upper;
    uint32_t *counts;
};

/* The probability with which an element is kept: `rank * step + least`, where rank is that of its magnitude in its row. A
 * row has `length` elements, and `behind` rows are interleaved: the next element of a row is `behind` elements further
 * on. `length * behind` is less than 2**31. */
struct ranking {
    size_t length, behind;
    uint64_t stream; /* the key of the random numbers */
    double least, step;
};

/* A sum to which values can be added: `sums.inc`. */
#define SUM_BLOCK 65536
struct running_sum {
    double total;
    uint64_t fill; /* how many values of the current block have been added */
    double room[SUM_BLOCK / 2];
};

/* Of a tensor's magnitudes, from the smallest up, those from one place to before another; or all others. */
struct region {
    uint64_t begin, end;
    int is_strict; /* whether magnitudes equal to the last one before the range are left out */
    int is_outside;
};

/* Sums of products over the first dimension: `columns.inc`. After the totals comes a block of values for each product. */
struct column_sums {
    uint64_t columns;
    uint64_t block; /* the number of values of a block */
    uint64_t fill;  /* how many values of the current block have been added */
    double totals[]; /* <x, x> of each column, then <x, y>, then <y, y> */
};

/* Counts of values that were rounded to a dtype. */
struct seen {
    uint64_t nonfinite;  /* NaN or infinite before rounding */
    uint64_t overflowed; /* finite before rounding, but larger than the dtype's largest value */
};

struct gram_state; /* gram.h */
struct product;    /* products.h */

struct variant {
    const char *name;

    /* Convert `count` elements, from element `first` on, to float32. Float64 is rounded to the nearest, or to odd. */
    void (*load)(const struct source *source, size_t first, size_t count, float *out, int odd);

    /* Round float32 values to a dtype, to nearest even, and any NaN to the dtype's one in `convert.inc`; add to `seen`. */
    void (*store)(const float *values, size_t count, enum dtype dtype, unsigned char *out, struct seen *seen);

    /* Make `count` elements, tile by tile; add the bytes written to `hash`, unless it is NULL. */
    struct seen (*apply)(const struct work *work, size_t count, enum dtype dtype, unsigned char *out,
                         struct xxh3_state *hash);

    /* Count the values that are NaN or infinite as float32. */
    uint64_t (*count_nonfinite)(const struct source *source, size_t count);

    void (*xxh3_begin)(struct xxh3_state *state);
    void (*xxh3_update)(struct xxh3_state *state, const unsigned char *data, size_t size);
    void (*xxh3_digest)(const struct xxh3_state *state, unsigned char out[16]);

    /* Counts and sums of the values that a kernel makes: `selection.inc`, `sums.inc`. */
    void (*tally)(const struct work *work, size_t count, int is_signed, const struct histogram *histograms,
                  size_t histogram_count);
    void (*digit_of)(const uint32_t *counts, uint64_t wanted, uint64_t found[3]);
    uint64_t (*find)(const struct work *work, size_t count, int is_signed, int32_t key, uint64_t nth, uint64_t *index);
    void (*sum_magnitudes)(const struct work *work, size_t count, struct running_sum *sum);
    void (*sum_squares)(const struct work *work, size_t count, const struct source *first, const struct source *second,
                        struct running_sum *sum);
    double (*total_of)(struct running_sum *sum);

    /* For `count` elements (whole rows), write to `kept` 1 for each that is kept and 0 for each other, and to `chances`,
     * unless it is NULL, their probabilities. `room`: scratch memory for 2 * length numbers of 64 bits, and
     * length * behind numbers of 32 bits. */
    void (*keep_by_rank)(const struct work *work, size_t count, const struct ranking *ranking, uint64_t *room,
                         float *kept, float *chances);

    /* Add the next `count` elements of each input to the sums. gram_value writes the sums so far, one per pair of
     * vectors. */
    void (*gram_add)(struct gram_state *state, const struct source *inputs, size_t count);
    void (*gram_value)(struct gram_state *state, double *totals);

    /* Add two counts to `totals` for each input but the first: the elements at which only this input differs from the
     * first one by more than epsilon, and those at which others do too. */
    void (*count_active)(const struct work *work, size_t count, float epsilon, uint64_t *totals);

    /* Copy both sides of a product, whose sizes are set already; `turned`: the sides are stored transposed. */
    void (*product_begin)(struct product *product, const struct source *left, const struct source *right, int turned);

    /* Make rows of a product, or of two products multiplied element by element, times `scale`; write them to `out`, or
     * add them to it if `adds`. */
    void (*product_rows)(struct product *const *products, size_t product_count, double scale, size_t first,
                         size_t rows, float *out, int adds);

    void (*add_columns)(struct column_sums *sums, const struct source *inputs, size_t input_count, size_t count);
    void (*end_columns)(struct column_sums *sums);
    double (*cosines_of)(double *sums, size_t columns, double *cosines);
    void (*arcs_of)(const double *sums, size_t columns, double rest_of_t, double t, float *rests, float *shares);

    void (*arrange)(const struct source *sources, size_t count, const struct region *region, uint64_t *room,
                    float *ascending, float *out);

    const struct named_kernel *kernels; /* ends with a row without a name, as the next does */
    const struct named_kernel *kernels_of_rows;
};

extern const struct variant variant_plain, variant_avx2, variant_avx512, variant_neon;

#endif
