// The kernels for x86-64 processors with AVX2 and F16C.
#include "variants.h"

#if defined(__x86_64__)
#include <immintrin.h>

#define GQSGD_WIDE 8
#if defined(__clang__)
#pragma clang attribute push(__attribute__((target("avx2,f16c"))), apply_to = function)
#else
#pragma GCC push_options
#pragma GCC target("avx2,f16c")
#endif
namespace {
#include "body.inc"
}
#if defined(__clang__)
#pragma clang attribute pop
#else
#pragma GCC pop_options
#endif

const Variant avx2_variant = {block_norms, encode, decode, pack, merge, compensate, expand};
#endif
