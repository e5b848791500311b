/* A matrix product whose rows can be made: both sides in the layout of the kernels, in one piece of memory (8-byte
 * aligned). */
#ifndef MERGEBUILD_PRODUCTS_H
#define MERGEBUILD_PRODUCTS_H

#include <stddef.h>
#include <stdint.h>

#define STRIP 8  /* the most rows that are made together */
#define PANEL 16 /* columns that are made together */

/* The most products of one call. */
#define MOST_PRODUCTS 2

struct product {
    uint64_t rows, rank, columns;
    double left[]; /* row by row (double [rows + STRIP, rank]) */
    /* After it: room for one panel of the right side (double [rank, PANEL]), then the right side in panels (float [panels,
     * rank, PANEL]). Both sides are filled up with zeros. */
};

static inline size_t product_panels(size_t columns) { return columns / PANEL + (columns % PANEL != 0); }
static inline size_t product_left(size_t rows, size_t rank) { return (rows + STRIP) * rank; }
static inline size_t product_right(size_t rank, size_t columns) { return product_panels(columns) * rank * PANEL; }
static inline size_t product_room(size_t rank) { return rank * PANEL; }

static inline size_t product_size(size_t rows, size_t rank, size_t columns) {
    return sizeof(struct product) + (product_left(rows, rank) + product_room(rank)) * sizeof(double) +
           product_right(rank, columns) * sizeof(float);
}

#endif
