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
#define GQSGD_ABI 6

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
    int64_t bits; /* 2 to 16 */
} gqsgd_segment;

/* Dithers, in the order of maths.dither.KINDS. */
enum { GQSGD_INDEPENDENT = 0, GQSGD_CORRELATED = 1, GQSGD_NEAREST = 2 };

/* How the tensors of a bucket are written, and whose turn it is. Of ``size`` ranks this is ``rank``; a lane has to hold
 * the sum of ``summands`` codes, so it has (2^(bits - 1) - 1) / summands levels on each side of zero, at least one.
 * exponential: levels are powers of two; summands is 1 then. */
typedef struct {
    int64_t block_size; /* at most 4096 if rotated or with residuals */
    int64_t rotated;    /* 0 or 1 */
    int64_t dither;
    int64_t exponential; /* 0 or 1 */
    uint64_t seed, step, rank, size, summands;
} gqsgd_codec;

GQSGD_API int gqsgd_abi(void);

/* 1 where this library has kernels for ``isa`` and this processor runs them. */
GQSGD_API int gqsgd_runs(int isa);

/* Threads that ``threads = 0`` stands for. Small work takes fewer than it was offered. */
GQSGD_API int gqsgd_default_threads(void);

/* ``residuals``: null, or the addresses of a float32 buffer for each segment, which is added to its elements. */

/* norms[b] = max |x| of block b, +inf where the block has a NaN or an Inf. */
GQSGD_API void gqsgd_block_norms(
    const gqsgd_codec *codec, const gqsgd_segment *segments, const uint64_t *addresses, const uint64_t *residuals,
    int64_t count, float *norms, int threads, int isa);

/* words = the codes of every segment; residuals = what these leave over, but for blocks whose norm is +inf. */
GQSGD_API void gqsgd_encode(
    const gqsgd_codec *codec, const gqsgd_segment *segments, const uint64_t *addresses, const uint64_t *residuals,
    int64_t count, const float *norms, int32_t *words, int threads, int isa);

/* Elements = lane sums * (norm * (factor / levels)), written for every segment to its address; with exponential levels,
 * powers of two * (norm * factor). */
GQSGD_API void gqsgd_decode(
    const gqsgd_codec *codec, const gqsgd_segment *segments, const uint64_t *addresses, int64_t count, double factor,
    const int32_t *words, const float *norms, int threads, int isa);

#ifdef __cplusplus
}
#endif
#endif
