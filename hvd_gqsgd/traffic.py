"""Counts of what compression saved, as bytes handed to Horovod's allreduce by this rank."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass
class Traffic:
    """Payload bytes since the start or the last ``reset()``.

    sent_bytes: handed to Horovod under compression: words, norms, probes, and tensors left uncompressed.
    dense_bytes: what the same tensors are in their own dtype, which is what Horovod sends without compression.

    A ring allreduce puts 2 (n - 1) / n times these on each rank's link; the ratio is the same.
    """

    sent_bytes: int = 0
    dense_bytes: int = 0

    @property
    def ratio(self) -> float:
        """dense_bytes / sent_bytes; 1.0 before anything was sent."""
        return self.dense_bytes / self.sent_bytes if self.sent_bytes else 1.0

    def reset(self) -> None:
        self.sent_bytes = self.dense_bytes = 0
