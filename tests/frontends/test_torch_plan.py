"""Buckets of the torch front end: how tensors are cut, and what the buffers take."""

import pytest
import torch

from hvd_gqsgd.schemes.cutting import BUCKET_BYTES
from hvd_gqsgd.torch import GlobalQSGD
from hvd_gqsgd.torch.plan import MOST_PARTIAL, Plan, Spec

# A large tensor between small ones, in three dtypes.
NUMELS = (2000, 3 * BUCKET_BYTES // 4 + 5, 100_000, BUCKET_BYTES, 1025, 999)
DTYPES = (torch.float32, torch.float32, torch.bfloat16, torch.float64, torch.float16, torch.float32)


def plan_for(scheme=None):
    specs = [
        Spec(f"t{i}", (numel,), dtype, torch.device("cpu"))
        for i, (numel, dtype) in enumerate(zip(NUMELS, DTYPES, strict=True))
    ]
    return Plan(scheme or GlobalQSGD()).extended(specs)


def test_every_element_is_in_one_part():
    plan = plan_for()
    assert plan.small == {"t5"}
    for name, spec in plan.specs.items():
        parts = [p for group in plan.groups for p in group.load().parts if p.spec.name == name]
        seen = torch.cat([part.of(torch.arange(spec.numel)) for part in parts])
        assert torch.equal(seen, torch.arange(spec.numel))
        assert {group.index for group in plan.groups_of[name]} == {
            g.index for g in plan.groups if any(p.spec.name == name for p in g.load().parts)
        }


def test_parts_have_labels_and_dithers_of_their_own():
    members = [(p.label, m.tensor_id) for g in plan_for().groups for p, m in _members(g)]
    assert len(members) > len(NUMELS)
    assert len({label for label, _ in members}) == len({identity for _, identity in members}) == len(members)


def _members(group):
    load = group.load()
    return zip(load.parts, load.bucket.layout.members, strict=True)


def test_buckets_are_about_as_large_as_they_should_be():
    *most, last = [group.load().dense_bytes for group in plan_for().groups]
    assert all(BUCKET_BYTES <= size < 2 * BUCKET_BYTES for size in most)
    assert 0 < last < 2 * BUCKET_BYTES


@pytest.mark.parametrize(("bits", "most"), [(8, 0.3), (4, 0.15)])
def test_buffers_take_a_fraction_of_float32_gradients(bits, most):
    spec = Spec("w", (25_000_000,), torch.float32, torch.device("cpu"))
    plan = Plan(GlobalQSGD(bits=bits)).extended([spec])
    buckets = [group.load().bucket for group in plan.groups]
    assert sum(b.words.nbytes + b.norms.nbytes for b in buckets) <= most * 100_000_000


def test_what_arrives_of_a_bucket_uses_its_buffers():
    group = next(g for g in plan_for().groups if len(g.names) > 1)
    whole = group.load().bucket
    for name in group.names:
        load = group.partial_load((name,))
        assert load.bucket.names == (name,)
        assert load.bucket.words.data_ptr() == whole.words.data_ptr()
        assert load.bucket.norms.data_ptr() == whole.norms.data_ptr()
        assert load.label != group.load().label and load.bucket.check != whole.check
    assert len(group._partial) <= MOST_PARTIAL


def test_partial_loads_are_not_collected_without_end():
    specs = [Spec(f"t{i}", (2000,), torch.float32, torch.device("cpu")) for i in range(3 * MOST_PARTIAL)]
    (group,) = Plan(GlobalQSGD()).extended(specs).groups
    for name in group.names:
        group.partial_load((name,))
    assert len(group._partial) <= MOST_PARTIAL
