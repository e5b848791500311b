/* The running sums of a Gram matrix: plain values in one piece of memory (8-byte aligned), of `gram_size` bytes. */
#ifndef MERGEBUILD_GRAM_H
#define MERGEBUILD_GRAM_H

#include <stddef.h>
#include <stdint.h>

#include "kernels.h"

#define GRAM_BLOCK 65536 /* values of each input that are added up together */

struct gram_state {
    uint64_t inputs;
    int64_t origin;   /* the index of the input that is subtracted from the others first, or -1 */
    uint64_t waiting; /* how many values of each input are in the last block, if that is not full yet */
    double totals[];  /* over the full blocks: <x_i, x_j> for each i, and each j from i on */
    /* After these: for each input, the waiting values (float32 [GRAM_BLOCK]). Then scratch memory to add up a block. */
};

/* The number of vectors whose dot products are taken, and the number of pairs. */
static inline size_t gram_vectors(size_t inputs, int64_t origin) { return inputs - (origin >= 0); }
static inline size_t gram_pairs(size_t vectors) { return vectors * (vectors + 1) / 2; }

/* Lanes are added up independently of each other, 8 rows of them at a time. A sum waits in a level until another sum of
 * as many rows is complete. */
#define GRAM_LANES 64
#define GRAM_ROWS 8
#define GRAM_LEVELS 8 /* one more than how often a block is halved until 8 rows of lanes are left */

static inline size_t gram_size(size_t inputs, int64_t origin) {
    const size_t vectors = gram_vectors(inputs, origin), pairs = gram_pairs(vectors);
    const size_t lanes = vectors * GRAM_ROWS + pairs * GRAM_LEVELS;
    return sizeof(struct gram_state) + pairs * sizeof(double) + inputs * GRAM_BLOCK * sizeof(float) + 64 +
           lanes * GRAM_LANES * sizeof(double);
}

#endif
