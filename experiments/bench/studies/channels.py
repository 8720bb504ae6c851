"""What QP-SNN costs and gains in time: a quantized step, the scores, a shrunk network."""

import math
from collections.abc import Callable
from typing import Any

import jax.numpy as jnp
import numpy as np
import optax
from rich.console import Console

from experiments.bench.contenders import Contender
from experiments.bench.rounds import Effort
from experiments.bench.studies.timing import Epoch, in_turns
from experiments.bench.tables import new_table
from jaxsnn import compress, export, models, train, tree
from jaxsnn.compress import singular
from jaxsnn.inputs import Inputs
from jaxsnn.methods import qp_snn
from jaxsnn.network import Network
from jaxsnn.train import parallel

WIDTH, TIMESTEPS, BATCH, BITS = 0.25, 2, 100, 4
HALF = (0.5,) * 3
STEPS = 4  # in one call of the compiled epoch
BATCHES, CALIBRATION_BATCH = 5, 128
TRAINING_IMAGES = 50_000  # of CIFAR-10: the epoch that scores are compared with


def channels(
    console: Console, peers: dict[str, Contender], effort: Effort, seed: int
) -> list[dict[str, Any]]:
    """Time QP-SNN on a quarter-width VGG-16, T = 2, 4 bits, setting A, on noise."""
    del peers
    effort.say("qp-snn")
    net = models.vgg16(width=WIDTH, seed=seed)
    draw = np.random.default_rng(seed)
    shape = (max(STEPS * BATCH, BATCHES * CALIBRATION_BATCH), 32, 32, 3)
    images = draw.integers(0, 256, shape, dtype=np.uint8)
    labels = jnp.asarray(draw.integers(0, 10, len(images)).astype(np.int32))

    inputs = Inputs((32, 32, 3), TIMESTEPS, "direct", HALF, HALF)
    task = train.Task(inputs, loss="ce", devices=parallel.most_devices(BATCH))

    split = jnp.asarray(images[: STEPS * BATCH]), labels[: STEPS * BATCH]
    quantizer = compress.rescaled(BITS)
    recipe = dict.fromkeys(qp_snn.quantized_leaves(net, inputs), quantizer)
    rule = compress.gradient_rule("inv_gamma", quantizer)
    adam = optax.adam(1e-3)
    steps = in_turns(
        {
            "float": Epoch(task, adam, net, split, STEPS),
            "quantized": Epoch(
                task, compress.quantized(adam, recipe, straight_through=rule), net, split, STEPS
            ),
        },
        effort,
    )

    ratios = qp_snn.ratios("vgg16", "A", 10)

    def statistic(output):
        spikes = output.activity.spikes
        return {name: singular.singular_scores(spikes[name], TIMESTEPS) for name in ratios}

    def score():
        return train.over_batches(
            task, net, images, statistic, batches=BATCHES, batch_size=CALIBRATION_BATCH
        )

    kept = singular.kept_channels(score().mean, ratios)
    small = export.shrink(net, kept)

    ways = {"dense": _predict(task, net, split[0]), "shrunk": _predict(task, small, split[0])}
    times = in_turns(ways | {"score": score}, effort)
    epoch = steps["float"] * TRAINING_IMAGES / (STEPS * BATCH)
    operations = [_multiply_adds(x, inputs) for x in (net, small)]
    rows = [
        ("a training step, float", 1e3 * steps["float"] / STEPS, None),
        ("a training step, 4 bits", 1e3 * steps["quantized"] / STEPS,
         steps["quantized"] / steps["float"]),
        ("scores on 640 images, of an epoch", 1e3 * times["score"], times["score"] / epoch),
        (f"{STEPS * BATCH} images, dense", 1e3 * times["dense"], None),
        (f"the same, shrunk to {operations[1] / operations[0]:.2f} of the operations",
         1e3 * times["shrunk"], times["shrunk"] / times["dense"]),
    ]  # fmt: skip
    show(console, rows)
    return [{"what": what, "median_ms": ms, "ratio": ratio} for what, ms, ratio in rows]


def show(console: Console, rows: list[tuple[str, float, float | None]]) -> None:
    """Print the table: what, milliseconds, ratio."""
    table = new_table("QP-SNN on VGG-16 at a quarter of its width, T = 2", "", "ms", "ratio")
    for name, milliseconds, ratio in rows:
        table.add_row(name, f"{milliseconds:.4g}", "" if ratio is None else f"{ratio:.3f}")
    console.print(table)


def _predict(task: train.Task, net: Network, images: Any) -> Callable[[], Any]:
    """Return a call that names the classes of all images."""
    return lambda: train.predict(task, net, images).block_until_ready()


def _multiply_adds(net: Network, inputs: Inputs) -> int:
    """Count the multiply-adds of one image at one step, from the shapes that layers see."""
    total = 0
    for kernel, feed in net.flow(inputs).feeds.items():
        leaf = tree.named_leaves(net.params)[kernel]
        total += math.prod(feed.outputs) * leaf.size // leaf.shape[-1]
    return total
