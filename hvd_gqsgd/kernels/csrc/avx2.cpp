// The kernels for x86-64 processors with AVX2, F16C and FMA.
#include "variants.h"

#if defined(__x86_64__)
#include <immintrin.h>

#define GQSGD_WIDE 8
#define GQSGD_FMA
#pragma GCC push_options
#pragma GCC target("avx2,f16c,fma")
namespace {
#include "body.inc"
}
#pragma GCC pop_options

const Variant avx2_variant = {block_norms, encode, decode};
#endif
