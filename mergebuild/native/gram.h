/* The running sums of a Gram matrix: plain values in one piece of memory (8-byte aligned), whose size `gram.inc` says. */
#ifndef MERGEBUILD_GRAM_H
#define MERGEBUILD_GRAM_H

#include <stddef.h>
#include <stdint.h>

#include "kernels.h"

#define GRAM_BLOCK 65536 /* values of each input that are added up together */

struct gram_state {
    uint64_t inputs;
    int64_t origin;   /* the index of the input that is taken from the others first, or -1 */
    uint64_t waiting; /* values of each input of a block that is not whole yet */
    double totals[];  /* of the whole blocks: <x_i, x_j> for each i, j from i on */
    /* Behind them: of each input, the values that wait (float32 [GRAM_BLOCK]). Then room for the work on a block. */
};

/* Vectors whose products are taken, and pairs of them. */
static inline size_t gram_vectors(size_t inputs, int64_t origin) { return inputs - (origin >= 0); }
static inline size_t gram_pairs(size_t vectors) { return vectors * (vectors + 1) / 2; }

/* Lanes are added up beside each other, 8 rows of them at a time; sums of as many rows wait in levels. */
#define GRAM_LANES 64
#define GRAM_ROWS 8
#define GRAM_LEVELS 8 /* one more than the halvings of a block down to 8 rows of lanes */

static inline size_t gram_size(size_t inputs, int64_t origin) {
    const size_t vectors = gram_vectors(inputs, origin), pairs = gram_pairs(vectors);
    const size_t lanes = vectors * GRAM_ROWS + pairs * GRAM_LEVELS;
    return sizeof(struct gram_state) + pairs * sizeof(double) + inputs * GRAM_BLOCK * sizeof(float) + 64 +
           lanes * GRAM_LANES * sizeof(double);
}

#endif
