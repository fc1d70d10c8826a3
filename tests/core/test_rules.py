"""Widths by name and shape."""

import pytest

from hvd_gqsgd.errors import SettingsError
from hvd_gqsgd.schemes import GlobalQSGD, Rule

RULES = (
    Rule(bits=None, shape=(None,)),
    Rule(bits=6, name="embed"),
    Rule(bits=4, name=r"^conv\d", shape=(None, None, 3, 3)),
    8,
)


@pytest.mark.parametrize(
    ("name", "shape", "bits"),
    [
        ("embed.weight", (5000, 64), 6),
        ("my.embedding", (5000, 64), 6),
        ("head.bias", (5000,), None),
        ("embed.bias", (5000,), None),
        ("conv1.weight", (64, 64, 3, 3), 4),
        ("conv1.weight", (64, 64, 1, 1), 8),
        ("deconv1.weight", (64, 64, 3, 3), 8),
        ("head.weight", (100, 100), 8),
        ("head.weight", (10, 10), None),
    ],
)
def test_the_first_rule_that_covers_a_tensor_decides(name, shape, bits):
    assert GlobalQSGD(bits=RULES).bits_of(name, shape) == bits


def test_a_dictionary_is_rules_by_name():
    scheme = GlobalQSGD(bits={"embed": 6, "head": None})
    assert scheme == GlobalQSGD(bits=(Rule(bits=6, name="embed"), Rule(bits=None, name="head"), 8))
    assert scheme.bits_of("embed.weight", (100, 100)) == 6
    assert scheme.bits_of("head.weight", (100, 100)) is None
    assert scheme.bits_of("else", (100, 100)) == 8


def test_settings_with_rules_are_settings():
    scheme = GlobalQSGD(bits=list(RULES))
    assert eval(repr(scheme)) == scheme
    assert hash(scheme) == hash(GlobalQSGD(bits=RULES))
    assert scheme != GlobalQSGD(bits=RULES[1:])


def test_every_width_has_to_fit_the_world():
    with pytest.raises(SettingsError, match=r"bits=4.*8 ranks.*write bits=5"):
        GlobalQSGD(bits={"embed": 4}).check_world(8)
    GlobalQSGD(bits={"embed": None}).check_world(8)


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (lambda: GlobalQSGD(bits=()), r"expected an integer from 2 to 16, or rules.*got \(\); write for instance"),
        (lambda: GlobalQSGD(bits=(8, 4)), "expected an integer from 2 to 16, or rules"),
        (lambda: GlobalQSGD(bits=(Rule(bits=4), 17)), "expected an integer from 2 to 16, or rules"),
        (lambda: GlobalQSGD(bits=("embed", 8)), "expected an integer from 2 to 16, or rules"),
        (lambda: GlobalQSGD(bits={"embed": 1}), r"Rule\(bits=1\): expected an integer from 2 to 16"),
        (lambda: GlobalQSGD(bits={"(": 4}), r"Rule\(name='\('\): expected a regular expression"),
        (lambda: Rule(bits=4, name=3), r"Rule\(name=3\): expected a regular expression"),
        (lambda: Rule(bits=4, shape=3), r"Rule\(shape=3\): expected a length or None for each dimension"),
        (lambda: Rule(bits=4, shape=("x",)), r"Rule\(shape=\('x',\)\): expected a length"),
        (lambda: Rule(4), r"Rule\(4\).*write Rule\(bits=4\)"),
        (lambda: Rule(bits=4, names="x"), "unknown setting 'names'.*write name='x'"),
    ],
)
def test_bad_rules(make, said):
    with pytest.raises(SettingsError, match=said):
        make()
