"""What the tests of Keras 2 and 3 share: digits, dealt out to the ranks, and how a trained model is judged."""

from __future__ import annotations

from functools import cached_property

import horovod.tensorflow as hvd
import numpy as np
from sklearn.datasets import load_digits
from tf_rig import assert_same_on_all_ranks


class _Digits:
    """scikit-learn's: 1,200 to train on, 597 to judge by."""

    @cached_property
    def _all(self):
        x, y = load_digits(return_X_y=True)
        order = np.random.default_rng(0).permutation(len(y))
        return (x[order] / 16).astype("float32"), y[order]

    def shard(self):
        """This rank's part of the training data; of equal length on all ranks."""
        x, y = self._all
        rank, size = hvd.rank(), hvd.size()
        most = 1200 // size * size
        return x[rank:most:size], y[rank:most:size]

    def accuracy_of(self, model) -> float:
        x, y = self._all
        return float((model.predict(x[1200:], verbose=0).argmax(axis=1) == y[1200:]).mean())


DATA = _Digits()


def assert_trained_alike(variables) -> None:
    """Every rank has the same bits."""
    for variable in variables:
        assert_same_on_all_ranks(np.asarray(variable))
