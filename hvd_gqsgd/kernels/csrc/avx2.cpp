// The kernels for x86-64 processors with AVX2 and F16C.
#include "variants.h"

#if defined(__x86_64__)
#include <immintrin.h>

#define GQSGD_F16C
#pragma GCC push_options
#pragma GCC target("avx2,f16c")
namespace {
#include "body.inc"
}
#pragma GCC pop_options

const Variant avx2_variant = {block_norms, encode, decode};
#endif
