// What every file of the C interface needs: work dealt out to threads, their floating-point mode, and keys of random bits.
#pragma once

#include <omp.h>
#include <stdint.h>

#if defined(__x86_64__)
#include <xmmintrin.h>
#endif

namespace {

// Below this a thread costs more than it saves.
const int64_t MIN_NUMEL_PER_THREAD = 1 << 16;
const uint64_t GOLDEN = 0x9E3779B97F4A7C15ull;

// The arithmetic needs subnormals and rounding to nearest, whatever the calling thread has set (for example
// torch.set_flush_denormal), or ranks would disagree.
class DefaultFloats {
#if defined(__x86_64__)
    unsigned saved_ = _mm_getcsr();

public:
    DefaultFloats() { _mm_setcsr(0x1f80); }
    ~DefaultFloats() { _mm_setcsr(saved_); }
#else
public:
    DefaultFloats() {}
#endif
};

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

uint64_t mix64(uint64_t value) {
    value = (value ^ (value >> 30)) * 0xBF58476D1CE4E5B9ull;
    value = (value ^ (value >> 27)) * 0x94D049BB133111EBull;
    return value ^ (value >> 31);
}

uint64_t tensor_key(uint64_t seed, uint64_t step, uint64_t tensor_id, uint64_t rank) {
    uint64_t key = 0;
    const uint64_t parts[] = {seed, step, tensor_id, rank};
    for (uint64_t part : parts) key = mix64((key ^ part) + GOLDEN);
    return key;
}

// As many pairs (k0, k1) as ``Keys`` has: the splitmix64 sequence from ``key``.
template <class Keys> Keys keys_of(uint64_t key) {
    Keys keys;
    for (uint64_t pair = 0; pair < sizeof keys.k0 / sizeof keys.k0[0]; pair++) {
        const uint64_t draw = mix64(key + (pair + 1) * GOLDEN);
        keys.k0[pair] = (uint32_t)draw;
        keys.k1[pair] = (uint32_t)(draw >> 32);
    }
    return keys;
}

}  // namespace
