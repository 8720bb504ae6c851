"""A training that cannot fit is refused before its first step; one that can never is."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from jaxsnn import models, sweep, train
from jaxsnn.compress.phase import as_phase
from jaxsnn.data import Split
from jaxsnn.errors import UserError
from jaxsnn.inputs import Inputs
from jaxsnn.neurons import LIF
from jaxsnn.train import demand, evaluation, loop

SHAPE = (6, 6, 1)
NET = models.build("4C3-AP2-20R-3", SHAPE, LIF(0.5, 0.3))
SPLIT = Split(np.zeros((8, *SHAPE), np.uint8), np.zeros(8, np.int32))
SGD = optax.sgd(0.1)
FIT = {"epochs": 1, "batch_size": 8, "show": False}

BIG = (600, 600, 1)
WIDE = models.build("AP100-3", BIG, LIF(0.5, 0.3))
FRAMES = np.zeros((8, *BIG), np.uint8)
LONG = train.Task(Inputs(BIG, 1_000_000, "poisson"))

DOORS = {
    "fit": lambda split: train.fit(LONG, SGD, WIDE, split, **FIT),
    "evaluate": lambda split: train.evaluate(LONG, WIDE, split, batch_size=8),
    "predict": lambda split: train.predict(LONG, WIDE, split.images, batch_size=8),
    "over_batches": lambda split: train.over_batches(
        LONG, WIDE, split.images, lambda output: output.readout, batches=1, batch_size=8
    ),
    "sweep": lambda split: sweep.run(
        lambda point, net: (SGD, net), {"x": [1.0]}, LONG, WIDE, {"train": split}, **FIT
    ),
}


@pytest.mark.parametrize("door", DOORS)
def test_a_million_steps_are_refused_before_the_first(door):
    message = "1,000,000 time steps: at least 10.48 TiB .* free: take fewer time steps"
    with pytest.raises(UserError, match=message) as caught:
        DOORS[door](Split(FRAMES, SPLIT.labels))
    assert "\n" not in str(caught.value)


@pytest.mark.long
@pytest.mark.parametrize("encoding", ["direct", "poisson"])
@pytest.mark.parametrize("change", [{}, {"remat": 4}, {"micro_batches": 2}])
def test_the_estimate_of_a_training_is_below_what_its_program_needs(change, encoding):
    task = train.Task(Inputs(SHAPE, 8, encoding), **change)
    phase = as_phase(optax.adam(0.1))
    state = loop.init(NET, phase, loop.phase_key(0, "train"))
    arguments = task, phase.optimizer, 8, state, loop.no_sums(), jax.tree.map(jnp.asarray, SPLIT)
    lowered = jax.jit(loop.steps, static_argnums=(1, 2)).lower(*arguments, jnp.int32(1))
    found = lowered.compile().memory_analysis()
    needs = found.temp_size_in_bytes + found.argument_size_in_bytes
    assert 0 < demand.of_training(task, NET, phase, 8) <= needs


@pytest.mark.long
def test_the_estimate_of_an_evaluation_is_below_what_its_program_needs():
    task = train.Task(Inputs(SHAPE, 8))
    arguments = task, NET, jax.tree.map(jnp.asarray, tuple(SPLIT))
    measure = partial(evaluation.evaluate_traced, batch_size=8)
    found = jax.jit(measure).lower(*arguments).compile()
    needs = found.memory_analysis().temp_size_in_bytes
    assert 8 * 8 * 4 * 144 == demand.of_evaluation(task, NET, 8) <= needs
