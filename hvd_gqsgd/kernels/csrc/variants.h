// What dispatch.cpp hands to the variant of an instruction set: some blocks of one segment.
#pragma once

#include "kernels.h"

// Keys of the dither for each pair of lanes.
struct PairKeys {
    uint32_t k0[8], k1[8];
};

// Blocks [begin, end) of one segment. ``norms`` and ``words`` point at the segment's own first norm and word.
struct BlockRange {
    int64_t begin, end;
    int64_t numel, block_size;
    int dtype;
};

struct Variant {
    void (*block_norms)(const BlockRange &range, const void *x, float *norms);
    void (*encode)(
        const BlockRange &range, const void *x, const float *norms, int bits, int levels, const PairKeys &keys,
        uint32_t *words);
    void (*decode)(
        const BlockRange &range, const uint32_t *words, const float *norms, int bits, double unit,
        void *out);
};

extern const Variant baseline_variant;
#if defined(__x86_64__)
extern const Variant avx2_variant;
extern const Variant avx512_variant;
#endif
