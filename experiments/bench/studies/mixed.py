"""Mixed precision and learned bits against uniform bits at equal bytes: MNIST, three seeds.

A network is trained once for each seed, and from there on once for each way and budget, all for as
many epochs. A budget is what the codes of all kernels take with uniform bits. The ways are

- "uniform": as many bits everywhere, a scale for each channel (`quantized`);
- "learned scales": the same bits with scales that learn (`learned_scales`);
- "mixed, by layer" and "mixed, by channel": bits from the rise of the loss on some training images
  (`mixed.sensitivity`, `mixed.allocate`);
- "learned bits": bits that learn (`learned_bits`).

The accuracy is that on all test images; the bytes are those of all parameters in a packed file.
"""

import statistics
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import optax
from rich.console import Console

from experiments.bench.contenders import Contender
from experiments.bench.rounds import Effort
from experiments.bench.tables import new_table
from jaxsnn import compress, data, metrics, models, train
from jaxsnn.data import Dataset
from jaxsnn.methods.result import Trainer
from jaxsnn.network import Network
from jaxsnn.neurons import LIF
from jaxsnn.surrogate import rectangle
from jaxsnn.train import Task

Rows = list[dict[str, Any]]


@dataclass(frozen=True)
class Plan:
    """How much is trained."""

    layout: str = "16C3-AP2-32C3-AP2-10"
    timesteps: int = 4
    images: int = 12_000
    epochs: int = 6  # of the dense network
    tuning: int = 3  # epochs of each quantized one
    batch: int = 50
    seeds: int = 3
    uniform: tuple[int, ...] = (2, 3, 4)  # bits
    calibration: int = 200  # training images that the rises are measured on


WIDTHS = (2, 3, 4, 5, 6, 8)
CHANNEL_WIDTHS = (0, *WIDTHS)
KERNELS = "*/kernel"


def phases(
    net: Network, task: Task, digits: Dataset, plan: Plan, bits: int, trainer: Trainer
) -> dict[str, Callable[[], compress.Phase]]:
    """Return way -> its phase, at the bytes of uniform bits."""
    budget = sum(net.params[layer]["kernel"].size for layer in net.order) * bits / 8
    images = jnp.asarray(digits.train.images[: plan.calibration])
    labels = jnp.asarray(digits.train.labels[: plan.calibration])
    x = task.prepare(jax.random.key(0), images, False)

    def loss(net: Network) -> jax.Array:
        return task.objective(task.run(net, x), labels, x, train=False)

    def adam(rate: float = 1e-3) -> optax.GradientTransformation:
        return optax.adam(trainer.cosine(rate, plan.tuning))

    def mixed(per: Any, widths: tuple[int, ...]) -> compress.Phase:
        rises = compress.mixed.sensitivity(
            loss, net, widths=widths, per=per, scales="channel", at_once=4
        )
        found = compress.mixed.allocate(rises, net, budget, widths=widths)
        return compress.quantized(adam(), compress.mixed.recipe(found, per="channel"))

    return {
        "uniform": lambda: compress.quantized(
            adam(), {KERNELS: compress.uniform_grid(bits, per="channel")}
        ),
        "learned scales": lambda: compress.learned_scales(adam(), {KERNELS: bits}, per="channel"),
        "mixed, by layer": lambda: mixed("leaf", WIDTHS),
        "mixed, by channel": lambda: mixed("channel", CHANNEL_WIDTHS),
        "learned bits": lambda: compress.learned_bits(
            adam(), {KERNELS: 1 / 8}, budget, widths=adam(1e-2)
        ),
    }


def measured(digits: Dataset, plan: Plan, seed: int, say: Callable[[str], None]) -> Rows:
    """Return the rows of one seed: the dense network, then each way at each budget."""
    trainer = Trainer(train.fit, digits, plan.batch, seed)
    task = train.Task(digits.inputs(plan.timesteps), loss="ce")
    neuron = LIF(0.5, 0.5, surrogate=rectangle(1.0))
    net = models.build(plan.layout, digits.shape, neuron, readout="current", seed=seed)
    some = jnp.asarray(digits.train.images[:16])
    net = models.firing_start(net, task.prepare(jax.random.key(0), some, False))
    say(f"mixed, seed {seed}: dense")

    def fitted(net: Network, phase: Any, epochs: int) -> Network:
        return train.fit(
            task, phase, net, digits.train, epochs=epochs, batch_size=plan.batch, seed=seed,
            show=False,
        )  # fmt: skip

    def row(way: str, bits: int | None, net: Network) -> dict[str, Any]:
        found = metrics.measure(task, net, digits.test, batch_size=250)
        return {
            "name": way, "part": bits and f"{bits} bits", "seed": seed, "accuracy": found.accuracy,
            "weight_bytes": found.weight_bytes, "bits": found.bits, "density": found.density,
        }  # fmt: skip

    net = fitted(net, optax.adam(trainer.cosine(2e-3, plan.epochs)), plan.epochs)
    rows = [row("dense", None, net)]
    for bits in plan.uniform:
        for way, phase in phases(net, task, digits, plan, bits, trainer).items():
            say(f"mixed, seed {seed}: {way}, {bits} bits")
            rows.append(row(way, bits, fitted(net, phase(), plan.tuning)))
    uniform = {row["part"]: row["accuracy"] for row in rows if row["name"] == "uniform"}
    return [row | {"over_uniform": _over(row, uniform)} for row in rows]


def _over(row: dict[str, Any], uniform: dict[str, float]) -> float | None:
    """Return by how much a row is more accurate than uniform bits at its budget and seed."""
    return row["accuracy"] - uniform[row["part"]] if row["part"] else None


def mixed(
    console: Console, peers: dict[str, Contender], effort: Effort, seed: int, plan: Plan = Plan()
) -> Rows:
    """Compare the ways on some images of MNIST, and print means over the seeds."""
    del peers
    digits = data.load("mnist", limit=plan.images)
    seeds = range(seed, seed + plan.seeds)
    rows = [row for each in seeds for row in measured(digits, plan, each, effort.say)]
    show(console, rows, plan)
    return rows


def show(console: Console, rows: Rows, plan: Plan) -> None:
    """Print accuracy, its least and greatest, and bytes of each way at each budget."""
    title = f"MNIST, {plan.images} images, {plan.layout}, T = {plan.timesteps}"
    table = new_table(title, "", "budget", "accuracy", "from", "to", "bytes")
    for way, budget in dict.fromkeys((row["name"], row["part"]) for row in rows):
        here = [row for row in rows if (row["name"], row["part"]) == (way, budget)]
        found = [100 * row["accuracy"] for row in here]
        size = statistics.mean(row["weight_bytes"] for row in here)
        numbers = (f"{x:.2f} %" for x in (statistics.mean(found), min(found), max(found)))
        table.add_row(way, budget or "", *numbers, f"{size:.0f}")
    console.print(table)
