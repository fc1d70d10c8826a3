/* The C interface of the one-bit kernels, over one tensor at a time. hvd_gqsgd/maths/signs.py is the specification, to the
 * bit; hvd_gqsgd/kernels/signs.py is the only caller. dtype: of x, finite. Words are in tiles of 16, the last one shorter. */
#pragma once

#include "kernels.h"

#ifdef __cplusplus
extern "C" {
#endif

/* words = the signs of x + compensation: 1 is >= 0. */
GQSGD_API void gqsgd_signs_pack(
    const void *x, int dtype, const float *compensation, int64_t numel, uint32_t *words, int threads, int isa);

/* merged = one aggregate of n >= 1 rows of ``count`` words, ``stride`` words apart; first_word: their number in the tensor,
 * of which, with the first three, random bits are drawn. */
GQSGD_API void gqsgd_signs_merge(
    uint64_t seed, uint64_t step, uint64_t tensor_id, uint64_t first_word, const uint32_t *rows, int64_t stride, int64_t n,
    int64_t count, uint32_t *merged, int threads, int isa);

/* compensation = (x + compensation) - scale where a bit is 1, + scale elsewhere. */
GQSGD_API void gqsgd_signs_compensate(
    const void *x, int dtype, float *compensation, int64_t numel, const uint32_t *words, float scale, int threads, int isa);

/* out = the element of ``itemsize`` bytes whose bits are ``positive`` where a bit is 1, its negative elsewhere. */
GQSGD_API void gqsgd_signs_expand(
    const uint32_t *words, int64_t numel, uint64_t positive, int itemsize, void *out, int threads, int isa);

#ifdef __cplusplus
}
#endif
