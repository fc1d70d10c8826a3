"""This process's counts of what compression saved in horovod.torch."""

from hvd_gqsgd.traffic import Traffic

__all__ = ["Traffic", "traffic"]

traffic = Traffic()
