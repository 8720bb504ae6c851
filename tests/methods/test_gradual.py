"""Gradual magnitude pruning as a method: its ramp within a training, what is left."""

import numpy as np
import pytest

from jaxsnn import data, models, train
from jaxsnn.errors import UserError
from jaxsnn.methods import admm, gradual


@pytest.fixture(scope="module")
def problem():
    digits = data.load("digits", limit=100)
    return (
        models.build("16-10", digits.shape, seed=0),
        train.Task(digits.inputs(timesteps=2)),
        digits,
    )


RAMPS = [(begin, end) for begin in (0.0, 0.1, 0.9) for end in (0.05, 0.5, 1.0) if begin < end]


@pytest.mark.parametrize(("begin", "end"), RAMPS)
@pytest.mark.parametrize("every", [1, 7, 1000])
@pytest.mark.parametrize("num_steps", [2, 3, 50, 1000])
def test_the_ramp_lies_within_the_training(begin, end, every, num_steps):
    first, last, step = gradual.ramp(gradual.Options(begin=begin, end=end, every=every), num_steps)
    assert 0 <= first < last < num_steps
    assert (last - first) % step == 0
    assert last <= max(round(end * num_steps), first + 1)


@pytest.mark.long
def test_the_masks_narrow_and_each_layer_keeps_what_admm_keeps(problem):
    options = gradual.Options(sparsity=0.8, epochs=3, every=2, batch_size=30)
    log = []

    def fit(*args, **options):
        return train.fit(*args, **options, log=log.append, show=False)

    pruned = gradual.prune(*problem, options, fit=fit)
    shares = admm.sparsities(problem[0], 0.8)
    for name, share in shares.items():
        densities = [record[f"density/{name}"] for record in log]
        assert densities == sorted(densities, reverse=True)
        layer = name.removesuffix("/kernel")
        kernel = np.asarray(pruned.params[layer]["kernel"])
        assert np.count_nonzero(kernel) == round((1 - share) * kernel.size)


def test_a_ramp_that_ends_before_it_begins_is_refused():
    with pytest.raises(UserError, match="end must be after begin 0.5, found 0.4"):
        gradual.Options(begin=0.5, end=0.4)
