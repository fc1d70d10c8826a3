"""DQ-SGD on loopback worlds: one width on all ranks whatever they remember, and a mean as right as its width."""

import copy
import math

import numpy as np
import pytest

from hvd_gqsgd import telemetry
from hvd_gqsgd.errors import DisagreementError, SettingsError
from hvd_gqsgd.kernels.compiled import CompiledKernels
from hvd_gqsgd.maths.bit_rule import State
from hvd_gqsgd.schemes import DQSGD, World
from tests.core.loopback_cases import KERNELS, buckets_for, gaussian, run

#: Bit for bit what the specification gives, in a tenth of the time.
FAST = CompiledKernels(threads=1)
FORMS = [
    {},
    {"bits": 5.0, "steps": 40},
    {"rule": "strongly_convex", "alpha": 0.9, "steps": 40, "bits": 6.0},
    {"target_error": 0.1},
]


class Run:
    """Ranks that exchange again and again."""

    def __init__(self, scheme, n, numels=(1000, 7, 256)):
        self.scheme, self.n, self.bits = scheme, n, []
        self.buckets = buckets_for(scheme, gaussian(n, numels))
        if scheme.keeps_residuals:
            for bucket in self.buckets:
                bucket.residuals = [np.zeros(m, np.float32) for m in numels]

    def bits_sent(self, bucket):
        """Bits of words per element in the last exchange."""
        measured = self.scheme.measure(bucket, World(self.n, 0))
        return measured.word_bits / measured.numel

    def mean(self, inputs):
        """Of the ranks that are there, which all have the same."""
        for bucket, tensors in zip(self.buckets, inputs, strict=True):
            bucket.tensors = tensors
        results = run(self.scheme, self.buckets, inputs, kernels=FAST)
        for other in results[1:]:
            for a, b in zip(results[0], other, strict=True):
                np.testing.assert_array_equal(a, b)
        there = [bucket for bucket, tensors in zip(self.buckets, inputs, strict=True) if tensors is not None]
        assert len({self.bits_sent(bucket) for bucket in there}) == 1
        for bucket in there[1:]:
            np.testing.assert_array_equal(bucket.memory[0]["controller"], there[0].memory[0]["controller"])
        for bucket in self.buckets:
            bucket.step += 1
        self.bits.append(self.bits_sent(there[0]))
        return results[0]


def steps_of(n, steps, numels=(1000, 7, 256), falling=2.0):
    """Gradients that shrink by ``falling`` orders of magnitude, and scatter."""
    draw = np.random.default_rng(5)
    for step in range(steps):
        size = np.float32(10 ** (-falling * step / steps) * 2 ** draw.normal(0, 0.7))
        yield [[size * t for t in tensors] for tensors in gaussian(n, numels, seed=step)]


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("n", [1, 2, 3, 8])
def test_every_rank_has_the_same_mean_and_error_is_that_of_its_width(n, form):
    form = {**form, "bits": 9.0} if n == 8 and "target_error" not in form else form
    world = Run(DQSGD(**form), n)
    for inputs in steps_of(n, 20 if n < 8 else 10):
        decoded = world.mean(inputs)
        error = sum(float(np.sum((out - np.mean(x, axis=0)) ** 2)) for out, *x in zip(decoded, *inputs, strict=True))
        seen = world.scheme.measure(world.buckets[0], World(n, 0))
        assert 0.5 * seen.squared_error < error < 2 * seen.squared_error + 1e-12
        assert seen.word_bits / seen.numel == world.bits[-1]
    assert len(set(world.bits)) > 1


@pytest.mark.parametrize("n", [2, 3])
@pytest.mark.parametrize("bits", [4.0, 5.0])
def test_the_budget_is_what_is_measured_on_the_wire(n, bits):
    world = Run(DQSGD(bits=bits, steps=50), n, (8192,))
    for inputs in steps_of(n, 50, (8192,), falling=3):
        world.mean(inputs)
    assert np.mean(world.bits) == pytest.approx(bits, rel=0.02)


@pytest.mark.parametrize("n", [2, 3])
def test_the_mean_is_unbiased_though_widths_change(n):
    world, steps = Run(DQSGD(bits=4.5, block_size=64), n, (128,)), 250
    inputs = gaussian(n, (128,), seed=n)
    exact = np.mean([i[0].astype(np.float64) for i in inputs], axis=0)
    errors, sizes = [], np.exp2(np.random.default_rng(0).normal(0, 1, steps)).astype(np.float32)
    for size in sizes:
        errors.append((world.mean([[size * t for t in i] for i in inputs])[0] - size * exact) / size)
    assert len(set(world.bits)) > 2
    spread = np.std(errors, axis=0) / math.sqrt(steps)
    assert np.all(np.abs(np.mean(errors, axis=0)) < 5 * spread + 1e-5)


def test_compiled_kernels_give_the_same_bits():
    results = []
    for kernels in (KERNELS, CompiledKernels(threads=1)):
        scheme, inputs = DQSGD(bits=5.0), gaussian(2, (3000, 257))
        buckets = buckets_for(scheme, inputs)
        results.append([run(scheme, buckets, inputs, kernels=kernels)[0] for _ in range(4)])
    for one, other in zip(*results, strict=True):
        for a, b in zip(one, other, strict=True):
            np.testing.assert_array_equal(a, b)


@pytest.mark.parametrize("form", FORMS)
def test_a_run_goes_on_from_its_memory_bit_for_bit(form):
    inputs = list(steps_of(2, 16))
    whole, first = Run(DQSGD(**form), 2), Run(DQSGD(**form), 2)
    expected = [whole.mean(i) for i in inputs]
    for i in inputs[:9]:
        first.mean(i)
    second = Run(DQSGD(**form), 2)
    for bucket, saved in zip(second.buckets, first.buckets, strict=True):
        bucket.memory, bucket.step = copy.deepcopy(saved.memory), saved.step
    for got, wanted in zip((second.mean(i) for i in inputs[9:]), expected[9:], strict=True):
        for a, b in zip(got, wanted, strict=True):
            np.testing.assert_array_equal(a, b)
    assert first.bits + second.bits == whole.bits


@pytest.mark.parametrize("form", FORMS)
def test_a_rank_that_comes_later_takes_the_others_memory(form):
    inputs = list(steps_of(3, 16))
    alone, joined = Run(DQSGD(**form), 3), Run(DQSGD(**form), 3)
    for index, i in enumerate(inputs):
        if index == 9:
            joined.buckets[1].memory = [{} for _ in i[1]]
            joined.buckets[1].scratch = {}
        for a, b in zip(alone.mean(i), joined.mean(i), strict=True):
            np.testing.assert_array_equal(a, b)
    assert alone.bits == joined.bits


def test_ranks_with_different_memories_have_one_after_one_step():
    world = Run(DQSGD(bits=5.0, steps=100), 3)
    for rank, bucket in enumerate(world.buckets):
        state = State(40 + rank, 40 - rank, 3.0 * rank - 4, -0.1 * rank, 1.0 + rank, 9.0 - rank, 0.4 * rank, 1.0 - rank)
        bucket.memory[0]["controller"] = np.array(state.to_numbers())
    for inputs in steps_of(3, 5):
        world.mean(inputs)


@pytest.mark.parametrize("form", FORMS)
def test_a_rank_that_joined_changes_nothing_that_is_remembered(form):
    world = Run(DQSGD(**form), 3)
    for step, inputs in enumerate(steps_of(3, 7)):
        there = [None if rank == 1 and step > 3 else tensors for rank, tensors in enumerate(inputs)]
        decoded = world.mean(there)
        exact = np.mean([i[0] for i in there if i is not None], axis=0)
        assert np.linalg.norm(decoded[0] - exact) < 2 * np.linalg.norm(exact)


def test_a_nan_on_one_rank_is_nan_in_its_block_and_not_learned_from():
    world = Run(DQSGD(bits=5.0), 3)
    for inputs in steps_of(3, 6):
        world.mean(inputs)
    before = State.from_numbers(world.buckets[0].memory[0]["controller"])
    inputs = gaussian(3)
    inputs[1][0][300] = np.nan
    decoded = world.mean(inputs)
    assert np.isnan(decoded[0][256:512]).all()
    assert np.isfinite(decoded[0][:256]).all()
    after = State.from_numbers(world.buckets[0].memory[0]["controller"])
    assert (after.level, after.noise, after.steps) == (before.level, before.noise, before.steps + 1)


@pytest.mark.parametrize("value", [0.0, np.nan])
@pytest.mark.parametrize("form", FORMS)
def test_nothing_to_send_takes_the_fewest_bits(value, form):
    world = Run(DQSGD(**form), 2)
    nothing = [[np.full_like(t, value) for t in tensors] for tensors in gaussian(2)]
    decoded = world.mean(nothing)
    np.testing.assert_array_equal(decoded[0], np.float32(value))
    assert world.bits[0] < 3.5
    for inputs in steps_of(2, 4):
        assert np.isfinite(world.mean(inputs)[0]).all()


@pytest.mark.parametrize("n", [2, 3])
def test_a_target_is_met_in_the_second_step_and_held(n):
    target = 0.05
    world = Run(DQSGD(target_error=target), n, (8192,))
    exact = np.mean([i[0] for i in gaussian(n, (8192,))], axis=0)
    errors = []
    for step in range(30):
        size = np.float32(2.0 ** (-step / 10))
        (decoded,) = world.mean([[size * i[0]] for i in gaussian(n, (8192,))])
        errors.append(np.linalg.norm(decoded - size * exact) / np.linalg.norm(exact))
    # Widths are rounded up: never worse, and at most as much better as one width is than the next.
    assert max(errors[1:]) < 1.1 * target
    assert min(errors[1:]) > target / 9
    assert world.bits[1] > world.bits[-1]


@pytest.mark.parametrize("form", [{"dither": "nearest"}, {"dither": "correlated"}, {"rotation": None}])
def test_what_was_to_be_sent_is_what_was_sent_and_what_is_left(form):
    world = Run(DQSGD(bits=4.5, error_feedback=True, **form), 2)
    for inputs in steps_of(2, 12):
        before = [[r.copy() for r in bucket.residuals] for bucket in world.buckets]
        decoded = world.mean(inputs)
        for index in range(3):
            wanted = np.mean([inputs[r][index] + before[r][index] for r in range(2)], axis=0)
            left = np.mean([bucket.residuals[index] for bucket in world.buckets], axis=0)
            np.testing.assert_allclose(decoded[index] + left, wanted, atol=3e-5)
    assert len(set(world.bits)) > 1


def test_ranks_that_mean_different_exchanges_get_an_error_and_remember_nothing_of_it():
    scheme, inputs = DQSGD(), gaussian(2)
    buckets = buckets_for(scheme, inputs)
    buckets[1].check += 1
    exchanges = [scheme.collectives(buckets[r], KERNELS, World(2, r)) for r in range(2)]
    asked = [next(exchange).buffer for exchange in exchanges]
    highest = np.maximum.reduce(asked)
    for buffer, exchange, bucket in zip(asked, exchanges, buckets, strict=True):
        buffer[...] = highest
        with pytest.raises(DisagreementError, match="'t0'.*differ"):
            next(exchange)
        assert not bucket.memory[0]["controller"].any()


def test_blocks_so_short_that_widths_cost_the_same():
    for block_size in (1, 3, 8):
        world = Run(DQSGD(bits=16.0, block_size=block_size, rotation=None), 2, (100,))
        for inputs in steps_of(2, 5, (100,)):
            world.mean(inputs)


def test_reports_say_how_many_bits():
    world = Run(DQSGD(bits=5.0), 2)
    world.mean(gaussian(2))
    measured = world.scheme.measure(world.buckets[0], World(2, 0))
    counts = {"operation": "x", "step": 0, "sent_bytes": 1, "dense_bytes": 4}
    assert telemetry.StepReport.of(measured, **counts).bits == world.bits[0]
    assert math.isnan(telemetry.StepReport.of(measured._replace(numel=0), **counts).bits)


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"bits": 1.5}, r"DQSGD\(bits=1\.5\): expected a number from 2 to 16, got 1\.5; write for instance bits=4\.0"),
        ({"bits": "4"}, r"expected a number from 2 to 16, got '4'"),
        ({"bits": True}, r"expected a number"),
        ({"bits": math.nan}, r"expected a number"),
        ({"target_error": 0}, r"expected a number between 0 and inf, got 0; write for instance target_error=0\.1"),
        ({"bits": 4, "target_error": 0.1}, r"expected one of the two.*got both; leave one of them out"),
        ({"rule": "convex"}, r"expected one of 'nonconvex', 'strongly_convex', got 'convex'"),
        ({"rule": "strongly_convex"}, r"got None; write for instance alpha=0\.99, steps=10000"),
        ({"rule": "strongly_convex", "alpha": 0.9}, r"steps=None.*write for instance"),
        ({"rule": "strongly_convex", "alpha": 1, "steps": 3}, r"alpha=1\): expected a number between 0 and 1"),
        ({"alpha": 0.9}, r"expected alpha=None.*leave alpha out, or write rule='strongly_convex'"),
        ({"steps": 0}, r"steps=0\): expected an integer from 1"),
        ({"block_size": 8192}, r"DQSGD\(block_size=8192\): expected an integer from 1 to 4096"),
        ({"bit": 4}, r"unknown setting 'bit'.*write bits=4"),
    ],
)
def test_bad_settings(settings, said):
    with pytest.raises(SettingsError, match=said):
        DQSGD(**settings)


def test_settings_are_as_written():
    assert eval(repr(DQSGD())) == DQSGD()
    assert eval(repr(DQSGD(bits=4))) == DQSGD(bits=4) == DQSGD(bits=4.0)
    assert eval(repr(DQSGD(target_error=0.1))) == DQSGD(target_error=0.1)
    assert DQSGD(target_error=0.1).bits is None
    assert DQSGD(error_feedback=True).dither == "nearest"
    assert DQSGD().bits_of("x", (1023,)) is None
    assert DQSGD().on_host


@pytest.mark.parametrize(("n", "bits"), [(1, 4), (2, 4), (3, 4), (4, 5.34), (8, 6.4), (16, 8), (32, 10.67), (511, 16)])
def test_the_default_budget_leaves_a_width_to_fall_to(n, bits):
    DQSGD().check_world(n)
    world = Run(DQSGD(), n, (4096,))
    for inputs in steps_of(n, 40, (4096,), falling=0):
        world.mean(inputs)
    assert np.mean(world.bits) == pytest.approx(bits, rel=0.03)


def test_a_world_too_large_names_the_budget_that_works():
    with pytest.raises(SettingsError, match=r"bits=4\.0\) on 8 ranks.*5\.333 bits.*budget of 4; write bits=5\.4"):
        DQSGD(bits=4).check_world(8)
    DQSGD(bits=5.4).check_world(8)
    DQSGD(target_error=0.1).check_world(8)
    with pytest.raises(SettingsError, match=r"40000 ranks.*at most 32767"):
        DQSGD(target_error=0.1).check_world(40_000)
