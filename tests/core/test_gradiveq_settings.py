"""GradiVeQ's settings: which parameters are kernels, what is refused and what it says."""

import pytest

from hvd_gqsgd.errors import SettingsError
from hvd_gqsgd.schemes import GlobalQSGD, GradiVeQ, Rule


def test_who_sends_what():
    scheme = GradiVeQ()
    assert scheme.bits_of("conv", (64, 32, 3, 3)) == 8
    assert scheme.bits_of("bias", (64,)) is None
    assert scheme.slicing_of("matrix", (512, 512)) is None
    assert scheme.slicing_of("conv", (64, 32, 3, 3)).numel == 2048
    assert scheme.slicing_of("conv", (16, 8, 3, 3)).count == 1
    full = GradiVeQ(then=None)
    assert full.bits_of("matrix", (512, 512)) is None
    assert full.bits_of("conv", (64, 32, 3, 3)) == 8
    named = GradiVeQ(then=GlobalQSGD(bits=(Rule(bits=None, name="stem"), 6)))
    assert named.bits_of("stem", (64, 32, 3, 3)) is None
    assert named.slicing_of("stem", (64, 32, 3, 3)) is None
    assert scheme.on_host
    assert not scheme.cuts_tensors
    assert not scheme.keeps_residuals


def test_filters_are_last_in_tensorflow():
    class TensorFlow(GradiVeQ):
        filters = "last"

    assert TensorFlow().slicing_of("conv", (3, 3, 64, 16)) == TensorFlow().slicing_of("conv", (3, 3, 64, 16))
    assert TensorFlow(slice_numel=1024).slicing_of("conv", (3, 3, 64, 16)).numel == 1024
    assert GradiVeQ(slice_numel=1024).slicing_of("conv", (16, 64, 3, 3)).numel == 1024


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"then": 8}, r"GradiVeQ\(then=8\): expected a GlobalQSGD or None, got 8; write .*then=GlobalQSGD\(bits=8\)"),
        ({"sampling": None}, r"expected a GlobalQSGD, got None; write for instance sampling=GlobalQSGD\(bits=8\)"),
        ({"then": GlobalQSGD}, r"expected a GlobalQSGD or None.*then=GlobalQSGD\(bits=8\)"),
        (
            {"then": GlobalQSGD(bits=4, error_feedback=True)},
            r"expected error_feedback=False.*then=GlobalQSGD\(bits=4\)",
        ),
        ({"loss": 1}, r"loss=1\): expected a number from 0 to 1 \(exclusive\), got 1; write for instance loss=0.01"),
        ({"refresh": "never"}, r"from 0 to 1 \(exclusive\) or None, got 'never'; write for instance refresh=None"),
        ({"ratio": 0}, r"ratio=0\): expected an integer from 1 to"),
        ({"sample_steps": 1}, r"sample_steps=1\): expected an integer from 2"),
        ({"warmup": 5}, r"unknown setting 'warmup'.*write warm_up_steps=5"),
        ({"centre": 1}, r"centre=1\): expected one of False, True"),
    ],
)
def test_settings_say_what_to_write(settings, message):
    with pytest.raises(SettingsError, match=message):
        GradiVeQ(**settings)


def test_settings_evaluate_back():
    scheme = GradiVeQ(then=None, loss=0.1, sampling=GlobalQSGD(exchange="two_phase"))
    assert eval(repr(scheme)) == scheme


def test_a_world_too_large_for_either_scheme():
    GradiVeQ().check_world(127)
    with pytest.raises(SettingsError, match="write bits=5"):
        GradiVeQ(sampling=GlobalQSGD(bits=4)).check_world(8)
    with pytest.raises(SettingsError, match="write bits=9"):
        GradiVeQ().check_world(200)
