/* The kernels in plain C, for every processor. */
#define VARIANT variant_plain
#define VARIANT_NAME "plain"
#include "all_kernels.inc"
