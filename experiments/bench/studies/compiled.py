"""Compressed networks as C beside the dense network in XLA: microseconds a sample, on one core."""

import json
import math
import statistics
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from rich.console import Console

from experiments.bench.contenders import Contender
from experiments.bench.problems import layers_of
from experiments.bench.rounds import Effort, Entries, measure_all
from experiments.bench.tables import new_table
from jaxsnn import export
from jaxsnn.errors import UserError

VGG = "64C3-64C3-AP2-128C3-128C3-AP2-256C3-256C3-AP2-256-10"
OURS = ("dense", "integers", "many", "one")
PYTORCH = {"PyTorch": "", "PyTorch bf16": "amp"}  # row -> variant
NEURON = {"decay": 0.5, "threshold": 1.0}  # and the reset that all of them can have
FEW = 32  # samples of the slow ways
MANY = 512


class Net(NamedTuple):
    """A network to compile: its weights are drawn, `density` of them are not zero."""

    name: str
    layout: str
    shape: tuple[int, ...]
    timesteps: int
    bits: int
    density: float


NETS = (
    Net("MNIST, 3 bits, 10 %", "15C5V-AP2-40C5V-AP2-300-10", (28, 28, 1), 2, 3, 0.1),
    Net("VGG, ternary, 10 %", VGG, (32, 32, 3), 4, 2, 0.1),
    Net("VGG, 4 bits, 10 %", VGG, (32, 32, 3), 4, 4, 0.1),
    Net("VGG, 4 bits, 5 %", VGG, (32, 32, 3), 4, 4, 0.05),
    Net("VGG, 4 bits, all", VGG, (32, 32, 3), 4, 4, 1.0),
    Net("recurrent, 4 bits, 10 %", "128R-20", (700,), 20, 4, 0.1),
)


def bright(random: np.random.Generator, samples: int, shape: tuple[int, ...]) -> dict[str, Any]:
    """Return images of few bright pixels, and labels that nobody looks at."""
    lit = random.random((samples, *shape)) < 0.2
    x = (random.integers(0, 256, lit.shape) * lit).astype(np.uint8)
    return {"x": x, "labels": np.zeros(samples, np.int64)}


def draw(net: Net, samples: int, seed: int) -> dict[str, Any]:
    """Return weights on a grid, images of few bright pixels, and the description."""
    random = np.random.default_rng(seed)
    top = 2 ** (net.bits - 1) - 1
    mean_square = np.mean(np.arange(1, top + 1) ** 2)  # of the codes
    arrays: dict[str, Any] = {}

    def weights(shape: tuple[int, ...]) -> np.ndarray:
        codes = random.integers(1, top + 1, shape) * random.choice([-1, 1], shape)
        kept = random.random(shape) < net.density
        spread = math.sqrt(math.prod(shape[:-1]) * net.density * mean_square)
        step = 2.0 ** round(math.log2(4.0 / spread))  # so that the layers fire
        return (codes * kept * step).astype(np.float32)

    layers = list(layers_of(net.layout, net.shape))
    for layer in layers:
        if layer.kernel:
            arrays[f"{layer.name}/kernel"] = weights(layer.kernel)
            arrays[f"{layer.name}/bias"] = np.zeros(layer.kernel[-1], np.float32)
        if layer.recurrent:
            arrays[f"{layer.name}/recurrent"] = weights((layer.kernel[-1],) * 2)
    arrays |= bright(random, samples, net.shape)
    spec = {
        "layout": net.layout,
        "input_shape": net.shape,
        "timesteps": net.timesteps,
        "layers": [layer._asdict() for layer in layers],
        "direct": True,
        **NEURON,
    }
    return arrays | {"spec": np.array(json.dumps(spec))}


def of_file(path: Path, samples: int, seed: int) -> dict[str, Any]:
    """Return images of few bright pixels for a packed network, and its description.

    Raises:
      UserError: for a file that cannot be read, or whose network does not take images.
    """
    inputs = export.load(path).inputs
    if inputs is None or inputs.encoding != "direct":
        raise UserError(f"--products {path}: the study feeds images to networks that take them")
    spec = {"file": str(path.resolve())}
    return bright(np.random.default_rng(seed), samples, inputs.shape) | {
        "spec": np.array(json.dumps(spec))
    }


def compiled(
    console: Console,
    peers: dict[str, Contender],
    effort: Effort,
    seed: int,
    products: tuple[Path, ...] = (),
) -> list[dict[str, Any]]:
    """Time each way of each network, each in a process of its own; PyTorch where it is a peer.

    Args:
      console: for the table.
      peers: who is there.
      effort: how long is measured.
      seed: of weights and images.
      products: packed networks, beside `NETS`.

    Raises:
      UserError: if the C code does not give the scores of the integer network, or all are 0; for
        products that cannot be read.
    """
    cases = [(net.name, net._asdict(), partial(draw, net, seed=seed)) for net in NETS]
    cases += [
        (path.stem, {"name": path.stem, "file": path.name}, partial(of_file, path, seed=seed))
        for path in products
    ]
    ways = {way: Contender("jaxsnn_compiled", way) for way in OURS}
    if any(peer.package == "torch" for peer in peers.values()):
        ways |= {
            name: Contender("torch_compiled", variant, package="torch")
            for name, variant in PYTORCH.items()
        }
    titles = ({"many": "C, many", "one": "C, one"}.get(way, way) for way in ways)
    table = new_table("Microseconds a sample on one core", "network", *titles, "dense / C")
    records = []
    for name, about, problem in cases:
        entries: Entries = {}
        few, many = problem(samples=FEW), problem(samples=MANY)
        for way, contender in ways.items():
            if way in OURS or "file" not in about:
                entries[way] = contender, many if way == "many" else few
        found = measure_all(name, entries, effort)
        if found["integers"][0]["loss"] != found["one"][0]["loss"]:
            raise UserError(f"{name}: the C code gives other scores than the integer network")
        if not found["one"][0]["rate"]:
            raise UserError(f"{name}: all scores are 0, so equal scores would prove nothing")
        each = {
            way: statistics.median(run["median_ms"] for run in runs)
            * 1e3
            / (MANY if way == "many" else FEW)
            for way, runs in found.items()
        }
        ratio = each["dense"] / each["many"]
        cells = (f"{each[way]:.4g}" if way in each else "-" for way in ways)
        table.add_row(name, *cells, f"{ratio:.1f}x")
        records.append({**about, "microseconds": each, "ratio": ratio, "rounds": found})
    console.print(table)
    return records
