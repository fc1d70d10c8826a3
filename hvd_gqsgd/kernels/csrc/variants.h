// What dispatch.cpp and signs.cpp hand to the variant of an instruction set: some blocks of one segment, or some tiles of
// one tensor's signs.
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

const int64_t SIGNS_TILE = 512;

// Keys of the hash for each binary digit of a probability.
struct DigitKeys {
    uint32_t k0[32], k1[32];
};

// residual: may be null. The last four are of signs.h, over tiles [begin, end) or, to merge, words.
struct Variant {
    void (*block_norms)(
        const BlockRange &range, const Codec &codec, const void *x, const float *residual, float *norms);
    void (*encode)(
        const BlockRange &range, const Codec &codec, const void *x, float *residual, const float *norms,
        uint32_t *words);
    void (*decode)(
        const BlockRange &range, const Codec &codec, const uint32_t *words, const float *norms, double factor, void *out);
    void (*pack)(
        int64_t begin, int64_t end, int64_t numel, int dtype, const void *x, const float *compensation,
        uint32_t *words);
    void (*merge)(
        int64_t begin, int64_t end, uint32_t first_word, uint32_t threshold, const DigitKeys &keys,
        const uint32_t *row, uint32_t *merged);
    void (*compensate)(
        int64_t begin, int64_t end, int64_t numel, int dtype, const void *x, float *compensation,
        const uint32_t *words, float scale);
    void (*expand)(
        int64_t begin, int64_t end, int64_t numel, const uint32_t *words, uint64_t positive, int itemsize, void *out);
};

const Variant &variant_of(int isa);

extern const Variant baseline_variant;
#if defined(__x86_64__)
extern const Variant avx2_variant;
extern const Variant avx512_variant;
#endif
