"""What augmentation costs on a device, by facts of its program: beside a training step, little."""

import jax
import jax.numpy as jnp
import pytest

from experiments.bench import limits, problems
from jaxsnn.data import augment

STEP = problems.WORKLOADS["vgg16-gpu"]  # T = 4, 128 images of CIFAR-10
SHARE = 0.05
KEY, IMAGES = jax.random.key(0), jax.ShapeDtypeStruct((STEP.batch, 32, 32, 3), jnp.uint8)


def draws(program):
    """Return how often a program draws random numbers."""
    number = 0
    for equation in program.eqns:
        inner = [v.jaxpr for v in equation.params.values() if hasattr(v, "jaxpr")]
        number += (equation.primitive.name == "random_bits") + sum(map(draws, inner))
    return number


def drawn(name):
    """Return how often an augmentation does."""
    return draws(jax.make_jaxpr(augment.augmentation(name))(KEY, IMAGES).jaxpr)


def test_each_thing_that_is_drawn_is_drawn_once():
    assert drawn("crop-flip") == 2  # flips, corners
    assert drawn("autoaugment") == 2 + 3 + 2  # pairs, whether, signs; rows and columns of the holes


@pytest.mark.long
@pytest.mark.parametrize("name", ["crop-flip", "autoaugment"])
def test_augmentation_is_a_small_part_of_a_step(name):
    compiled = jax.jit(augment.augmentation(name)).lower(KEY, IMAGES).compile()
    cost = compiled.cost_analysis()
    assert 0 < cost["bytes accessed"] < SHARE * limits.traffic(STEP, "bfloat16")
    assert 0 < cost["flops"] < SHARE * limits.operations(STEP)
