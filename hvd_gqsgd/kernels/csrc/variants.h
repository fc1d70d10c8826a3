// What dispatch.cpp hands to the variant of an instruction set: some blocks of one segment.
#pragma once

#include "kernels.h"

// Keys of the hash for each pair of lanes.
struct PairKeys {
    uint32_t k0[8], k1[8];
};

// How a segment is written. dither: keys of the hash h; noise is ((h + shift) & keep) ^ flip in 16 bits. signs: keys of
// the rotation.
struct Codec {
    int bits, levels;
    bool rotated, exponential;
    PairKeys dither;
    uint32_t shift, keep, flip;
    PairKeys signs;
};

// Blocks [begin, end) of one segment. Norms, words and residual are the segment's own.
struct BlockRange {
    int64_t begin, end;
    int64_t numel, block_size;
    int dtype;
};

// residual: may be null.
struct Variant {
    void (*block_norms)(
        const BlockRange &range, const Codec &codec, const void *x, const float *residual, float *norms);
    void (*encode)(
        const BlockRange &range, const Codec &codec, const void *x, float *residual, const float *norms,
        uint32_t *words);
    void (*decode)(
        const BlockRange &range, const Codec &codec, const uint32_t *words, const float *norms, double factor, void *out);
};

extern const Variant baseline_variant;
#if defined(__x86_64__)
extern const Variant avx2_variant;
extern const Variant avx512_variant;
#endif
