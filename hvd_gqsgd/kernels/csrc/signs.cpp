// The one-bit kernels: the loops of every instruction set, the choice between them, and threads.
#include "signs.h"

#include "shared.h"

#include <omp.h>

#if defined(__x86_64__)
#include <immintrin.h>
#endif

namespace {

const int64_t SIGNS_TILE = 512;

// Keys of the hash for each binary digit of a probability.
struct DigitKeys {
    uint32_t k0[32], k1[32];
};

struct SignVariant {
    void (*pack)(int64_t, int64_t, int64_t, int, const void *, const float *, uint32_t *);
    void (*merge)(int64_t, int64_t, uint32_t, uint32_t, const DigitKeys &, const uint32_t *, uint32_t *);
    void (*compensate)(int64_t, int64_t, int64_t, int, const void *, float *, const uint32_t *, float);
    void (*expand)(int64_t, int64_t, int64_t, const uint32_t *, uint64_t, int, void *);
};

#define GQSGD_WIDE 4
namespace baseline {
#include "signs.inc"
}
#undef GQSGD_WIDE

#if defined(__x86_64__)
#define GQSGD_WIDE 8
#if defined(__clang__)
#pragma clang attribute push(__attribute__((target("avx2,f16c"))), apply_to = function)
#else
#pragma GCC push_options
#pragma GCC target("avx2,f16c")
#endif
namespace avx2 {
#include "signs.inc"
}
#if defined(__clang__)
#pragma clang attribute pop
#else
#pragma GCC pop_options
#endif
#undef GQSGD_WIDE

#define GQSGD_WIDE 16
#if defined(__clang__)
#pragma clang attribute push(__attribute__((target("f16c,avx512f,avx512bw,avx512dq,avx512vl"))), apply_to = function)
#else
#pragma GCC push_options
#pragma GCC target("f16c,avx512f,avx512bw,avx512dq,avx512vl,prefer-vector-width=512")
#endif
namespace avx512 {
#include "signs.inc"
}
#if defined(__clang__)
#pragma clang attribute pop
#else
#pragma GCC pop_options
#endif
#undef GQSGD_WIDE
#endif

const SignVariant &variant_of(int isa) {
#if defined(__x86_64__)
    if (isa == GQSGD_AVX512) return avx512::variant;
    if (isa == GQSGD_AVX2) return avx2::variant;
#else
    (void)isa;
#endif
    return baseline::variant;
}

DigitKeys digit_keys(uint64_t key) {
    DigitKeys keys;
    for (int digit = 0; digit < 32; digit++) {
        const uint64_t draw = mix64(key + (uint64_t)(digit + 1) * GOLDEN);
        keys.k0[digit] = (uint32_t)draw;
        keys.k1[digit] = (uint32_t)(draw >> 32);
    }
    return keys;
}

// Calls work(begin, end) for parts of ``items`` that together stand for ``numel`` elements.
template <class Work> void deal(int64_t items, int64_t numel, int threads, Work work) {
    int64_t team = threads > 0 ? threads : omp_get_max_threads();
    if (team > numel / MIN_NUMEL_PER_THREAD) team = numel / MIN_NUMEL_PER_THREAD;
    if (team <= 1) {
        const DefaultFloats floats;
        return work((int64_t)0, items);
    }
#pragma omp parallel num_threads((int)team)
    {
        const DefaultFloats floats;
        const int64_t size = omp_get_num_threads(), me = omp_get_thread_num();
        work(items * me / size, items * (me + 1) / size);
    }
}

int64_t tiles_of(int64_t numel) { return (numel + SIGNS_TILE - 1) / SIGNS_TILE; }

}  // namespace

void gqsgd_signs_pack(
    const void *x, int dtype, const float *compensation, int64_t numel, uint32_t *words, int threads, int isa) {
    deal(tiles_of(numel), numel, threads, [&](int64_t begin, int64_t end) {
        variant_of(isa).pack(begin, end, numel, dtype, x, compensation, words);
    });
}

void gqsgd_signs_merge(
    uint64_t seed, uint64_t step, uint64_t tensor_id, uint64_t first_word, const uint32_t *rows, int64_t stride, int64_t n,
    int64_t count, uint32_t *merged, int threads, int isa) {
    deal(count, count * 32 * n, threads, [&](int64_t begin, int64_t end) {
        __builtin_memcpy(merged + begin, rows + begin, (end - begin) * sizeof(uint32_t));
        for (int64_t hop = 2; hop <= n; hop++) {
            const DigitKeys keys = digit_keys(tensor_key(seed, step, tensor_id, (uint64_t)hop));
            const uint32_t threshold = (uint32_t)(((uint64_t)1 << 32) / (uint64_t)hop);
            variant_of(isa).merge(
                begin, end, (uint32_t)first_word, threshold, keys, rows + (hop - 1) * stride, merged);
        }
    });
}

void gqsgd_signs_compensate(
    const void *x, int dtype, float *compensation, int64_t numel, const uint32_t *words, float scale, int threads, int isa) {
    deal(tiles_of(numel), numel, threads, [&](int64_t begin, int64_t end) {
        variant_of(isa).compensate(begin, end, numel, dtype, x, compensation, words, scale);
    });
}

void gqsgd_signs_expand(
    const uint32_t *words, int64_t numel, uint64_t positive, int itemsize, void *out, int threads, int isa) {
    deal(tiles_of(numel), numel, threads, [&](int64_t begin, int64_t end) {
        variant_of(isa).expand(begin, end, numel, words, positive, itemsize, out);
    });
}
