"""Over many exchanges the error averages out: nothing between the gradient and the sum is biased."""

import horovod.torch as hvd
import torch
from rig import gradient, level_of, make_optimizer, make_parameters

from hvd_gqsgd.torch import GlobalQSGD


def test_400_exchanges_of_one_tensor_are_unbiased_in_every_element(several):
    exchanges, shape = 400, (2000,)
    parameters = make_parameters({"w": shape})
    optimizer = make_optimizer(parameters, GlobalQSGD(bits=5, rotation=None, dither="independent"))
    values = [gradient("w", shape, rank).double() for rank in range(several)]
    exact = sum(values) / several
    errors = torch.zeros(exchanges, *shape, dtype=torch.float64)
    for exchange in range(exchanges):
        (parameters["w"] * values[hvd.rank()].float()).sum().backward()
        optimizer.synchronize()
        errors[exchange] = parameters["w"].grad.double() - exact
        with optimizer.skip_synchronize():
            optimizer.step()
        optimizer.zero_grad()
    level = level_of(values, bits=5, rotated=False)
    # Each rank rounds up with probability f, its fraction between two levels: variance f (1 - f) of a level.
    fractions = torch.stack([(v.abs() / level) % 1 for v in values])
    variance = (level / several) ** 2 * (fractions * (1 - fractions)).sum(dim=0)
    sigma = (variance / exchanges).sqrt() + 1e-6 * level
    worst = (errors.mean(dim=0).abs() / sigma).max()
    assert worst < 5, f"the mean error is {worst:.2f} sigma"
    # And it is the noise that the theory says, not less (a constant would pass the test above).
    ratio = errors.var(dim=0).sum() / variance.sum()
    assert 0.9 < ratio < 1.1


def test_replaying_the_same_seed_step_and_names_gives_the_same_bits(several):
    def run(seed):
        parameters = make_parameters({"w": (3000,)})
        optimizer = make_optimizer(parameters, GlobalQSGD(bits=4, seed=seed))
        for step in range(3):
            (parameters["w"] * gradient("w", (3000,), hvd.rank(), step)).sum().backward()
            optimizer.step()
            optimizer.zero_grad()
        return parameters["w"].detach().clone()

    assert torch.equal(run(0), run(0))
    assert not torch.equal(run(0), run(1))
