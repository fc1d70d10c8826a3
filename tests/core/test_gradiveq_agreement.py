"""Ranks of GradiVeQ whose memories differ find out and go on together; bases that no longer fit are replaced."""

import numpy as np
import pytest

from hvd_gqsgd.maths import principal
from hvd_gqsgd.schemes import GlobalQSGD
from tests.core.gradiveq_cases import Gradients, Ranks, error_of, quick

WARMING, SAMPLING, USING = range(3)


def after(steps, scheme=None, n=3, **kinds):
    ranks, gradients = Ranks(scheme or quick(), n), Gradients(n, **kinds)
    for _ in range(steps):
        ranks.allreduce(gradients.draw())
    return ranks, gradients


def go_on(ranks, gradients):
    inputs = gradients.draw()
    return error_of(ranks.allreduce(inputs), inputs)


@pytest.mark.parametrize("steps", [4, 8])
@pytest.mark.parametrize("newcomer", [0, 2])
def test_all_sample_anew_with_a_rank_that_remembers_nothing(steps, newcomer):
    ranks, gradients = after(steps)
    ranks.memories[newcomer][0].clear()
    assert go_on(ranks, gradients) < 1e-2
    assert ranks.phases() == [[SAMPLING, 1]] * 3
    for _ in range(5):
        assert go_on(ranks, gradients) < 1e-2
    assert ranks.phases() == [[USING, 2]] * 3


def test_a_newcomer_in_the_warm_up_changes_nothing():
    ranks, gradients = after(1)
    ranks.memories[1][0].clear()
    go_on(ranks, gradients)
    assert ranks.phases() == [[WARMING, 0]] * 3


@pytest.mark.parametrize("change", ["samples", "steps", "phase", "shape", "nonsense"])
def test_all_sample_anew_where_what_was_sampled_differs(change):
    ranks, gradients = after(4)
    memory = ranks.memories[1][0]
    others = {"samples": (4, 9), "steps": (3, 0), "phase": (8, 0)}
    if change in others:
        steps, seed = others[change]
        memory.clear()
        memory.update(after(steps, seed=seed)[0].memories[1][0])
    elif change == "shape":
        memory["samples"] = memory["samples"][:, :64]
    else:
        memory["state"] = np.array([17, 0, 1])
    assert go_on(ranks, gradients) < 1e-2
    assert ranks.phases() == [[SAMPLING, 1]] * 3


def test_ranks_whose_singular_vectors_differ_take_those_of_the_first(monkeypatch):
    exact, calls = principal.components, []

    def perturbed(*arguments):
        mean, basis = exact(*arguments)
        calls.append(basis)
        return mean, -basis[:, : basis.shape[1] - len(calls) + 1]

    monkeypatch.setattr(principal, "components", perturbed)
    ranks, gradients = after(6)
    assert len({memory[0]["basis"].shape for memory in ranks.memories}) == 3
    first = ranks.memories[0][0]["basis"].copy()
    assert go_on(ranks, gradients) < 1e-2
    for memory in ranks.memories:
        np.testing.assert_array_equal(memory[0]["basis"], first)
    sent = ranks.sent_bytes
    go_on(ranks, gradients)
    assert ranks.sent_bytes == sent - 4 * (1 + 128 * (1 + 16))
    assert ranks.phases() == [[USING, 2]] * 3


@pytest.mark.parametrize("joined", [0, 1])
def test_the_first_is_the_first_that_has_not_joined(joined):
    ranks, gradients = after(8)
    other, _ = after(8, seed=4)
    ranks.memories[2][0].update(other.memories[2][0])
    expected = ranks.memories[1 - joined][0]["basis"].copy()
    inputs = gradients.draw()
    inputs[joined] = None
    ranks.allreduce(inputs)
    for rank in {0, 1, 2} - {joined}:
        np.testing.assert_array_equal(ranks.memories[rank][0]["basis"], expected)


def test_a_rank_that_missed_steps_of_use_catches_up():
    ranks, gradients = after(7)
    for _ in range(2):
        inputs = gradients.draw()
        inputs[1] = None
        ranks.allreduce(inputs)
    assert ranks.phases() == [[USING, 3], [USING, 1], [USING, 3]]
    assert go_on(ranks, gradients) < 1e-2
    assert ranks.phases() == [[USING, 4]] * 3


def test_ranks_take_the_step_of_whoever_has_made_most():
    ranks, gradients = after(0)
    ranks.allreduce(gradients.draw(), steps=[0, 1, 2])
    assert ranks.phases() == [[SAMPLING, 1]] * 3


def test_a_subspace_that_turned_is_sampled_again():
    ranks, gradients = after(6 + 5, quick(compress_steps=50, refresh=0.3))
    assert ranks.phases() == [[USING, 5]] * 3
    gradients.turn()
    assert go_on(ranks, gradients) < 1e-2
    assert ranks.phases() == [[SAMPLING, 1]] * 3


def test_it_takes_all_ranks_to_find_a_basis_bad():
    ranks, gradients = after(6 + 5, quick(compress_steps=50, refresh=0.3))
    inputs = gradients.draw()
    gradients.turn()
    inputs[0], inputs[2] = gradients.draw()[0], gradients.draw()[2]
    ranks.allreduce(inputs)
    assert ranks.phases() == [[USING, 6]] * 3


def test_without_refresh_a_basis_stays_for_its_time():
    ranks, gradients = after(6 + 5, quick(compress_steps=50, refresh=None))
    gradients.turn()
    assert go_on(ranks, gradients) > 0.5
    assert ranks.phases() == [[USING, 6]] * 3


def test_a_basis_that_was_never_good_is_not_sampled_again_at_once():
    # 16 of 128 dimensions of noise.
    ranks, gradients = after(7, quick(compress_steps=20, refresh=0.5), noise=30.0)
    assert ranks.phases() == [[USING, 1]] * 3
    assert all(memory[0]["basis"].shape == (128, 0) for memory in ranks.memories)
    for _ in range(19):
        assert go_on(ranks, gradients) < 1e-2
    assert ranks.phases() == [[SAMPLING, 0]] * 3


def test_a_nan_does_not_make_a_basis_bad():
    ranks, gradients = after(11, quick(compress_steps=50, refresh=0.3))
    inputs = gradients.draw()
    for tensors in inputs:
        tensors[0][5] = np.nan
    ranks.allreduce(inputs)
    assert ranks.phases() == [[USING, 6]] * 3


def test_bits_differ_by_scheme_but_memories_do_not_by_rank():
    ranks, gradients = after(5, quick(sampling=GlobalQSGD(bits=4), then=GlobalQSGD(bits=6)), noise=0.2)
    for memory in ranks.memories[1:]:
        for name, array in ranks.memories[0][0].items():
            np.testing.assert_array_equal(memory[0][name], array)
    for _ in range(12):
        go_on(ranks, gradients)
        assert ranks.phases()[0] == ranks.phases()[2]
