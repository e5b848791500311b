/* The kernels for 64-bit ARM processors, all of which have NEON. */
#if defined(__aarch64__)
#include <arm_neon.h>
#define VARIANT_NEON
#define VARIANT variant_neon
#define VARIANT_NAME "neon"
#include "all_kernels.inc"
#else
typedef int variant_neon_is_elsewhere;
#endif
