"""What is computed: networks, batches and weights, the same for every framework.

A layout takes these words of `jaxsnn.models`: `15C5V`, `64C3`, `AP2`, `MP2`, `800`, `128R`; and
residual blocks, `128B3S2`, which only networks have that a builder of ours makes.
"""

import json
import math
import re
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any, Literal, NamedTuple

import numpy as np

from jaxsnn.errors import UserError

WORD = re.compile(r"(\d+)(C|B)(\d+)(?:(V)|S(\d+))?|([AM])P(\d+)|(\d+)(R?)")

POOLS = {"A": "average", "M": "maximum"}

# The neuron of all workloads: snnTorch's default. `alpha` is the arc tangent's.
NEURON = {"decay": 0.9, "threshold": 1.0, "alpha": 2.0}

BIAS = 0.01
LEARNING_RATE = 1e-3


@dataclass(frozen=True)
class Workload:
    """A network and its batch.

    Attributes:
      layout: the network.
      input_shape: of one sample, `(H, W, C)` or `(features,)`.
      timesteps: T.
      batch: B.
      rate: share of the inputs that spike at a step, other ones at each; None for an image of
        uniform noise that is handed over at every step (direct coding).
      gain: factor on the weights from the second layer on, so that deep networks fire.
      train: training steps; otherwise passes without a gradient.
      steps: training steps in an epoch of ours: enough for half a second on two cores.
      builder: function of `jaxsnn.models` that makes the network, with what a layout cannot say.
        Then nobody else runs it.
    """

    layout: str
    input_shape: tuple[int, ...]
    timesteps: int
    batch: int
    rate: float | None = None
    gain: float = 1.0
    train: bool = True
    steps: int = 10
    builder: str = ""


W1 = Workload("15C5V-AP2-40C5V-AP2-300-10", (28, 28, 1), 10, 64, rate=0.2, steps=6)
W2 = Workload("800-10", (784,), 25, 128, rate=0.2)
W3 = Workload("128R-20", (700,), 100, 64, rate=0.03, steps=20)
W4 = Workload(
    "64C3-64C3-AP2-128C3-128C3-AP2-256C3-256C3-AP2-256-10",
    (32, 32, 3), 4, 16, gain=2.0, steps=2,
)  # fmt: skip
VGG16 = Workload(
    "64C3-64C3-MP2-128C3-128C3-MP2-256C3-256C3-256C3-MP2-512C3-512C3-512C3-MP2"
    "-512C3-512C3-512C3-AP2-10",
    (32, 32, 3), 4, 32, gain=2.0, steps=2,
)  # fmt: skip
RESNET20 = Workload(
    "64C3-128B3-128B3-128B3-256B3S2-256B3-256B3-512B3S2-512B3-512B3-AP8-10",
    (32, 32, 3), 2, 32, steps=2, builder="resnet20",
)  # fmt: skip

# The sizes that keep a GPU busy.
VGG16_GPU = replace(VGG16, batch=128, steps=20)
RESNET20_GPU = replace(RESNET20, batch=128, steps=20)

WORKLOADS = {
    "W1": W1,
    "W2": W2,
    "W3": W3,
    "W4": W4,
    "W1-inference": replace(W1, train=False),
    "W4-inference": replace(W4, train=False),
    "vgg16": VGG16,
    "resnet20": RESNET20,
    "vgg16-gpu": VGG16_GPU,
    "resnet20-gpu": RESNET20_GPU,
}

WorkloadName = Literal[
    "W1",
    "W2",
    "W3",
    "W4",
    "W1-inference",
    "W4-inference",
    "vgg16",
    "resnet20",
    "vgg16-gpu",
    "resnet20-gpu",
]

# What a device is measured by if nothing is named.
USUAL: dict[str, tuple[WorkloadName, ...]] = {
    "cpu": ("W1", "W2", "W3", "W4", "W1-inference", "W4-inference"),
    "gpu": ("vgg16-gpu", "W1", "W2", "W3", "W4"),
}


class Layer(NamedTuple):
    """Describe a layer; JSON hands it to the peers as a dictionary."""

    kind: str  # conv, average, maximum or dense
    name: str  # as in `jaxsnn.models`
    inputs: tuple[int, ...]  # shape; a dense layer flattens it, channels fastest
    outputs: tuple[int, ...]  # shape
    size: int = 0  # of a kernel's or pooling window's side
    valid: bool = False  # no zeros around the images
    recurrent: bool = False

    @property
    def kernel(self) -> tuple[int, ...]:
        """The shape of its weights, outputs last; empty without weights."""
        if self.kind == "conv":
            return self.size, self.size, self.inputs[2], self.outputs[2]
        return (math.prod(self.inputs), *self.outputs) if self.kind == "dense" else ()


def layers_of(layout: str, input_shape: tuple[int, ...]) -> Iterator[Layer]:
    """Yield the layers of a layout.

    Raises:
      UserError: for a word that not every framework can be given.
    """
    shape, count = input_shape, {"conv": 0, "block": 0, "pool": 0, "dense": 0}
    for word in layout.split("-"):
        match = WORD.fullmatch(word)
        if match is None:
            raise UserError(f"layout {layout!r}: {word!r} is not a layer of the benchmark")
        channels, kind, size, valid, stride, pool, window, neurons, recurrent = match.groups()
        role = {"C": "conv", "B": "block"}.get(kind, "pool" if pool else "dense")
        count[role] += 1
        name = f"{role}{count[role]}"
        if role in ("conv", "block"):
            lost, step = (int(size) - 1 if valid else 0), int(stride or 1)
            rows, columns = (-(-(side - lost) // step) for side in shape[:2])
            outputs: tuple[int, ...] = rows, columns, int(channels)
            names = [name] if role == "conv" else [f"{name}/conv1", f"{name}/conv2"]
            for part in names:
                yield Layer("conv", part, shape, outputs, int(size), bool(valid))
                shape = outputs
            continue
        if role == "pool":
            outputs = shape[0] // int(window), shape[1] // int(window), shape[2]
            layer = Layer(POOLS[pool], name, shape, outputs, int(window))
        else:
            layer = Layer("dense", name, shape, (int(neurons),), recurrent=bool(recurrent))
        yield layer
        shape = layer.outputs


def delays_count(workload: Workload) -> bool:
    """Return whether a delay of one step in each layer makes it another network.

    So it is where a layer hears itself, and where the spikes would not reach the output in time.
    """
    weighted = [x for x in layers_of(workload.layout, workload.input_shape) if x.kernel]
    return any(x.recurrent for x in weighted) or len(weighted) >= workload.timesteps


def weights_of(workload: Workload, random: np.random.Generator) -> dict[str, np.ndarray]:
    """Draw the weights: uniform, with the variance that keeps the layers firing."""
    arrays, gain = {}, 1.0
    for layer in layers_of(workload.layout, workload.input_shape):
        if not layer.kernel:
            continue
        bound = gain * np.sqrt(6.0 / np.prod(layer.kernel[:-1]))
        gain, outputs = workload.gain, layer.kernel[-1]
        arrays[f"{layer.name}/kernel"] = random.uniform(-bound, bound, layer.kernel)
        arrays[f"{layer.name}/bias"] = np.full(outputs, BIAS)
        if layer.recurrent:
            bound = outputs**-0.5
            arrays[f"{layer.name}/recurrent"] = random.uniform(-bound, bound, (outputs,) * 2)
    return {name: array.astype(np.float32) for name, array in arrays.items()}


def make_problem(
    workload: Workload, seed: int, dtype: str = "float32", lanes: int = 0
) -> dict[str, Any]:
    """Make the weights (a builder's network has its own), one batch and its description.

    Kernels are `[k, k, in, out]` and `[in, out]`; with `lanes`, all weights have as many as first
    axis, each drawn from a seed of its own. `x` is uint8: spikes `[T, B, *input]`, 0 or 1, or
    images `[B, *input]`, 0 to 255.
    """
    random = np.random.default_rng(seed)
    arrays: dict[str, Any] = {}
    if lanes:
        nets = [weights_of(workload, np.random.default_rng((seed, i))) for i in range(lanes)]
        arrays = {name: np.stack([net[name] for net in nets]) for name in nets[0]}
    elif not workload.builder:
        arrays = weights_of(workload, random)
    layers = list(layers_of(workload.layout, workload.input_shape))
    size = workload.batch, *workload.input_shape
    if workload.rate is None:
        arrays["x"] = random.integers(0, 256, size, dtype=np.uint8)
    else:
        lit = random.random((workload.timesteps, *size), dtype=np.float32) < workload.rate
        arrays["x"] = lit.astype(np.uint8)
    arrays["labels"] = random.integers(0, layers[-1].outputs[0], workload.batch)
    spec = {
        "layout": workload.layout,
        "builder": workload.builder,
        "layers": [layer._asdict() for layer in layers],
        "input_shape": workload.input_shape,
        "timesteps": workload.timesteps,
        "direct": workload.rate is None,
        "delays_count": delays_count(workload),
        "train": workload.train,
        "steps": workload.steps,
        "learning_rate": LEARNING_RATE,
        "dtype": dtype,
        **NEURON,
        **({"lanes": lanes} if lanes else {}),
    }
    return {**arrays, "spec": np.array(json.dumps(spec))}
