"""PowerSGD (arXiv 1905.13727): a matrix M of a (m, k) tensor as P Q^T, and both factors are averaged."""

from __future__ import annotations

import numpy as np

from benchmarks.accuracy.contenders.base import Estimate
from benchmarks.accuracy.gradients import Gradients


def powersgd(gradients: Gradients, rng: np.random.Generator, *, rank: int) -> Estimate:
    """P = orthogonal basis of mean(M_i Q), Q' = mean(M_i^T P), result P Q'^T: one power iteration from a random Q.

    A tensor (m, ...) is a matrix of m rows. Vectors, and matrices that two factors would not make smaller, are sent in
    float32. This is one step: no error feedback, which the method counts on, and no Q from the step before.
    """
    estimate, sent = gradients.mean.copy(), 0
    for tensor, values in zip(gradients.tensors, gradients.cut(estimate), strict=True):
        rows = tensor.shape[0]
        columns = tensor.numel // rows
        if rank * (rows + columns) >= tensor.numel:
            sent += tensor.numel
            continue
        # Both products are linear in the workers' matrices, so what the mean of theirs is follows from the mean matrix.
        matrix = values.reshape(rows, columns)
        basis, _ = np.linalg.qr(matrix @ rng.standard_normal((columns, rank)))
        values[:] = (basis @ (basis.T @ matrix)).reshape(-1)
        sent += rank * (rows + columns)
    return Estimate(estimate, 32 * sent / gradients.d)
