/* The running state of an XXH3-128 hash: plain values, to be kept anywhere (8-byte aligned) and copied freely. */
#ifndef MERGEBUILD_XXH3_H
#define MERGEBUILD_XXH3_H

#include <stdint.h>

#define XXH3_STRIPE 64   /* bytes that are mixed in together, 8 in each lane */
#define XXH3_WAITING 256 /* bytes that may wait; at least the 240 for which there are short forms */

struct xxh3_state {
    uint64_t lanes[8]; /* the sums over the bytes that wait no longer */
    uint64_t size;     /* bytes seen */
    uint64_t waiting;  /* those of them that wait in `recent`; with any seen, at least one waits */
    /* The 64 bytes before those that wait, then those. So the last 64 seen lie together, wherever the input was cut. */
    unsigned char recent[XXH3_STRIPE + XXH3_WAITING];
};

#endif
