"""Settings say what to write instead."""

import copy
import pickle

import pytest

from hvd_gqsgd.errors import GQSGDError, SettingsError
from hvd_gqsgd.schemes import GlobalQSGD


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"bits": 1}, r"bits=1\): expected an integer from 2 to 16, got 1; write for instance bits=2"),
        ({"bits": 17}, r"got 17; write for instance bits=16"),
        ({"bits": 8.5}, r"bits=8\.5\): expected an integer from 2 to 16, got 8\.5; write for instance bits=8"),
        ({"bits": True}, r"expected an integer"),
        ({"bits": "8"}, r"expected an integer from 2 to 16, got '8'"),
        ({"bits": float("nan")}, r"expected an integer"),
        ({"block_size": 0}, r"block_size=0\): expected an integer from 1"),
        ({"block_size": 8192}, r"block_size=8192\): expected an integer from 1 to 4096"),
        ({"block_size": 8192, "rotation": None, "error_feedback": True}, r"expected an integer from 1 to 4096"),
        ({"rotation": "fourier"}, r"rotation='fourier'\): expected one of 'hadamard', None, got 'fourier'; write"),
        ({"rotation": True}, r"expected one of 'hadamard', None, got True"),
        ({"dither": "none"}, r"expected one of 'independent', 'correlated', 'nearest', None, got 'none'"),
        ({"error_feedback": 1}, r"error_feedback=1\): expected one of False, True, got 1"),
        ({"min_numel": -1}, r"min_numel=-1\): expected an integer from 0"),
        ({"seed": -1}, r"seed=-1\): expected an integer from 0"),
        ({"blocksize": 3}, r"unknown setting 'blocksize'; expected one of bits, .*; write block_size=3"),
        ({"colour": 3}, r"unknown setting 'colour'.*leave it out"),
    ],
)
def test_bad_settings(settings, said):
    with pytest.raises(SettingsError, match=said):
        GlobalQSGD(**settings)


def test_settings_are_named():
    with pytest.raises(SettingsError, match=r"GlobalQSGD\(4\).*write GlobalQSGD\(bits=4\)"):
        GlobalQSGD(4)


def test_settings_errors_are_value_errors_and_of_our_family():
    assert issubclass(SettingsError, ValueError)
    assert issubclass(SettingsError, GQSGDError)


def test_repr_evaluates_back_and_copies_are_equal():
    scheme = GlobalQSGD(bits=4, block_size=512, min_numel=0, seed=3)
    for same in (eval(repr(scheme)), copy.deepcopy(scheme), pickle.loads(pickle.dumps(scheme))):
        assert same == scheme
        assert hash(same) == hash(scheme)
    assert scheme != GlobalQSGD(bits=4)


def test_error_feedback_rounds_to_nearest_unless_told_otherwise():
    assert GlobalQSGD().dither == "correlated"
    assert GlobalQSGD(error_feedback=True).dither == "nearest"
    assert GlobalQSGD(error_feedback=True, dither="correlated").dither == "correlated"


def test_blocks_of_any_size_without_rotation():
    assert GlobalQSGD(block_size=1 << 24, rotation=None).block_size == 1 << 24


def test_settings_are_frozen():
    with pytest.raises(AttributeError):
        GlobalQSGD().bits = 4
