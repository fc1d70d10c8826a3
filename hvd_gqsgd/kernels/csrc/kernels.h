/* The C interface of the compiled kernels: block norms, encode and decode over the tensors of a bucket.
 *
 * Buffers and scalars in, codes out; nothing is validated here. ``segments`` says where the tensors of a bucket have their
 * norms and words and stays the same from step to step, ``addresses`` where their elements are in this call. Offsets
 * count elements from the beginning of the norms and the words buffer, their headers included. hvd_gqsgd/maths is the
 * specification, to the bit; hvd_gqsgd/kernels/compiled.py and hvd_gqsgd/tensorflow/csrc are the only callers.
 */
#ifndef GQSGD_KERNELS_H
#define GQSGD_KERNELS_H

#include <stdint.h>

#define GQSGD_API __attribute__((visibility("default")))

#ifdef __cplusplus
extern "C" {
#endif

/* Counts up with every change below; a library that was built from other sources is refused. */
#define GQSGD_ABI 3

/* Instruction sets, in rising order. */
enum { GQSGD_BASELINE = 0, GQSGD_AVX2 = 1, GQSGD_AVX512 = 2 };

/* Element types, in the order of maths.floats.DTYPES. */
enum { GQSGD_FLOAT32 = 0, GQSGD_FLOAT16 = 1, GQSGD_BFLOAT16 = 2, GQSGD_FLOAT64 = 3 };

/* One tensor of a bucket: a row of layout.SEGMENT. */
typedef struct {
    int64_t numel;
    int64_t norms_offset;
    int64_t words_offset;
    uint64_t tensor_id;
    int64_t dtype;
} gqsgd_segment;

GQSGD_API int gqsgd_abi(void);

/* 1 where this library has kernels for ``isa`` and this processor runs them. */
GQSGD_API int gqsgd_runs(int isa);

/* Threads that ``threads = 0`` stands for. Small work takes fewer than it was offered. */
GQSGD_API int gqsgd_default_threads(void);

/* norms[b] = max |x| of block b, +inf where the block has a NaN or an Inf. */
GQSGD_API void gqsgd_block_norms(
    const gqsgd_segment *segments, const uint64_t *addresses, int64_t count, int64_t block_size, float *norms,
    int threads, int isa);

/* words = the codes of every segment, dithered by (seed, step, tensor_id, rank). 2 <= bits <= 16. */
GQSGD_API void gqsgd_encode(
    const gqsgd_segment *segments, const uint64_t *addresses, int64_t count, int64_t block_size, int bits, int levels,
    uint64_t seed, uint64_t step, uint64_t rank, const float *norms, int32_t *words, int threads, int isa);

/* Elements = lane sums * (norm * unit), written for every segment to its address; unit is factor / levels. */
GQSGD_API void gqsgd_decode(
    const gqsgd_segment *segments, const uint64_t *addresses, int64_t count, int64_t block_size, int bits, double unit,
    const int32_t *words, const float *norms, int threads, int isa);

#ifdef __cplusplus
}
#endif
#endif
