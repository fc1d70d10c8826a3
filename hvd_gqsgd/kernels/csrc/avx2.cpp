// The kernels for x86-64 processors with AVX2.
#include "variants.h"

#if defined(__x86_64__)
#pragma GCC push_options
#pragma GCC target("avx2")
namespace {
#include "body.inc"
}
#pragma GCC pop_options

const Variant avx2_variant = {block_norms, encode, decode};
#endif
