"""The gate in front of Horovod: what passes, what is refused, what only warns."""

import warnings

import pytest

from hvd_gqsgd import compat
from hvd_gqsgd.errors import GQSGDError, IncompatibleHorovodError


@pytest.fixture(autouse=True)
def _nothing_allowed(monkeypatch):
    monkeypatch.delenv(compat.ALLOW_UNTESTED, raising=False)


@pytest.mark.parametrize("version", ["0.28.1", "0.28.1.post2", "0.28.1+gpu", "0.28.2", "0.28.10"])
def test_tested_versions_pass_in_silence(version):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        compat.check_horovod(version)


@pytest.mark.parametrize("version", ["0.28.0", "0.28", "0.27.0", "0.9.10"])
@pytest.mark.parametrize("allowed", ["0", "1"])
def test_older_ones_are_refused_whatever_is_allowed(version, allowed, monkeypatch):
    monkeypatch.setenv(compat.ALLOW_UNTESTED, allowed)
    with pytest.raises(IncompatibleHorovodError) as caught:
        compat.check_horovod(version)
    assert str(caught.value) == (
        f"hvd_gqsgd with Horovod: expected >=0.28.1,<0.29, got {version}; "
        "install Horovod 0.28.1 (`make setup` in hvd_gqsgd's source tree builds it)"
    )


@pytest.mark.parametrize("version", ["0.29.0", "0.29.0rc1", "1.0", "0.100", "main"])
def test_newer_ones_are_refused_and_say_how_to_go_on(version):
    with pytest.raises(IncompatibleHorovodError) as caught:
        compat.check_horovod(version)
    assert str(caught.value) == (
        f"hvd_gqsgd with Horovod: expected >=0.28.1,<0.29, got {version}; "
        "install Horovod 0.28.1 (`make setup` in hvd_gqsgd's source tree builds it), "
        "or set HVD_GQSGD_ALLOW_UNTESTED=1 to go on untested"
    )


def test_newer_ones_warn_when_allowed(monkeypatch):
    monkeypatch.setenv(compat.ALLOW_UNTESTED, "1")
    with pytest.warns(UserWarning, match=r"expected >=0\.28\.1,<0\.29, got 0\.29\.0; going on"):
        compat.check_horovod("0.29.0")


def test_the_error_is_of_the_family_and_an_import_error():
    assert issubclass(IncompatibleHorovodError, GQSGDError)
    assert issubclass(IncompatibleHorovodError, ImportError)


@pytest.mark.parametrize(
    ("version", "inside"),
    [("2.12.1", False), ("2.13", True), ("2.13.0+cpu", True), ("2.14.0", False), ("nightly", False)],
)
def test_ranges_of_frameworks(version, inside):
    assert (version in compat.FRAMEWORKS["torch"]) is inside
