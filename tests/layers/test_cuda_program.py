"""The program that a GPU would get, lowered here without one: what is bfloat16 in it."""

import re

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from jaxsnn import inputs, models, native, neurons, surrogate, train
from jaxsnn.compress.phase import as_phase
from jaxsnn.train import loop

T, B = 4, 7  # no layer has 7 or 28 of anything
LEAST = T * B * 64  # entries of the smallest array with a value for each step, sample and neuron

# Operations that write what they make to memory; what is between them is merged into few passes.
WRITERS = (
    "convolution",
    "dot_general",
    "while",
    "transpose",
    "gather",
    "pad",
    "sort",
    "concatenate",
    "reduce_window",
    "select_and_scatter",
)
TENSOR = re.compile(r"tensor<((?:\d+x)+)(\w+)>")


@pytest.fixture
def as_on_cuda(monkeypatch):
    """Let JAX say that it computes on a GPU, so that layers take the forms that they take there."""
    monkeypatch.setattr(jax, "default_backend", lambda: "gpu")


def program(layout, dtype, norm):
    """Return the lines of a training step's StableHLO for CUDA."""
    neuron = neurons.LIF(0.5, 1.0, surrogate=surrogate.triangle())
    net = models.build(layout, (8, 8, 2), neuron, norm=norm, readout="current", dtype=dtype)
    task = train.Task(inputs.Inputs((8, 8, 2), T), loss="ce")
    phase = as_phase(optax.adam(1e-3))
    state = loop.init(net, phase, jax.random.key(0))
    images = jax.ShapeDtypeStruct((B, 8, 8, 2), jnp.uint8)
    labels = jax.ShapeDtypeStruct((B,), jnp.int32)
    step = jax.jit(loop.train_step, static_argnums=1)
    traced = step.trace(task, phase.optimizer, state, images, labels)
    return traced.lower(lowering_platforms=("cuda",)).as_text().splitlines()


def written(lines):
    """Return (operation, type) of what operations that write take and give of every step."""
    found = set()
    for line in lines:
        name = re.search(r"stablehlo\.(\w+)", line)
        for sizes, dtype in TENSOR.findall(line) if name and name[1] in WRITERS else ():
            shape = [int(n) for n in sizes.split("x")[:-1]]
            if np.prod(shape) >= LEAST and (T * B in shape or {T, B} <= set(shape)):
                found.add((name[1], dtype))
    return found


@pytest.mark.long
@pytest.mark.usefixtures("as_on_cuda")
@pytest.mark.parametrize(
    ("layout", "norm"),
    [
        ("8C3-MP2-8C3-64-3", True),
        pytest.param("8C3-8C3-MP2-16C3-64-3", False, marks=pytest.mark.slow),
    ],
)
def test_a_gpu_moves_spikes_and_potentials_in_bfloat16(layout, norm):
    short = written(program(layout, jnp.bfloat16, norm))
    assert {what for what, _ in short} >= {"convolution", "dot_general", "concatenate"}
    assert [each for each in short if each[1] == "f32"] == []


@pytest.mark.slow  # lowers a whole step to show that the test above can fail
@pytest.mark.usefixtures("as_on_cuda")
def test_in_float32_they_are_seen():
    assert "f32" in {dtype for _, dtype in written(program("8C3-MP2-8C3-64-3", jnp.float32, True))}


@pytest.mark.usefixtures("as_on_cuda")
def test_on_a_gpu_auto_is_bfloat16():
    assert native.choose_dtype("auto")[0] == "bfloat16"
    assert native.choose_dtype("float32")[0] == "float32"
