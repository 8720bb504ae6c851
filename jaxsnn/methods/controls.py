"""What else would fit: controls beside a compressed network, trained for as long as it was.

    int8            the dense control with weights of 8 bits, a scale for each channel
    small ANN       float32 weights and rectified units, all widths smaller by one factor, so that
                    the whole file takes at most as many bytes as the product's
    small int8 ANN  the same with weights of 8 bits: four times as many of them

An ANN starts from fresh values and sees each image once, for as many epochs as dense network and
product had together; its norms are folded into its weights, which changes no score. Biases beside
weights of 8 bits have as many bits as those of the product.
"""

import math
import tempfile
from dataclasses import dataclass
from pathlib import Path

import jax
import optax
from jax import Array

from jaxsnn import compress as sets
from jaxsnn import export, tree
from jaxsnn.compress.projections import Projection
from jaxsnn.errors import UserError
from jaxsnn.export.whole import to_whole_numbers
from jaxsnn.inputs import Inputs
from jaxsnn.methods.conversion import ann_task
from jaxsnn.methods.result import Trained, Trainer
from jaxsnn.models.variants import ann_of, resized
from jaxsnn.network import Network
from jaxsnn.train import Task

__all__ = ["SmallAnns", "file_bytes", "int8", "widths_within"]

TRIES = 6  # of a width, until the whole file is small enough
CLOSE = 0.97  # a file of this share of the bytes needs no better width


def file_bytes(net: Network, inputs: Inputs, dataset: str) -> int:
    """Return the bytes of the file that a run packs a network into, header and texts included."""
    metadata = {"name": "compressed", "dataset": dataset, "accuracy": "0.852967"}  # no digit twice
    with tempfile.TemporaryDirectory() as folder:
        return export.save(Path(folder) / "net", net, inputs, metadata)


def int8(net: Network) -> Network:
    """Return a network with weights of 8 bits, a scale for each channel, as it was trained.

    >>> from jaxsnn import models
    >>> int8(models.build("6-3", (4,))).steps["dense1/kernel"].bits.item()
    8
    """
    return sets.project(net, _int8())


def widths_within(net: Network, inputs: Inputs, num_bytes: int, bits: int) -> dict[str, int] | None:
    """Return the largest widths, smaller by one factor, whose weights take so many bytes.

    >>> from jaxsnn import models
    >>> net = models.build("16-8-3", (4,))
    >>> widths_within(net, Inputs((4,), timesteps=1), 300, 32)
    {'dense1': 6, 'dense2': 3}

    Args:
      net: a chain of layers.
      inputs: what enters it.
      num_bytes: of weights of so many bits, and a float32 number or two for each channel.
      bits: of a weight, 8 or 32.

    Returns:
      Layer -> its channels, of the layers in front of the read-out; None if one channel in each is
      too much.

    Raises:
      UserError: if the network is no chain, or a layer cannot be resized.
    """
    flow, leaves = net.flow(inputs), tree.named_leaves(net.params)
    kernels = {layer: leaves[f"{layer}/kernel"].shape for layer in flow.order}
    whole = {layer: int(shape[-1]) for layer, shape in kernels.items() if layer not in flow.readout}
    most = max(whole.values(), default=1)

    def at(part: int) -> dict[str, int]:
        return {layer: max(width * part // most, 1) for layer, width in whole.items()}

    jax.eval_shape(lambda: resized(net, at(1), inputs))  # refuses what cannot be resized

    def fits(part: int) -> bool:
        widths, weights, numbers, before = at(part), 0, 0, ""
        for layer, shape in kernels.items():
            wide = widths.get(layer, shape[-1])
            # A layer has so many inputs for each channel of the one before it.
            heard = shape[-2] // whole[before] * widths[before] if before else shape[-2]
            weights += math.prod(shape[:-2]) * heard * wide
            numbers += (1 if bits == 32 else 2) * wide
            before = layer
        return weights * bits // 8 + 4 * numbers <= num_bytes

    if not fits(1):
        return None
    low, high = 1, most + 1  # the first fits
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (middle, high) if fits(middle) else (low, middle)
    return at(low)


@dataclass(frozen=True)
class SmallAnns:
    """The ANNs of as many bytes as a product.

    Attributes:
      trainer: trains them.
      net: the dense network, whose layout they have.
      task: its task.
      rate: first step size.
      constant_bits: of the biases beside weights of 8 bits, None for float32.
    """

    trainer: Trainer
    net: Network
    task: Task
    rate: float
    constant_bits: int | None = None

    def check(self) -> None:
        """Refuse data and networks that there is no small ANN of.

        Raises:
          UserError: for recordings, a network that is no chain, and layers without other widths.
        """
        if self.task.inputs.encoding == "events":
            raise UserError(
                "same_bytes trains ANNs, which see an image once: leave it out for recordings"
            )
        still = ann_task(self.task).inputs
        widths_within(ann_of(self.net), still, 1, 32)

    def of(self, num_bytes: int, epochs: int) -> dict[str, Trained]:
        """Train the ANNs whose whole files have at most so many bytes: name of the row -> ANN.

        One for which that is too little is left out.
        """
        names = {"small ANN": 32, "small int8 ANN": 8}
        found = {name: self.one(name, bits, num_bytes, epochs) for name, bits in names.items()}
        return {name: each for name, each in found.items() if each is not None}

    def one(self, name: str, bits: int, num_bytes: int, epochs: int) -> Trained | None:
        """Train one of them; None if no width is small enough."""
        task = ann_task(self.task)
        start = self.start(task.inputs, bits, num_bytes)
        if start is None:
            return None
        adam = optax.adam(self.trainer.cosine(self.rate, epochs))
        phase = sets.Phase(adam) if bits == 32 else sets.quantized(adam, _int8())
        return Trained(self.packed(self.trainer(name, task, phase, start, epochs), bits), task)

    def start(self, inputs: Inputs, bits: int, num_bytes: int) -> Network | None:
        """Return the widest ANN whose file is small enough, with start values."""
        ann, room = ann_of(self.net), num_bytes
        best: tuple[int, Network | None] = (0, None)
        for _ in range(TRIES):
            widths = widths_within(ann, inputs, room, bits)
            if widths is None:
                break
            found = resized(ann, widths, inputs, seed=self.trainer.seed)
            packed = self.packed(found if bits == 32 else int8(found), bits)
            size = file_bytes(packed, inputs, self.trainer.data.name)
            is_short = bits != 32 and self.constant_bits is not None
            size += sum(map(len, _biases(packed))) * (1 if is_short else 4)  # zeros, so far
            if best[0] < size <= num_bytes:
                best = size, found
            if CLOSE * num_bytes < size <= num_bytes:
                break
            room += num_bytes - size
        return best[1]

    def packed(self, ann: Network, bits: int) -> Network:
        """Return an ANN as it is packed: its norms folded, its biases as short as the product's."""
        ann = export.fold_norms(ann) if ann.has_norms else ann
        if bits == 32 or self.constant_bits is None:
            return ann
        return to_whole_numbers(ann, self.constant_bits)


def _biases(net: Network) -> list[Array]:
    """Return the biases of a network."""
    return [leaf for name, leaf in tree.named_leaves(net.params).items() if name.endswith("/bias")]


def _int8() -> dict[str, Projection]:
    """Return the recipe of kernels of 8 bits."""
    return {"*/kernel": sets.uniform_grid(8, per="channel")}
