"""Slices of convolution kernels and their principal components (GradiVeQ, arXiv 1811.03617).

    to_slices    x_m (K,), m = 1 .. M: a kernel's elements with filters fastest, then depth, width, height
    components   mu = mean of samples, U_d = first d principal components of them
    project      c_m = U_d^T (x_m - mu)
    rebuild      U_d c_m + mu

Projection is affine, so the mean of the ranks' c is the c of their mean: with means instead of sums, mu / N
and mu become the same mu, and a rank that is absent changes nothing.

``rebuild`` gives the same bits on every machine, whatever its BLAS does with the order of a sum: U and c are integers
times powers of two, small enough for every partial sum to be exact in float64. [derived here]
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

#: Elements of U are multiples of 2^-BASIS_BITS, which float32 holds.
BASIS_BITS = 23
_MANTISSA_BITS = 53
#: Components whose variance is less than this part of the largest are rounding errors.
_NEGLIGIBLE = 1e-10


def slice_length(filters: int, depth: int, places: int, wanted: int) -> int:
    """The K nearest ``wanted``, as a ratio, of those that leave no rest of filters * depth * places elements.

    Multiples of filters * depth, where the paper finds the loss to drop sharply; if that alone is more than twice
    ``wanted``, multiples of ``filters`` that divide it; if those are too long, what divides ``filters``.

    >>> slice_length(16, 16, 9, 768), slice_length(64, 32, 9, 2048), slice_length(512, 512, 9, 2048)
    (768, 2048, 2048)
    """
    if filters * depth <= 2 * wanted:
        lengths = [filters * depth * k for k in _divisors(places)]
    elif filters <= 2 * wanted:
        lengths = [filters * k for k in _divisors(depth)]
    else:
        lengths = _divisors(filters)
    return min(lengths, key=lambda length: abs(math.log(length / wanted)))


def to_slices(flat: np.ndarray, shape: Sequence[int], filters: str, numel: int) -> np.ndarray:
    """(slices, numel) of a kernel (elements,) of this shape.

    filters: "first" for PyTorch's (F, D, H, W), of which this is permute(2, 3, 1, 0); "last" for TensorFlow's
    (H, W, D, F), which is in order.
    """
    if filters == "last":
        return flat.reshape(-1, numel)
    return flat.reshape(shape).transpose(_permutation(shape)).reshape(-1, numel)


def from_slices(slices: np.ndarray, shape: Sequence[int], filters: str) -> np.ndarray:
    """The inverse of ``to_slices``: (elements,)."""
    if filters == "last":
        return slices.reshape(-1)
    order = _permutation(shape)
    permuted = slices.reshape([shape[axis] for axis in order])
    return permuted.transpose(np.argsort(order)).reshape(-1)


def components(samples: np.ndarray, loss: float, most: int, centre: bool) -> tuple[np.ndarray, np.ndarray]:
    """mu (K,) and basis (K, d) of finite samples (S, K), both float32.

    centre: whether mu is their mean, as in the paper, or zero. d is the least with sum_{k <= d} s_k >= (1 - loss)
    sum_k s_k, s the singular values of the covariance (of the second moments, if not centred), and at most ``most``;
    0 where there is nothing to keep. Bits may differ between machines.
    """
    mean = samples.mean(axis=0, dtype=np.float64).astype(np.float32) if centre else np.zeros_like(samples[0])
    centred = samples.astype(np.float64) - mean
    few = len(centred) <= centred.shape[1]
    variances, vectors = np.linalg.eigh(centred @ centred.T if few else centred.T @ centred)
    # The largest come last; copied, because BLAS does not take negative strides.
    variances, vectors = variances[::-1].clip(0), np.ascontiguousarray(vectors[:, ::-1])
    present = int(np.count_nonzero(variances > _NEGLIGIBLE * variances[0]))
    kept = np.cumsum(variances)
    d = min(int(np.searchsorted(kept, (1 - loss) * kept[-1])) + 1, present, most)
    basis = centred.T @ vectors[:, :d] / np.sqrt(variances[:d]) if few else vectors[:, :d]
    unit = float(1 << BASIS_BITS)
    return mean, np.ascontiguousarray((np.rint(basis * unit) / unit).astype(np.float32))


def project(slices: np.ndarray, mean: np.ndarray, basis: np.ndarray) -> tuple[np.ndarray, float]:
    """Coefficients float32 (slices, d), and the part of |slices|^2 that they miss; NaN where slices are not finite."""
    with np.errstate(over="ignore", invalid="ignore"):
        centred = slices - mean
        coefficients = centred @ basis
        whole = np.vdot(slices, slices)
        # U is orthonormal: |x - mu - U c|^2 = |x - mu|^2 - |c|^2.
        missed = max(0.0, np.vdot(centred, centred) - np.vdot(coefficients, coefficients)) / whole if whole else 0.0
    return coefficients, float(missed) if np.isfinite(whole) else math.nan


def rebuild(coefficients: np.ndarray, mean: np.ndarray, basis: np.ndarray) -> np.ndarray:
    """float64 (slices, K) from finite coefficients (slices, d); the same bits on every machine.

    Coefficients are rounded to 2^-22 of the largest (d <= 256; one bit less each time that d doubles).
    """
    d = basis.shape[1]
    bits = _MANTISSA_BITS - BASIS_BITS - max(0, d - 1).bit_length()
    _, exponent = np.frexp(np.abs(coefficients).max(initial=0))
    unit = 2.0 ** (int(exponent) - bits)
    slices = np.rint(coefficients.astype(np.float64) / unit) @ basis.T.astype(np.float64)
    slices *= unit
    slices += mean
    return slices


def _permutation(shape: Sequence[int]) -> tuple[int, ...]:
    return (*range(2, len(shape)), 1, 0)


def _divisors(number: int) -> list[int]:
    """From the largest down, so that the longer slice is taken of two as near."""
    small = [k for k in range(1, math.isqrt(number) + 1) if number % k == 0]
    return sorted({*small, *(number // k for k in small)}, reverse=True)
