"""Where JAX counts in double precision, weights stay float32 and everything goes on working.

Most of it shows when a program is traced, so little is compiled here.
"""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from jaxsnn import compress, export, metrics, models, sweep, train
from jaxsnn.compress import masks, projections, rewiring
from jaxsnn.compress.phase import as_phase
from jaxsnn.data import Split
from jaxsnn.encode import Signal
from jaxsnn.inputs import Inputs
from jaxsnn.network import Network
from jaxsnn.neurons import LIF
from jaxsnn.train import loop

SHAPE = (4, 4, 1)
DRAW = np.random.default_rng(0)
SPLIT = Split(
    DRAW.integers(0, 256, (12, *SHAPE), dtype=np.uint8), (np.arange(12) % 3).astype(np.int32)
)
NET = models.build("4C3-MP2-5R-3", SHAPE, LIF(0.5, 0.3), trained=("decay", "threshold"))
INPUTS = Inputs(SHAPE, 4)
ADAM = optax.adam(1e-2)
HALF = masks.keep_fraction(NET.params, {"*/kernel": 0.5})
LEAF = jnp.asarray(DRAW.normal(size=(6, 4)), jnp.float32)


@pytest.fixture(autouse=True)
def double():
    with jax.enable_x64(True):
        yield


GRIDS = {
    "uniform": lambda: compress.uniform_grid(4),
    "uniform, per channel": lambda: compress.uniform_grid(4, per="channel"),
    "uniform, zeros stay": lambda: compress.uniform_grid(3, keep_zeros=True),
    "symmetric": lambda: compress.symmetric_uniform(4),
    "power of two": lambda: compress.pow2_grid(4),
    "ternary": lambda: compress.ternary_grid(),
    "binary": lambda: compress.binary_grid(),
    "rescaled": lambda: compress.rescaled(3),
    "vanilla": lambda: compress.vanilla(3),
}
PROJECTIONS = GRIDS | {
    "largest": lambda: compress.keep_largest(0.5),
    "percentile": lambda: projections.percentile_keep(0.5),
    "n of m": lambda: compress.n_of_m(1, 2),
    "mask": lambda: compress.on_mask(jnp.arange(24).reshape(6, 4) % 3 > 0),
    "composed": lambda: compress.compose(
        compress.keep_largest(0.5), compress.uniform_grid(3, keep_zeros=True)
    ),
}


@pytest.mark.long
@pytest.mark.parametrize("name", PROJECTIONS)
def test_projections_keep_float32_and_their_numbers(name):
    project = PROJECTIONS[name]()
    found = project(LEAF)
    assert found.dtype == jnp.float32
    if name in GRIDS:
        assert compress.quantize(project, LEAF).decode().dtype == jnp.float32
    with jax.enable_x64(False):
        np.testing.assert_allclose(found, PROJECTIONS[name]()(LEAF), rtol=1e-5, atol=1e-7)


def quantized(projection):
    return lambda: compress.quantized(ADAM, {"*/kernel": projection})


PHASES = {
    "plain": lambda: as_phase(optax.sgd(0.1, momentum=0.9)),
    "pruned": lambda: compress.pruned(ADAM, HALF),
    "pulled": lambda: compress.pulled(
        ADAM, {"*/kernel": compress.keep_largest(0.5)}, 1e-2, every=2
    ),
    "pulled by norm": lambda: compress.pulled(
        ADAM, {"*/kernel": compress.uniform_grid(3)}, 1e-2, every=2, mode="norm", masks=HALF
    ),
    "rewired": lambda: compress.rewired(optax.sgd(0.1, momentum=0.9), HALF, 6),
    "rewired at random": lambda: compress.rewired(
        optax.sgd(0.1, momentum=0.9), HALF, 6, growth=rewiring.at_random, key=jax.random.key(0)
    ),
    "learned scales": lambda: compress.learned_scales(ADAM, {"*/kernel": 3}, per="channel"),
    "learned bits": lambda: compress.learned_bits(ADAM, {"*/kernel": 1 / 8}, 100.0),
    "gradually pruned": lambda: compress.gradually_pruned(
        ADAM, {"*/kernel": 0.5}, begin=0, end=4, every=2
    ),
    "by rule": lambda: compress.quantized(
        ADAM, {"*/kernel": compress.rescaled(2)},
        straight_through=compress.gradient_rule("inv_gamma", compress.rescaled(2)),
    ),
    "schedule": lambda: compress.quantized(
        optax.adam(optax.cosine_decay_schedule(1e-2, 4)), {"*/kernel": compress.uniform_grid(4)}
    ),
}  # fmt: skip
PHASES |= {name: quantized(GRIDS[name]()) for name in ("uniform, per channel", "power of two")}


@pytest.mark.long
@pytest.mark.parametrize("name", PHASES)
def test_a_phase_trains_and_ends_with_the_types_it_began_with(name):
    phase, task = PHASES[name](), train.Task(INPUTS)

    def epoch(net, split):
        state = loop.init(net, phase, loop.phase_key(0, "train"))
        after, sums = loop.steps(
            task, phase.optimizer, 6, state, loop.no_sums(), split, jnp.int32(2)
        )
        ended = loop.end_epoch(phase, after)
        seen = {} if phase.observe is None else phase.observe(ended.net.params, ended.opt_state)
        return state, ended, sums, seen, loop.end_phase(phase, ended).params

    begun, ended, sums, _, params = jax.eval_shape(epoch, NET, tuple(SPLIT))
    types = [jax.tree.map(lambda leaf: (leaf.shape, leaf.dtype), each) for each in (begun, ended)]
    assert jax.tree.leaves(types[0]) == jax.tree.leaves(types[1])
    assert {leaf.dtype for leaf in jax.tree.leaves(params)} == {np.dtype("float32")}
    assert {leaf.dtype.itemsize for leaf in jax.tree.leaves(sums)} == {4}


TASKS = {
    "ce": train.Task(INPUTS, loss="ce"),
    "ce_sum": train.Task(INPUTS, loss="ce_sum"),
    "spikes": train.Task(INPUTS, spike_weight=0.1),
    "remat": train.Task(INPUTS, remat=2),
    "micro-batches": train.Task(INPUTS, micro_batches=2),
    "active": train.Task(INPUTS, active=2, spike_weight=0.1),
    "poisson": train.Task(Inputs(SHAPE, 4, "poisson"), augment="crop-flip"),
    "bernoulli": train.Task(Inputs(SHAPE, 4, "bernoulli")),
    "events": train.Task(Inputs(SHAPE, 3, "events"), augment="events"),
    "guide": train.Task(INPUTS, guide=train.Guide(NET, beta=1.0, stages=("conv1",))),
}


@pytest.mark.long
@pytest.mark.parametrize("name", TASKS)
def test_a_task_trains_and_evaluates(name):
    task, phase = TASKS[name], as_phase(ADAM)
    samples = np.zeros((12, *task.inputs.sample_shape), np.uint8)
    split = jax.tree.map(jnp.asarray, (samples, SPLIT.labels))

    def run(net, split):
        state = loop.init(net, phase, loop.phase_key(0, "train"))
        after, _ = loop.steps(task, phase.optimizer, 6, state, loop.no_sums(), split, jnp.int32(2))
        return after.net, train.evaluation.evaluate_traced(task, after.net, split, batch_size=5)

    net, (_, loss, counts) = jax.eval_shape(run, NET, split)
    kinds = {leaf.dtype for leaf in jax.tree.leaves((net, loss))}
    assert kinds == {np.dtype("float32")}
    assert not any(jnp.issubdtype(leaf.dtype, jnp.inexact) for leaf in jax.tree.leaves(counts))


@pytest.mark.thorough
def test_a_network_is_trained_measured_packed_and_handed_on(tmp_path):
    """The same numbers as in single precision, through files and integers."""
    phase = compress.quantized(ADAM, {"*/kernel": compress.uniform_grid(4)})
    task, fit = train.Task(INPUTS, loss="ce"), {"epochs": 2, "batch_size": 6, "show": False}
    start = models.build("4C3-AP2-8-3", SHAPE, LIF(0.5, 0.3))
    net = train.fit(task, phase, start, SPLIT, validation=SPLIT, **fit)
    found = metrics.measure(task, net, SPLIT)
    with jax.enable_x64(False):
        single = train.fit(task, phase, start, SPLIT, **fit)
        assert metrics.measure(task, single, SPLIT).synops == found.synops > 0
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-6),
                 net.params, single.params)  # fmt: skip
    export.save(tmp_path / "net", net, INPUTS)
    again = export.load(tmp_path / "net").network
    jax.tree.map(np.testing.assert_array_equal, again.params, net.params)
    export.save_npz(tmp_path / "net.npz", net, INPUTS)
    integers = export.to_integer(net, INPUTS)
    pixels = Signal(jnp.asarray(SPLIT.images, jnp.int32), 4, constant=True)
    assert export.run_integer(integers, pixels).readout.shape == (4, 12, 3)
    export.to_nir(net, tmp_path / "net.nir", INPUTS)
    assert isinstance(export.from_nir(tmp_path / "net.nir"), Network)


@pytest.mark.thorough
def test_a_sweep_is_trained(tmp_path):
    def lane(point, start):
        grid = {"*/kernel": compress.uniform_grid(point["bits"])}
        task = train.Task(INPUTS, active=point["timesteps"])
        return sweep.Lane(compress.quantized(ADAM, grid), start, task)

    points = {"bits": [2, 4], "timesteps": [3]}
    found = sweep.run(lane, points, train.Task(INPUTS), NET, {"train": SPLIT, "test": SPLIT},
                      epochs=2, batch_size=6, show=False, directory=tmp_path)  # fmt: skip
    assert not found.diverged.any()
    assert {leaf.dtype for leaf in jax.tree.leaves(found.products.params)} == {np.dtype("float32")}


@pytest.mark.run
def test_ranks_are_never_promoted_and_no_number_is_lost():
    options = jax.numpy_rank_promotion("raise"), jax.debug_nans(True)
    with options[0], options[1]:
        phase = compress.quantized(ADAM, {"*/kernel": compress.uniform_grid(4)})
        task = train.Task(INPUTS, spike_weight=0.1)
        trained = train.fit(
            task, phase, NET, SPLIT, validation=SPLIT, epochs=1, batch_size=6, show=False
        )
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(trained.params))
