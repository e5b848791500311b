/* The running state of an XXH3-128 hash: plain values, to be kept anywhere (8-byte aligned) and copied freely. */
#ifndef MERGEBUILD_XXH3_H
#define MERGEBUILD_XXH3_H

#include <stdint.h>

#define XXH3_STRIPE 64   /* bytes that are mixed in together, 8 in each lane */
#define XXH3_WAITING 256 /* the most bytes that may wait; at least 240, up to which inputs have short forms */

struct xxh3_state {
    uint64_t lanes[8]; /* the sums over the bytes that were mixed in */
    uint64_t size;     /* how many bytes were added */
    uint64_t waiting;  /* how many of them wait in `recent` to be mixed in; at least one, if any were added */
    /* The 64 bytes before the waiting ones, then these. So the last 64 bytes are together, however the input was cut. */
    unsigned char recent[XXH3_STRIPE + XXH3_WAITING];
};

#endif
