"""A layer that lost its weights or its spikes is named, in tables, pages and after a training."""

import io
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from rich.console import Console

from jaxsnn import compress, metrics, models, report, train
from jaxsnn.data import Split
from jaxsnn.inputs import Inputs
from jaxsnn.metrics import warnings
from jaxsnn.metrics.report import LayerReport, Report
from jaxsnn.neurons import LIF

DENSE = Report("dense", layers=(
    LayerReport("conv1", density=1.0, rate=0.2), LayerReport("conv2", density=1.0, rate=0.18),
    LayerReport("odd", density=0.0005, rate=0.0), LayerReport("out", density=1.0),
))  # fmt: skip
SMALL = Report("small", layers=(
    LayerReport("conv1", density=0.0, rate=0.2), LayerReport("conv2", density=0.0004, rate=0.0005),
    LayerReport("odd", density=0.0005, rate=0.0), LayerReport("out", density=0.01, rate=None),
))  # fmt: skip
SILENT = "x: never decides for {}, whose read-out may have fallen silent"
LINES = [
    "small: conv1 has no weight left",
    "small: conv2 has 0.04 % of its weights left",
    "small: conv2 is silent, 0.0005 spikes a neuron and step where it had 0.18",
]
DENSE_LINES = [
    "dense: odd has 0.05 % of its weights left",
    "dense: odd is silent, 0 spikes a neuron and step",
]


def test_a_network_is_warned_of_for_what_it_lost_against_the_first():
    """What the baseline lacks already is said of it, once."""
    compared = metrics.Comparison((DENSE, SMALL))
    assert list(compared.warnings) == DENSE_LINES + LINES
    assert list(DENSE.warnings) == DENSE_LINES
    assert str(compared).splitlines()[-1] == f"warning: {LINES[-1]}"
    healthy = Report("dense", layers=(LayerReport("conv1", density=0.001, rate=0.001),))
    assert healthy.warnings == ()


def test_tables_print_the_warnings():
    console = Console(file=io.StringIO(), width=300)
    report.print_table([DENSE, SMALL], console=console)
    assert f"warning: {LINES[0]}\n" in console.file.getvalue()


@pytest.mark.long
def test_a_training_ends_with_a_line_for_each_layer_that_it_lost(capsys):
    shape, draw = (6,), np.random.default_rng(0)
    images = draw.integers(0, 256, (8, *shape), dtype=np.uint8)
    split = Split(images, np.arange(8, dtype=np.int32) % 2)
    net = models.build("5-4-2", shape, LIF(0.5, 0.2))
    task, options = train.Task(Inputs(shape, 2)), {"epochs": 1, "batch_size": 4}
    empty = partial(jax.tree.map, jnp.zeros_like)
    phase = compress.Phase(optax.set_to_zero(), begin=empty)
    train.fit(task, phase, net, split, validation=split, **options)
    text = capsys.readouterr().err
    assert "warning: dense1/kernel has no weight left\n" in text
    assert "warning: dense2 is silent, 0 spikes a neuron and step\n" in text
    assert warnings.after_training(net, net, None) == []
    train.fit(task, phase, net, split, validation=split, **options, show=False)
    assert capsys.readouterr().err == ""


@pytest.mark.parametrize(
    ("confusion", "accuracy", "lines"),
    [
        ([[5, 0], [1, 4]], 0.9, []),
        ([[5, 0], [5, 0]], 0.5, [SILENT.format("class 1")]),
        ([[9, 0, 0], [1, 0, 0], [1, 0, 0]], 0.8, [SILENT.format("classes 1, 2")]),
        ([[5, 0], [0, 0]], 1.0, []),  # no sample of class 1
        ([[4, 0], [6, 0]], 0.4, []),  # untrained
        (None, 0.9, []),  # an early exit's row
    ],
)  # fmt: skip
def test_a_class_that_a_trained_network_never_chooses_is_named(confusion, accuracy, lines):
    row = {"name": "x", "accuracy": accuracy, "layers": [], "confusion": confusion}
    assert warnings.of_rows([row]) == lines
