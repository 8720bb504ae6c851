"""Presets for a GPU fit into ten minutes of one, by an estimate from measured steps."""

import importlib
import importlib.util
from pathlib import Path

import jax
import numpy as np
import pytest

from experiments.bench import budget, limits, problems
from experiments.bench.budget import Phase
from experiments.common import command, flat, problem
from jaxsnn import data, inputs, models, train

spec = importlib.util.spec_from_file_location(
    "imitations", Path(__file__).parents[1] / "imitations.py"
)
imitations = importlib.util.module_from_spec(spec)
spec.loader.exec_module(imitations)

PROGRAMS = {
    name: importlib.import_module(f"experiments.{name}.run").EXPERIMENT for name in budget.PHASES
}
PAIRS = [(name, each) for name, program in PROGRAMS.items() for each in program.presets["gpu"]]


@pytest.fixture
def outlined(monkeypatch):
    """Build networks of zeros, read imitations of the data."""
    build = models.build

    def outline(*args, **options):
        shapes = jax.eval_shape(lambda: build(*args, **options))
        return jax.tree.map(lambda leaf: np.zeros(leaf.shape, leaf.dtype), shapes)

    for module in (models, models.admm, models.published):
        monkeypatch.setattr(module, "build", outline)
    monkeypatch.setattr(problem, "started", lambda net, *_: net)
    monkeypatch.setattr(data, "load", imitations.load)


def estimate_of(name, dataset):
    """Return the estimate of a preset, and its phases."""
    config = command.preset_of(PROGRAMS[name], "gpu", dataset)
    options = flat(config)
    module = importlib.import_module(f"experiments.{name}.run")
    if name == "spatiotemporal":
        found = module.load_layout(config, module.NETWORKS)
    elif name == "spike_thrift":
        found, _ = module.load(config)
    else:
        extra = problem.QP_SNN if name in ("qp_snn", "joint", "fast") else {}
        found = problem.load(config, seed=0, batch_size=options["batch_size"], **extra)
    splits = found.data.train, found.data.validation, found.data.test
    samples = tuple(len(split.labels) for split in splits)
    phases = budget.phases_of(name, config)
    return budget.estimate(found.net, found.task, samples, options["batch_size"], phases), phases


def test_every_experiment_has_presets_for_a_gpu():
    assert set(PROGRAMS) == {
        "admm", "rivals", "qp_snn", "joint", "spatiotemporal", "spike_thrift", "sweep",
        "fast",
    }  # fmt: skip
    assert all(program.presets["gpu"] for program in PROGRAMS.values())


@pytest.mark.long
def test_the_estimate_of_the_measured_steps_is_what_was_measured():
    vgg = jax.eval_shape(lambda: models.vgg16((32, 32, 3), classes=10, norm=True))
    task = train.Task(inputs.Inputs((32, 32, 3), timesteps=4))
    epoch = Phase("dense", 1, 4)
    found = budget.estimate(vgg, task, (128, 0, 0), 128, (epoch,))
    # The first layer is computed once here, and has no gradient of its input: 2 % of all.
    assert found.training == pytest.approx(7.04e-3, rel=0.03)
    assert found.compilation == pytest.approx(3 * 28, rel=0.02) and found.evaluation == 0
    macs = sum(budget.multiply_adds(vgg, task))
    assert macs == sum(limits.multiply_adds(problems.VGG16))
    w2 = jax.eval_shape(lambda: models.build("800-10", (784,)))
    task = train.Task(inputs.Inputs((784,), 25, "events"))
    found = budget.estimate(w2, task, (128, 0, 0), 128, (Phase("dense", 1, 25),))
    assert found.training == pytest.approx(5.3e-3, rel=0.02)
    assert found.compilation == pytest.approx(3 * 11, rel=0.01)


@pytest.mark.parametrize(
    ("name", "dataset"),
    [
        pytest.param(*pair, marks=[] if pair == ("qp_snn", "cifar10") else [pytest.mark.slow])
        for pair in PAIRS
    ],
)
@pytest.mark.long
def test_a_preset_takes_at_most_ten_minutes_of_a_gpu(name, dataset, outlined):
    found, phases = estimate_of(name, dataset)
    assert found.seconds <= budget.LONGEST, (found, phases)
