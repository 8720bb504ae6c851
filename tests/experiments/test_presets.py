"""Every preset of every experiment, on every data set it is for: it starts, fires and learns.

The data are imitations (`imitations.py`). A pair is driven by the program itself, up to where it
would make its run directory: data, network, task and every check of the method.
"""

import importlib
import importlib.util
from dataclasses import replace
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from experiments import common
from experiments.common import command, converted, flat, problem
from jaxsnn import data, models, train, tree
from jaxsnn.data import Split
from jaxsnn.methods import conversion, spike_thrift
from jaxsnn.methods.result import Trainer

spec = importlib.util.spec_from_file_location("imitations", Path(__file__).parent / "imitations.py")
imitations = importlib.util.module_from_spec(spec)
spec.loader.exec_module(imitations)
SETS = imitations.SETS

PROGRAMS = {
    name: importlib.import_module(f"experiments.{name}{'' if name == 'quickstart' else '.run'}")
    for name in ("quickstart", "admm", "rivals", "qp_snn", "joint", "spatiotemporal",
                 "spike_thrift", "sweep", "fast")
}  # fmt: skip

LEAST_RATE = 0.002  # spikes per neuron and step: below it a layer counts as silent
BATCH = 2
CALIBRATION = 100  # steps of time; the authors of Spike-Thrift take 1,000


class Begun(Exception):
    """Stop a program where it would make its run directory."""


@pytest.fixture
def begun(monkeypatch):
    """Return a function that starts a program, and gives its problem as it would begin to train."""
    found = {}
    check = problem.check_fit

    def note(net, task, dataset):
        check(net, task, dataset)
        found["problem"] = common.Problem(dataset, net, task)

    def stop(*_):
        raise Begun

    monkeypatch.setattr(data, "load", imitations.load)
    monkeypatch.setattr(common, "Run", stop)
    for module in (problem, converted):
        monkeypatch.setattr(module, "check_fit", note)

    def start(experiment, config):
        with pytest.raises(Begun):
            experiment.run(config)
        return found.pop("problem")

    return start


def pairs():
    """Yield each program with each of its presets and data sets; equal values only once."""
    for name, program in PROGRAMS.items():
        experiment, seen = program.EXPERIMENT, set()
        for preset, sets in experiment.presets.items():
            for dataset, values in sets.items():
                key = repr(sorted(values.items())), SETS[dataset][:2]
                if key not in seen:
                    yield name, preset, dataset
                seen.add(key)


PAIRS = list(pairs())


def test_every_data_set_has_an_imitation():
    assert set(SETS) == set(data.names())
    for name in SETS:
        few = imitations.samples(name, 3, 4 if name in imitations.EVENTS else None)
        assert few.dtype == np.uint8 and few.shape[-len(SETS[name][0]) :] == SETS[name][0]
        assert few.any() and not np.array_equal(few[0], few[1])


# --- All of them, with zeros for weights ----------------------------------------------------------


@pytest.fixture
def outlined(monkeypatch):
    """Build networks of zeros: nothing is drawn, nothing compiled."""
    build = models.build

    def outline(*args, **options):
        shapes = jax.eval_shape(lambda: build(*args, **options))
        zeros = jax.tree.map(lambda leaf: np.zeros(leaf.shape, leaf.dtype), shapes)
        return zeros.replace(stats=tree.map_named(constant, zeros.stats))

    def constant(name, leaf):  # a threshold must not be 0
        return np.asarray(leaf + name.endswith("/threshold"), leaf.dtype)

    for module in (models, models.admm, models.published):
        monkeypatch.setattr(module, "build", outline)
    monkeypatch.setattr(problem, "started", lambda net, *_: net)


@pytest.mark.run
@pytest.mark.parametrize(
    ("name", "preset", "dataset"),
    [
        pytest.param(*pair, marks=[] if pair[1] in ("smoke", "cpu") else [pytest.mark.thorough])
        for pair in PAIRS
    ],
)
def test_a_preset_starts_and_its_numbers_fit_each_other(name, preset, dataset, outlined, begun):
    experiment = PROGRAMS[name].EXPERIMENT
    config = command.preset_of(experiment, preset, dataset)
    found = begun(experiment, config)
    values, inputs = flat(config), found.task.inputs
    assert inputs.shape == SETS[dataset][0]
    assert found.data.num_classes == SETS[dataset][1]
    steps = [inputs.timesteps, *values.get("fewer", ()), *values.get("timesteps_schedule", ())]
    assert all(found.task.remat is None or n % min(found.task.remat, n) == 0 for n in steps)
    sizes = [values["batch_size"], values.get("tune_batch_size") or values["batch_size"]]
    assert all(size % values["micro_batches"] == 0 for size in sizes)
    assert max(sizes) <= len(found.data.train.labels)


# --- Each of them, on one batch -------------------------------------------------------------------


def batch(found, dataset):
    """Return a batch of imitated samples with different labels."""
    frames = found.data.timesteps
    return jnp.asarray(imitations.samples(dataset, BATCH, frames)), jnp.arange(BATCH)


def signs_of_life(net, task, images, labels):
    """Return layer -> rate, and kernel -> norm of its gradient, of a training step."""
    x = task.prepare(jax.random.key(0), images, True)

    @jax.jit
    def gradient(net, x):
        def loss(params):
            keys = jax.random.split(jax.random.key(1), BATCH)
            output = task.run(net.replace(params=params), x, train=True, key=keys, remat=task.remat)
            return task.objective(output, labels, x), output

        slope, output = jax.grad(loss, has_aux=True)(net.params)
        leaves = tree.named_leaves(slope)
        norms = {n: jnp.linalg.norm(leaf.ravel()) for n, leaf in leaves.items() if leaf.ndim > 1}
        fired = output.activity.spikes
        return (
            {layer: jnp.mean(each > 0) for layer, each in fired.items()},
            {layer: jnp.mean(each) / task.inputs.timesteps for layer, each in fired.items()},
            norms,
        )

    shares, rates, norms = jax.device_get(gradient(net, x))
    return shares, rates, norms


def check_alive(what, net, task, images, labels):
    """Assert that every hidden layer fires and that every kernel gets a gradient.

    The few neurons of a read-out may all be silent by chance; they learn all the same.
    """
    task = replace(task, devices=1, micro_batches=1, augment="none")
    shares, rates, norms = signs_of_life(net, task, images, labels)
    hidden = {layer: float(rates[layer]) for layer in rates if layer != net.order[-1]}
    silent = {layer: rate for layer, rate in hidden.items() if not rate > LEAST_RATE}
    assert not silent, f"{what}: layers that do not fire: {silent} of {rates}"
    dead = {kernel: float(norm) for kernel, norm in norms.items() if not 0 < norm < np.inf}
    assert not dead, f"{what}: kernels without a gradient: {dead}"
    assert shares


STARTS = "network width start norm dtype decay threshold timesteps encoding loss".split()
CONVERTS = (
    "dropout fc order surrogate quantile threshold_scale scores calibration_timesteps density "
    "begin spread"
).split()


def key_of(name, preset, dataset):
    """Return what decides how a network starts: two pairs of one key need one look."""
    values = flat(command.preset_of(PROGRAMS[name].EXPERIMENT, preset, dataset))
    is_converted = "quantile" in values
    names = STARTS + CONVERTS * is_converted
    kind = "converted" if is_converted else name in ("qp_snn", "joint", "fast")
    return kind, SETS[dataset][:2], tuple(repr(values.get(each)) for each in names)


def different(pairs):
    """Return the first of the pairs of each key."""
    found = {}
    for each in pairs:
        found.setdefault(key_of(*each), each)
    return list(found.values())


@pytest.mark.slow  # whole published networks: half an hour on two cores
@pytest.mark.parametrize(("name", "preset", "dataset"), different(PAIRS))
def test_every_layer_fires_and_every_kernel_gets_a_gradient(name, preset, dataset, begun):
    experiment = PROGRAMS[name].EXPERIMENT
    config = command.preset_of(experiment, preset, dataset)
    found = begun(experiment, config)
    images, labels = batch(found, dataset)
    if not hasattr(config, "hybrid"):
        net = problem.started(found.net, config.network.start, found.task, found.data, 0)
        check_alive("dense", net, found.task, images, labels)
        return
    few = Split(np.asarray(images), np.asarray(labels))
    # Of weights that nobody trained, and two images, the largest current is far above all others.
    quantile = min(config.hybrid.quantile, 0.99)
    # Longer looks for the largest current change no layer's life, and take a quarter of an hour.
    steps = min(config.hybrid.calibration_timesteps, CALIBRATION)
    hybrid = replace(
        config.hybrid, calibration_images=BATCH, batch_size=BATCH, quantile=quantile,
        calibration_timesteps=steps,
    )  # fmt: skip
    trainer = Trainer(train.fit, replace(found.data, train=few), BATCH, 0)
    ann = found.net.replace(params=models.he_start(jax.random.key(0), found.net.params))
    still = conversion.ann_task(found.task)
    check_alive("ann", ann, still, images, labels)
    if name == "spike_thrift":
        _, params = spike_thrift.sparse_start(ann, config.method, 0)
        ann = ann.replace(params=params)
        check_alive("sparse ann", ann, still, images, labels)
    spiking, *_ = conversion.take_over(ann, found.task, trainer, hybrid)
    check_alive("converted", spiking, found.task, images, labels)
