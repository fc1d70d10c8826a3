// The kernels for x86-64 processors with AVX-512 F, BW, DQ and VL.
#include "variants.h"

#if defined(__x86_64__)
#include <immintrin.h>

#define GQSGD_WIDE 16
#define GQSGD_FMA
#pragma GCC push_options
#pragma GCC target("f16c,fma,avx512f,avx512bw,avx512dq,avx512vl,prefer-vector-width=512")
namespace {
#include "body.inc"
}
#pragma GCC pop_options

const Variant avx512_variant = {block_norms, encode, decode};
#endif
