// The kernels for x86-64 processors with AVX-512 F, BW, DQ and VL.
#include "variants.h"

#if defined(__x86_64__)
#include <immintrin.h>

#define GQSGD_WIDE 16
#if defined(__clang__)
#pragma clang attribute push(__attribute__((target("f16c,avx512f,avx512bw,avx512dq,avx512vl"))), apply_to = function)
#else
#pragma GCC push_options
#pragma GCC target("f16c,avx512f,avx512bw,avx512dq,avx512vl,prefer-vector-width=512")
#endif
namespace {
#include "body.inc"
}
#if defined(__clang__)
#pragma clang attribute pop
#else
#pragma GCC pop_options
#endif

const Variant avx512_variant = {block_norms, encode, decode, pack, merge, compensate, expand};
#endif
