// The C interface of the one-bit kernels: tiles and words dealt out to threads.
#include "signs.h"

#include "shared.h"
#include "variants.h"

namespace {

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
            const DigitKeys keys = keys_of<DigitKeys>(tensor_key(seed, step, tensor_id, (uint64_t)hop));
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
