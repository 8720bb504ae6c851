"""What bfloat16 costs in accuracy: the same trainings on MNIST in both numbers, three seeds."""

import statistics
from typing import Any

import jax
import jax.numpy as jnp
import optax
from rich.console import Console

from experiments.bench.contenders import Contender
from experiments.bench.rounds import Effort
from experiments.bench.tables import new_table
from jaxsnn import data, models, train
from jaxsnn.neurons import LIF
from jaxsnn.surrogate import rectangle

LAYOUT, TIMESTEPS, SEEDS = "12C5V-AP2-24C5V-AP2-10", 4, 3
IMAGES, EPOCHS, BATCH = 6_000, 4, 50


def precision(
    console: Console, peers: dict[str, Contender], effort: Effort, seed: int
) -> list[dict[str, Any]]:
    """Train a small network on some images of MNIST, and evaluate it on all test images."""
    del peers
    digits = data.load("mnist", limit=IMAGES)
    task = train.Task(digits.inputs(TIMESTEPS), loss="ce")
    start = task.prepare(jax.random.key(0), jnp.asarray(digits.train.images[:16]), False)
    table = new_table(
        f"MNIST, {IMAGES} images, {EPOCHS} epochs", "", *map(str, range(SEEDS)), "mean"
    )
    records = []
    for dtype in ("float32", "bfloat16"):
        found = []
        for each in range(seed, seed + SEEDS):
            effort.say(f"precision {dtype}, seed {each}")
            neuron = LIF(0.5, 0.5, surrogate=rectangle(1.0))
            net = models.build(
                LAYOUT, digits.shape, neuron, readout="current", dtype=jnp.dtype(dtype), seed=each
            )
            net = models.firing_start(net, start)
            net = train.fit(
                task, optax.adam(2e-3), net, digits.train, epochs=EPOCHS, batch_size=BATCH,
                seed=each, show=False,
            )  # fmt: skip
            found.append(train.evaluate(task, net, digits.test, batch_size=500).accuracy)
        mean = statistics.mean(found)
        table.add_row(dtype, *(f"{100 * x:.2f} %" for x in found), f"{100 * mean:.2f} %")
        records.append({"dtype": dtype, "accuracy": found, "mean": mean})
    console.print(table)
    return records
