"""What Spike-Thrift costs: a sparse step, a guided one, moving the masks, a long time axis."""

from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from rich.console import Console

from experiments.bench.contenders import Contender
from experiments.bench.rounds import Effort
from experiments.bench.studies.timing import Epoch, in_turns
from experiments.bench.tables import new_table
from jaxsnn import models, train
from jaxsnn.compress import rewiring, starting
from jaxsnn.compress.phase import as_phase
from jaxsnn.inputs import Inputs
from jaxsnn.methods import balancing
from jaxsnn.network import Network
from jaxsnn.train import loop, parallel

WIDTH, BATCH, DENSITY = 0.25, 100, 0.05
STEPS = 4  # in one call of the compiled epoch
TRAINING_IMAGES = 50_000  # of CIFAR-10: the epoch that moving the masks is compared with
TIMESTEPS, CHUNK, LONG_BATCH = 100, 10, 20


def thrift(
    console: Console, peers: dict[str, Contender], effort: Effort, seed: int
) -> list[dict[str, Any]]:
    """Time Spike-Thrift on a quarter-width VGG-16, its ANN and its network of T = 100, on noise."""
    del peers
    effort.say("spike-thrift")
    draw = np.random.default_rng(seed)
    images = jnp.asarray(draw.integers(0, 256, (STEPS * BATCH, 32, 32, 3), dtype=np.uint8))
    labels = jnp.asarray(draw.integers(0, 10, len(images)).astype(np.int32))

    net = _network(seed, activation="relu")
    params = models.he_start(jax.random.key(seed), net.params)
    masks = starting.random_masks(jax.random.key(seed), DENSITY, params)
    sgd = optax.sgd(1e-3, momentum=0.9, nesterov=True)
    task = _task(1, "direct", parallel.most_devices(BATCH))
    split = images, labels
    plain = Epoch(task, sgd, net.replace(params=params), split, STEPS)
    begun = net.replace(params=starting.start(params, masks))
    sparse = Epoch(task, rewiring.sparse(sgd, masks), begun, split, STEPS)

    def rewire() -> None:
        state = sparse.state
        jax.block_until_ready(rewiring.rewire(state.opt_state, state.net.params, 0.3))

    found = in_turns({"dense": plain, "sparse": sparse, "rewire": rewire}, effort)
    epoch = found["sparse"] * TRAINING_IMAGES / (STEPS * BATCH)
    rows: list[tuple[str, float, float | None, float | None]] = [
        ("a step of the dense ANN", 1e3 * found["dense"] / STEPS, None, None),
        ("a step of the sparse ANN", 1e3 * found["sparse"] / STEPS,
         found["sparse"] / found["dense"], None),
        ("moving the masks, of an epoch", 1e3 * found["rewire"], found["rewire"] / epoch, None),
    ]  # fmt: skip
    rows += _long(seed, images[:LONG_BATCH], labels[:LONG_BATCH], effort)
    title = f"Spike-Thrift on VGG-16 at a quarter of its width, density {DENSITY}"
    table = new_table(title, "", "ms", "ratio", "MiB")
    for name, milliseconds, ratio, memory in rows:
        cells = ("" if x is None else f"{x:.4g}" for x in (ratio, memory))
        table.add_row(name, f"{milliseconds:.4g}", *cells)
    console.print(table)
    fields = ("what", "median_ms", "ratio", "temporaries_mib")
    return [dict(zip(fields, row, strict=True)) for row in rows]


def _long(
    seed: int, images: jax.Array, labels: jax.Array, effort: Effort
) -> list[tuple[str, float, float | None, float | None]]:
    """Measure a step of tuning over a long time, with and without remat: time and memory."""
    net = _network(seed)
    # Thresholds at which a random network fires; the time of a step does not depend on them.
    stats = jax.tree.map(
        lambda leaf: jnp.full_like(leaf, 0.3) if leaf.ndim == 0 else leaf, net.stats
    )
    phase = as_phase(optax.amsgrad(1e-4))
    params = models.he_start(jax.random.key(seed), net.params)
    state = loop.init(net.replace(params=params, stats=stats), phase, jax.random.key(0))
    calls: dict[str, Callable[[], Any]] = {}
    memory: dict[str, float] = {}
    for name, chunk in (("all at once", None), (f"remat {CHUNK}", CHUNK)):
        task = replace(_task(TIMESTEPS, "poisson", 1), remat=chunk)
        step = jax.jit(lambda *args, task=task: loop.train_step(task, phase.optimizer, *args)[0])
        compiled = step.lower(state, images, labels).compile()
        analysis = compiled.memory_analysis()
        assert analysis is not None
        memory[name] = analysis.temp_size_in_bytes / 2**20
        calls[name] = partial(_wait_for, compiled, state, images, labels)
    found = in_turns(calls, effort)
    base = found["all at once"]
    what = f"a step at T = {TIMESTEPS}, batch {len(labels)}"
    return [
        (f"{what}, {name}", 1e3 * found[name], found[name] / base, memory[name]) for name in calls
    ]


def _wait_for(function: Callable[..., Any], *args: Any) -> None:
    jax.block_until_ready(function(*args))


def _network(seed: int, activation: str = "spikes") -> Network:
    neuron = balancing.neuron()
    return models.thrift_vgg16(None, neuron, width=WIDTH, activation=activation, seed=seed)


def _task(timesteps: int, encoding: str, devices: int) -> train.Task:
    half = (0.5,) * 3
    inputs = Inputs((32, 32, 3), timesteps, encoding, half, half)
    return train.Task(inputs, loss="ce", devices=devices)
