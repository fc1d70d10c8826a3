"""The exceptions of this package: one family, caught together as ``GQSGDError``.

Every message says operation and tensor, what was expected, what was got, and what to write instead.
"""

from __future__ import annotations


class GQSGDError(Exception):
    """Base of every exception that this package raises on purpose."""

    # TensorFlow's AutoGraph raises what it catches again, with a trace of the user's code; as the same type only where
    # it finds that it is made like this.
    __init__ = Exception.__init__


class SettingsError(GQSGDError, ValueError):
    """A setting has a value or a name that no compressor takes."""


class UnsupportedError(GQSGDError, NotImplementedError):
    """The operation exists in Horovod, but does not work with compressed gradients."""


class DisagreementError(GQSGDError, RuntimeError):
    """Ranks of one exchange differ in settings or tensors; raised on every rank, with what each one has."""


class KernelsMissingError(GQSGDError, ImportError):
    """The compiled kernels are not built, or a forced implementation does not run on this machine."""


class IncompatibleHorovodError(GQSGDError, ImportError):
    """The installed Horovod is outside the range that this package was tested with."""
