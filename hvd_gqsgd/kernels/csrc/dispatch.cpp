// The C interface: chooses the instruction set at run time and deals the blocks of all segments out to threads.
#include "shared.h"
#include "variants.h"

#if defined(__x86_64__)
#include <cpuid.h>
#endif

namespace {

#if defined(__x86_64__)
// Clang's __builtin_cpu_supports does not know this one.
bool has_f16c() {
    unsigned a, b, c, d;
    return __get_cpuid(1, &a, &b, &c, &d) && (c & bit_F16C);
}
#endif

// maths.dither.place_among and position.
void take_place(uint64_t key, uint64_t n, uint64_t rank, Codec &codec) {
    const auto draw = [&](uint64_t other) { return mix64(key + (9 + other) * GOLDEN); };
    const uint64_t own = draw(rank);
    uint64_t place = 0;
    for (uint64_t other = 0; other < n; other++) place += draw(other) < own;
    if (n % 2) {
        codec.shift = (uint32_t)(place * 65536 / n);
    } else {
        codec.shift = (uint32_t)(place / 2 * 65536 / (n / 2));
        codec.flip = place % 2 ? 0xffff : 0;
    }
}

// ``dithered``: for encode, which alone needs the dither.
Codec codec_of(const gqsgd_codec &given, const gqsgd_segment &segment, bool dithered) {
    const uint64_t shared = ~0ull, rotation = ~1ull;
    Codec codec = {};
    codec.bits = (int)segment.bits;
    codec.levels = (int)((((uint64_t)1 << (segment.bits - 1)) - 1) / given.summands);
    codec.rotated = given.rotated;
    codec.exponential = given.exponential;
    if (codec.rotated) codec.signs = keys_of<PairKeys>(tensor_key(given.seed, 0, segment.tensor_id, rotation));
    if (!dithered) return codec;
    codec.keep = 0xffff;
    if (given.dither == GQSGD_NEAREST) {
        codec.keep = 0;
        codec.flip = 0x8000;
    } else if (given.dither == GQSGD_INDEPENDENT) {
        codec.dither = keys_of<PairKeys>(tensor_key(given.seed, given.step, segment.tensor_id, given.rank));
    } else {
        const uint64_t key = tensor_key(given.seed, given.step, segment.tensor_id, shared);
        codec.dither = keys_of<PairKeys>(key);
        take_place(key, given.size, given.rank, codec);
    }
    return codec;
}

int64_t blocks_of(const gqsgd_segment &segment, int64_t block_size) {
    return (segment.numel + block_size - 1) / block_size;
}

// The tensors of a call. residuals: null or as many addresses.
struct Bucket {
    const gqsgd_segment *segments;
    const uint64_t *addresses, *residuals;
    int64_t count, block_size;
};

// Calls work(segment, address, residual, range) for blocks [begin, end) of the list of all blocks of all segments.
template <class Work> void visit(const Bucket &bucket, int64_t begin, int64_t end, Work work) {
    for (int64_t s = 0, before = 0; s < bucket.count && before < end; s++) {
        const gqsgd_segment &segment = bucket.segments[s];
        const int64_t blocks = blocks_of(segment, bucket.block_size);
        const int64_t from = begin > before ? begin - before : 0, to = end - before < blocks ? end - before : blocks;
        if (from < to)
            work(
                segment, (void *)bucket.addresses[s], bucket.residuals ? (float *)bucket.residuals[s] : nullptr,
                BlockRange{from, to, segment.numel, bucket.block_size, (int)segment.dtype});
        before += blocks;
    }
}

template <class Work> void visit_all(const Bucket &bucket, int threads, Work work) {
    int64_t numel = 0, blocks = 0;
    for (int64_t s = 0; s < bucket.count; s++) {
        numel += bucket.segments[s].numel;
        blocks += blocks_of(bucket.segments[s], bucket.block_size);
    }
    deal(blocks, numel, threads, [&](int64_t begin, int64_t end) { visit(bucket, begin, end, work); });
}

}  // namespace

const Variant &variant_of(int isa) {
#if defined(__x86_64__)
    if (isa == GQSGD_AVX512) return avx512_variant;
    if (isa == GQSGD_AVX2) return avx2_variant;
#else
    (void)isa;
#endif
    return baseline_variant;
}

int gqsgd_abi(void) { return GQSGD_ABI; }

int gqsgd_runs(int isa) {
    if (isa == GQSGD_BASELINE) return 1;
#if defined(__x86_64__)
    const bool avx2 = __builtin_cpu_supports("avx2") && has_f16c();
    if (isa == GQSGD_AVX2) return avx2;
    if (isa == GQSGD_AVX512)
        return avx2 && __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
               __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vl");
#endif
    return 0;
}

int gqsgd_default_threads(void) { return omp_get_max_threads(); }

void gqsgd_block_norms(
    const gqsgd_codec *codec, const gqsgd_segment *segments, const uint64_t *addresses, const uint64_t *residuals,
    int64_t count, float *norms, int threads, int isa) {
    const Variant &variant = variant_of(isa);
    const auto work = [&](const gqsgd_segment &segment, const void *x, const float *residual, const BlockRange &range) {
        variant.block_norms(range, codec_of(*codec, segment, false), x, residual, norms + segment.norms_offset);
    };
    visit_all({segments, addresses, residuals, count, codec->block_size}, threads, work);
}

void gqsgd_encode(
    const gqsgd_codec *codec, const gqsgd_segment *segments, const uint64_t *addresses, const uint64_t *residuals,
    int64_t count, const float *norms, int32_t *words, int threads, int isa) {
    const Variant &variant = variant_of(isa);
    const auto work = [&](const gqsgd_segment &segment, const void *x, float *residual, const BlockRange &range) {
        variant.encode(
            range, codec_of(*codec, segment, true), x, residual, norms + segment.norms_offset,
            (uint32_t *)words + segment.words_offset);
    };
    visit_all({segments, addresses, residuals, count, codec->block_size}, threads, work);
}

void gqsgd_decode(
    const gqsgd_codec *codec, const gqsgd_segment *segments, const uint64_t *addresses, int64_t count, double factor,
    const int32_t *words, const float *norms, int threads, int isa) {
    const Variant &variant = variant_of(isa);
    const auto work = [&](const gqsgd_segment &segment, void *out, const float *, const BlockRange &range) {
        variant.decode(
            range, codec_of(*codec, segment, false), (const uint32_t *)words + segment.words_offset,
            norms + segment.norms_offset, factor, out);
    };
    visit_all({segments, addresses, nullptr, count, codec->block_size}, threads, work);
}
