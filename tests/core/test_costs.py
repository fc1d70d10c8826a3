"""The cost model: its terms by hand, and the laws that it keeps."""

import dataclasses
import json
import math

import pytest

from hvd_gqsgd.costs import wire
from hvd_gqsgd.costs.choices import FP16, NONE, WIDTHS, Choice, choices, payload
from hvd_gqsgd.costs.model import aggregation_seconds, beside, step_seconds
from hvd_gqsgd.costs.rates import Rates
from hvd_gqsgd.errors import SettingsError
from hvd_gqsgd.schemes.cutting import BUCKET_BYTES
from hvd_gqsgd.schemes.global_qsgd import GlobalQSGD
from tests.core.cost_cases import IDEAL, REAL

MODEL = [4_000_000, 2_000_000, 512]
EVERY = choices(2)


def change(rates, **changes):
    return dataclasses.replace(rates, **changes)


def test_two_ranks_by_hand():
    # A ring of two sends each rank's bytes once, at 100 MB/s; the reduction adds half of them.
    assert aggregation_seconds(IDEAL, NONE, [25_000_000]) == pytest.approx(1.0)
    assert aggregation_seconds(IDEAL, FP16, [25_000_000]) == pytest.approx(0.5)
    adding = change(IDEAL, reduce={"float32": 1e8, "float16": math.inf, "int32": math.inf})
    assert aggregation_seconds(adding, NONE, [25_000_000]) == pytest.approx(1.5)
    assert aggregation_seconds(change(IDEAL, latency_s=0.25), NONE, [25_000_000]) == pytest.approx(1.25)
    assert aggregation_seconds(change(IDEAL, cast=1e8), FP16, [25_000_000]) == pytest.approx(1.5)


def test_one_and_two_buckets_by_hand():
    numel = BUCKET_BYTES // 4
    kernels = dataclasses.replace(IDEAL.kernels[8], norms=BUCKET_BYTES / 1.0, encode=BUCKET_BYTES / 2.0)
    rates = change(IDEAL, latency_s=0.1, compressed_tensor_s=0.01, bucket_s=0.02, overlap=0.5, kernels={8: kernels})
    network = (numel + 4 * (numel / 256)) / 1e8
    # Nothing hides in a single bucket: two operations, the tensor, the kernels 1 + 2, then the bytes.
    one = 2 * 0.1 + 0.01 + (1 + 2) + network
    assert aggregation_seconds(rates, Choice.of_bits(8), [numel]) == pytest.approx(one)
    # The second one's kernels run beside the network, and half of the shorter hides.
    two = 2 * 0.1 + 2 * 0.01 + 0.02 + (1 + 2) + 3 + 0.5 * 2 * network
    assert aggregation_seconds(rates, Choice.of_bits(8), [numel, numel]) == pytest.approx(two)


def test_ring_and_tree_by_hand():
    rates = change(IDEAL, hop_s=1e-3)
    # Ring of 8: 2 * 7 messages, of which a small operation has 6 already; 7/8 of the bytes twice.
    assert wire.payload_seconds(rates, 8, "float32", 1e8) == pytest.approx(8e-3 + 2 * 7 / 8)
    # Tree: three times there and back, every time all bytes, but no further messages.
    assert wire.payload_seconds(rates, 8, "float32", 1e3) == pytest.approx(2 * 3 * 1e-5)
    assert wire.operation_seconds(change(rates, latency_s=0.01), 8) == pytest.approx(0.01 + 3 * 2 * 2 * 1e-3)


@pytest.mark.parametrize("choice", EVERY, ids=lambda choice: choice.name)
@pytest.mark.parametrize("rates", [IDEAL, REAL], ids=["ideal", "real"])
def test_more_of_anything_takes_no_less(choice, rates):
    seconds = aggregation_seconds(rates, choice, MODEL)
    assert 0 < seconds < math.inf
    assert aggregation_seconds(rates, choice, [*MODEL, 100_000]) > seconds
    assert aggregation_seconds(change(rates, latency_s=rates.latency_s + 1), choice, MODEL) > seconds + 0.999
    assert aggregation_seconds(change(rates, bandwidth=rates.bandwidth / 2), choice, MODEL) > seconds
    assert aggregation_seconds(change(rates, overlap=rates.overlap / 2), choice, MODEL) >= seconds


@pytest.mark.parametrize("choice", [NONE, FP16, Choice.of_bits(16)], ids=lambda choice: choice.name)
def test_more_ranks_take_longer(choice):
    seconds = [aggregation_seconds(REAL, choice, MODEL, n) for n in (2, 3, 4, 8, 64, 1024)]
    assert seconds == sorted(seconds)


def test_a_world_of_one_takes_no_time():
    assert aggregation_seconds(REAL, NONE, MODEL, 1) == 0


@pytest.mark.parametrize(("bits", "times"), [(16, 2), (10, 3), (8, 4), (6, 5), (5, 6), (4, 8), (3, 10)])
def test_large_gradients_gain_the_ratio_of_bytes(bits, times):
    """Whatever the latencies, as long as kernels keep up; norms cost 4 bytes a block of 256."""
    numels = [1 << 22] * 4000
    rates = change(IDEAL, latency_s=2e-3, plain_tensor_s=2e-5, compressed_tensor_s=1e-4)
    gain = aggregation_seconds(rates, NONE, numels) / aggregation_seconds(rates, Choice.of_bits(bits), numels)
    blocks = (4 * 256) / (4 * math.ceil(256 / (32 // bits)) + 4)
    assert gain == pytest.approx(blocks, rel=0.02)
    assert gain == pytest.approx(times, rel=0.06)


def test_slow_kernels_take_the_gain_away():
    kernels = {bits: dataclasses.replace(s, encode=5e7) for bits, s in IDEAL.kernels.items()}
    slow = change(IDEAL, kernels=kernels)
    assert aggregation_seconds(slow, Choice.of_bits(8), MODEL) > aggregation_seconds(slow, NONE, MODEL)


def test_small_tensors_travel_as_they_are():
    sent = payload(Choice.of_bits(8), [1023, 1024])
    assert (sent.float32, sent.int32, sent.plain, sent.compressed) == (4 * (1023 + 4), 1024, 1, 1)
    assert aggregation_seconds(IDEAL, Choice.of_bits(8), [100]) == aggregation_seconds(IDEAL, NONE, [100])


def test_half_precision_is_half_the_bytes():
    assert 2 * payload(FP16, MODEL).size_bytes == payload(NONE, MODEL).size_bytes


def test_payload_is_what_the_layout_sends():
    from hvd_gqsgd.kernels.layout import Layout, Member

    for bits in WIDTHS:
        members = tuple(
            Member(tensor_id=i, numel=numel, dtype="float32", bits=bits) for i, numel in enumerate([5000, 1025])
        )
        layout = Layout(members=members, **GlobalQSGD().layout_settings())
        sent = payload(Choice.of_bits(bits), [5000, 1025])
        # Without the headers: four numbers a bucket.
        assert sent.size_bytes == 4 * (layout.norms_numel - 3 + layout.words_numel - 1)


def test_buckets_are_those_of_the_front_end():
    plan = pytest.importorskip("hvd_gqsgd.torch.plan")
    torch = pytest.importorskip("torch")
    numels = [1 << 21, 2000, 3 << 19, 1 << 20, 5 << 20, 1025]
    specs = [plan.Spec(str(i), (numel,), torch.float32, torch.device("cpu")) for i, numel in enumerate(numels)]
    loads = [group.load().dense_bytes for group in plan.groups_of(GlobalQSGD(), specs)]
    assert payload(Choice.of_bits(8), numels).buckets == tuple(loads)


def test_widths_too_small_for_the_world_are_absent():
    assert [c.name for c in choices(2)][:3] == ["none", "fp16", "16 bits"]
    assert [c.name for c in choices(2)][-1] == "3 bits"
    assert [c.name for c in choices(128)] == ["none", "fp16", "16 bits", "10 bits"]
    assert [c.name for c in choices(40_000)] == ["none", "fp16"]


def test_no_width_sends_as_much_as_a_wider_one():
    lanes = [32 // bits for bits in WIDTHS]
    assert len(set(lanes)) == len(lanes) == len({32 // bits for bits in range(2, 17)})


def test_the_step_hides_what_it_can():
    aggregation_s = aggregation_seconds(IDEAL, NONE, [25_000_000])
    assert step_seconds(IDEAL, NONE, [25_000_000], 0.0) == aggregation_s
    assert step_seconds(IDEAL, NONE, [25_000_000], 3.0) == pytest.approx(3.0)
    assert step_seconds(change(IDEAL, overlap=0.0), NONE, [25_000_000], 3.0) == pytest.approx(4.0)
    assert beside(2.0, 1.0, 0.5) == beside(1.0, 2.0, 0.5) == 2.5


@pytest.mark.parametrize("rates", [IDEAL, REAL], ids=["ideal", "real"])
def test_rates_survive_json(rates):
    text = json.dumps(rates.to_dict(), allow_nan=False)
    assert Rates.from_dict(json.loads(text)) == rates


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"bandwidth": 0}, "expected bandwidth to be a number above 0, got 0"),
        ({"latency_s": -1}, "expected latency_s to be a number of 0 or more, got -1"),
        ({"latency_s": "2 ms"}, "expected latency_s to be a number of 0 or more, got '2 ms'"),
        ({"overlap": 2}, "expected overlap to be a number from 0 to 1, got 2"),
        ({"ranks": 0}, "expected ranks to be an integer of 1 or more, got 0"),
        ({"reduce": {"float32": 1e9}}, "expected reduce\\['float16'\\] to be a number above 0, or null, got None"),
        ({"reduce": 7}, 'expected "reduce" as'),
        ({"kernels": {"8": {"norms": 1}}}, 'expected "reduce" as'),
        ({"kernels": {"8": {"norms": 1, "encode": 0, "decode": 1}}}, "expected kernels\\[8\\].encode to be"),
        ({"more": 1}, "expected an object with the keys source, ranks"),
    ],
)
def test_wrong_rates_say_what_was_expected(change, message):
    with pytest.raises(SettingsError, match=message):
        Rates.from_dict({**REAL.to_dict(), **change})
