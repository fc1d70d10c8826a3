// What every file that deals work out to threads needs: the floating-point mode, and keys of random bits.
#pragma once

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

}  // namespace
