"""Networks as compositions of named layers, written in the field's own notation.

A layout is a string such as `32C3-AP2-32C3-AP2-128-10`:

| word       | layer                                                                    |
|------------|--------------------------------------------------------------------------|
| `32C3`     | convolution, 32 channels, 3 x 3, zeros around; `32C3S2` with stride 2;     |
|            | `32C3V` without the zeros ("valid"), so that the image shrinks by 2       |
| `128B3S2`  | residual block: two convolutions of 128 channels, the first with stride 2;  |
|            | `128B3M51` with 51 channels between them, `128B3S2M51` both; with a `P` at  |
|            | the end the shortcut is a convolution of 1 x 1: `128B3S2P`                  |
| `AP2` `MP2` | average or maximum over 2 x 2                                            |
| `128`      | dense, 128 neurons; `128R` fully recurrent                                |
| `D0.5`     | dropout, 50 %, held over time                                             |
| `V10`      | at the end: groups of consecutive neurons vote for 10 classes             |

Layers are named `conv1, conv2, ..., block1, ..., dense1, ...`; pooling, flattening and dropout have
no weights.
"""

import math
import re
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any, Literal

import jax.numpy as jnp
from flax import nnx

from jaxsnn import layers, memory, tree
from jaxsnn.arrays import check_whole
from jaxsnn.errors import UserError
from jaxsnn.layers.neurons import Firing
from jaxsnn.network import Network
from jaxsnn.neurons import LIF, Neuron
from jaxsnn.surrogate import rectangle

__all__ = ["STBP_MNIST", "build"]

# Constants of the authors' STBP code for MNIST, the base of the ADMM system (Deng et al. 2019).
STBP_MNIST = LIF(decay=0.2, threshold=0.5, surrogate=rectangle(1.0))

Word = dict[str, str]  # the parts of a word of a layout
Choice = Neuron | Mapping[str, Neuron]  # one neuron, or layer pattern -> neuron
Options = dict[str, Any]
ACTIVATIONS = ("spikes", "relu")
READOUTS = ("spikes", "current", "leaky")
N = r"[1-9]\d*"
WORD = re.compile(
    rf"(?P<conv>{N})C(?P<size>{N})(S(?P<stride>{N}))?(?P<valid>V?)"
    rf"|(?P<block>{N})B(?P<block_size>{N})(S(?P<block_stride>{N}))?(M(?P<middle>{N}))?(?P<projected>P?)"
    rf"|(?P<pool>[AM])P(?P<window>{N})"
    rf"|D(?P<drop>0?\.\d+)|V(?P<vote>{N})|(?P<dense>{N})(?P<recurrent>R?)"
)
WEIGHTED = {"conv", "block", "dense"}


def build(
    layout: str,
    input_shape: Sequence[int],
    neuron: Choice = STBP_MNIST,
    *,
    seed: int = 0,
    readout: str = "spikes",
    activation: str = "spikes",
    trained: Sequence[str] | None = None,
    norm: bool | str = False,
    use_bias: bool | str = True,
    ties: Literal["first", "shared"] = "first",
    dtype: Any = jnp.float32,
) -> Network:
    """Build a network from its layout.

    Args:
      layout: the layers, as in the module's table.
      input_shape: of one sample at one step, `(H, W, C)` or `(features,)`.
      neuron: constants of all spiking layers; or layer pattern -> neuron, `{"conv*": LIF(0.5), "*":
        SynapticLIF()}`, of which the first that matches a layer counts.
      seed: of the start values.
      readout: what the last layer gives: its "spikes"; its "current", whose mean over time is the
        potential of a perfect integrator divided by T; or the potential of a "leaky" integrator
        with the neuron's decay.
      activation: what hidden layers give: "spikes", or "relu" for the ANN of the same layout, whose
        parameters have the same names and shapes. It needs a read-out that does not spike, and
        runs for one step.
      trained: neuron constants that are parameters, in each layer that has them; left out, those
        that a neuron learns by itself.
      norm: of every hidden layer: True for batch normalisation, or the name of another.
      use_bias: biases in all weighted layers (True), in none (False), or in the last one only
        ("readout"), which has no norm to stand in for it.
      ties: who of equal largest inputs of a max pooling gets its gradient (`layers.MaxPool`).
      dtype: of products, spikes and what is kept for the reverse pass, such as `jnp.bfloat16`;
        weights, potentials, sums and the read-out stay float32.

    Raises:
      UserError: for a word that is not in the table, a layer that does not fit its input or that no
        pattern gives a neuron, and a trained constant that no neuron has.

    Example:
      >>> net = build("8C3-AP2-10", (8, 8, 1), seed=0)
      >>> net.params["conv1"]["kernel"].shape
      (3, 3, 1, 8)
    """
    rngs = nnx.Rngs(check_whole("seed", seed, 0, 2**31 - 1))
    words = [(text, _parse(text, layout)) for text in layout.split("-")]
    weighted = [i for i, (_, word) in enumerate(words) if WEIGHTED & word.keys()]
    if not weighted:
        raise UserError(f"layout {layout!r} has no layer with weights")
    if use_bias not in (True, False, "readout"):
        raise UserError(f"use_bias {use_bias!r} is unknown; choose True, False or 'readout'")
    _check_activation(activation, readout, trained or ())
    builder, names = _Builder(layout, tuple(input_shape)), _names([word for _, word in words])
    fires = _Firing(neuron, trained, activation, readout, [each for some in names for each in some])
    for i, (text, word) in enumerate(words):
        last = i == weighted[-1]
        options: Options = {
            "use_bias": last if use_bias == "readout" else use_bias,
            "norm": False if last else norm,
            "dtype": dtype,
            "rngs": rngs,
        }
        firing = [fires.readout() if last else fires.hidden(name) for name in names[i]]
        if "conv" in word:
            builder.conv(text, word, firing[0], options)
        elif "block" in word and last:
            raise builder.error(text, "cannot add its input to its output")
        elif "block" in word:
            builder.block(text, word, firing[0], firing[1], options)
        elif "pool" in word:
            builder.pool(text, word, ties)
        elif "drop" in word:
            builder.add("dropout", partial(layers.Dropout, float(word["drop"])))
        elif "vote" in word:
            builder.vote(text, int(word["vote"]), last=i == len(words) - 1)
        else:
            builder.dense(text, word, firing[0], options)
    return Network.of(layers.Chain(builder.make()), input_shape)


class _Builder:
    """The layers so far, none of them made yet, and the shape that comes out of them."""

    def __init__(self, layout: str, shape: tuple[int, ...]):
        self.layout = layout
        self.shape = shape
        self.chain: dict[str, Callable[[], nnx.Module]] = {}
        self.weights = 0

    def make(self) -> dict[str, nnx.Module]:
        """Make the layers, if there is memory for their weights."""
        what = f"a network of {self.weights:,} weights"
        memory.check(what, 4 * self.weights, "take smaller layers")
        return {name: layer() for name, layer in self.chain.items()}

    def error(self, text: str, what: str) -> UserError:
        return UserError(f"layout {self.layout!r}: {text!r} {what}")

    def add(self, kind: str, layer: Callable[[], nnx.Module]) -> None:
        number = sum(name.startswith(kind) for name in self.chain) + 1
        self.chain[f"{kind}{number}"] = layer

    def conv(self, text: str, word: Word, firing: Firing, options: Options) -> None:
        self._need_images(text)
        size, stride, outputs = int(word["size"]), int(word.get("stride", 1)), int(word["conv"])
        padding = "VALID" if word["valid"] else "SAME"
        options = {"size": size, "stride": stride, "padding": padding, **options}
        self.add("conv", partial(layers.Conv, self.shape[2], outputs, neurons=firing, **options))
        self.weights += size * size * self.shape[2] * outputs
        self._stride(text, size - 1 if word["valid"] else 0, stride, outputs)

    def block(
        self,
        text: str,
        word: Word,
        hidden: Firing,
        firing: Firing,
        options: Options,
    ) -> None:
        self._need_images(text)
        size, outputs = int(word["block_size"]), int(word["block"])
        middle, stride = int(word.get("middle", outputs)), int(word.get("block_stride", 1))
        inputs = self.shape[2]
        if not word["projected"] and outputs < inputs:
            raise self.error(text, "cannot add its input to its output")

        def make() -> layers.Residual:
            projection = None
            if word["projected"]:
                plain = options | {"use_bias": False, "norm": False, "size": 1, "stride": stride}
                projection = layers.Conv(inputs, outputs, neurons=layers.Integrator(), **plain)
            conv1 = layers.Conv(inputs, middle, size, neurons=hidden, stride=stride, **options)
            conv2 = layers.Conv(middle, outputs, size, neurons=firing, **options)
            return layers.Residual(conv1, conv2, projection=projection)

        self.add("block", make)
        self.weights += size * size * middle * (inputs + outputs)
        self._stride(text, 0, stride, outputs)

    def pool(self, text: str, word: Word, ties: Literal["first", "shared"]) -> None:
        self._need_images(text)
        window = int(word["window"])
        average = partial(layers.AveragePool, window)
        self.add("pool", average if word["pool"] == "A" else partial(layers.MaxPool, window, ties))
        self.shape = (self.shape[0] // window, self.shape[1] // window, self.shape[2])
        self._need_rest(text)

    def vote(self, text: str, classes: int, *, last: bool) -> None:
        if not last or len(self.shape) != 1 or self.shape[0] % classes:
            raise self.error(text, f"cannot end {self.shape} neurons")
        self.chain["vote"] = partial(layers.Vote, classes)

    def dense(self, text: str, word: Word, firing: Firing, options: Options) -> None:
        if len(self.shape) != 1:
            self.add("flatten", layers.Flatten)
        inputs, outputs = math.prod(self.shape), int(word["dense"])
        if not word["recurrent"]:
            self.add("dense", partial(layers.Dense, inputs, outputs, neurons=firing, **options))
        elif isinstance(firing, layers.Neurons):
            self.add("dense", partial(layers.Recurrent, inputs, outputs, neurons=firing, **options))
        else:
            raise self.error(text, "hears its spikes: readout spikes only, no relu")
        self.weights += outputs * (inputs + (outputs if word["recurrent"] else 0))
        self.shape = (outputs,)

    def _need_images(self, text: str) -> None:
        if len(self.shape) != 3:
            raise self.error(text, f"needs images, but gets {self.shape}")

    def _need_rest(self, text: str) -> None:
        if min(self.shape) < 1:
            raise self.error(text, "leaves nothing")

    def _stride(self, text: str, lost: int, stride: int, outputs: int) -> None:
        rows, columns = (-(-(side - lost) // stride) for side in self.shape[:2])
        self.shape = (rows, columns, outputs)
        self._need_rest(text)


def _parse(word: str, layout: str) -> Word:
    """Return the parts of a word that are there."""
    match = WORD.fullmatch(word)
    if match is None:
        raise UserError(
            f"layout {layout!r}: {word!r} is not a layer; write 32C3, 32C3S2, 32C3V, 64B3, 64B3M32,"
            " AP2, MP2, 128, 128R, D0.5 or V10, joined by '-'"
        )
    return {part: text for part, text in match.groupdict().items() if text is not None}


def _names(words: Sequence[Word]) -> list[tuple[str, ...]]:
    """Return the names of the layers that fire, of each word of a layout."""
    found: list[tuple[str, ...]] = []
    counts = dict.fromkeys(sorted(WEIGHTED), 0)
    for word in words:
        kind = next((each for each in counts if each in word), None)
        if kind is None:
            found.append(())
            continue
        counts[kind] += 1
        name = f"{kind}{counts[kind]}"
        found.append((f"{name}/conv1", f"{name}/conv2") if kind == "block" else (name,))
    return found


def _check_activation(activation: str, readout: str, trained: Sequence[str]) -> None:
    if activation not in ACTIVATIONS:
        raise UserError(f"activation {activation!r} is unknown; choose spikes or relu")
    if activation == "relu" and readout == "spikes":
        raise UserError("activation 'relu' needs a readout that does not spike: choose current")
    if activation == "relu" and trained:
        raise UserError(f"activation 'relu' has no constants to train, found {', '.join(trained)}")


class _Firing:
    """What fires behind each layer of a layout; the last one reads out."""

    def __init__(
        self,
        neuron: Choice,
        trained: Sequence[str] | None,
        activation: str,
        readout: str,
        names: Sequence[str],
    ):
        if readout not in READOUTS:
            raise UserError(f"readout {readout!r} is unknown; choose spikes, current or leaky")
        self.kind, self.rectified, self.trained = readout, activation == "relu", trained
        self.last = names[-1]
        needed = [] if self.rectified else list(names[:-1])
        needed += [] if readout == "current" else [self.last]
        self.neurons = _chosen(neuron, names, needed)
        known = {name for each in self.neurons.values() for name in each.ranges}
        if strange := [name for name in trained or () if name not in known]:
            raise UserError(
                f"trained {strange[0]!r} is no constant of these neurons; choose of "
                f"{', '.join(sorted(known)) or 'none'}"
            )

    def hidden(self, name: str) -> Firing:
        """Return what fires in a layer that is not the last."""
        return layers.Rectified() if self.rectified else self._spiking(name)

    def readout(self) -> Firing:
        """Return what fires in the last layer."""
        if self.kind == "spikes":
            return self._spiking(self.last)
        if self.kind == "current":
            return layers.Integrator()
        neuron = self.neurons[self.last]
        decay = getattr(neuron, "decay", None)
        if decay is None:
            kind = type(neuron).__name__
            raise UserError(f"readout 'leaky' of layer {self.last!r}: {kind} has no decay")
        return layers.Integrator(decay)

    def _spiking(self, name: str) -> Firing:
        neuron = self.neurons[name]
        if self.trained is None:
            return layers.Neurons(neuron)
        return layers.Neurons(neuron, [each for each in self.trained if each in neuron.ranges])


def _chosen(neuron: Choice, names: Sequence[str], needed: Sequence[str]) -> dict[str, Neuron]:
    """Return layer -> its neuron, of the needed ones at least.

    Raises:
      UserError: for what is no neuron, a pattern without effect, and a layer that is left over.
    """
    if not isinstance(neuron, Mapping):
        found = dict.fromkeys(names, neuron)
    else:
        found = tree.match(neuron, dict.fromkeys(names, 0.0)) if neuron else {}
    if left := [name for name in needed if name not in found]:
        raise UserError(f"neuron has no pattern for the layer {left[0]!r}; add one, such as '*'")
    for name, each in found.items():
        if not isinstance(each, Neuron):
            raise UserError(
                f"neuron of layer {name!r} must be a neuron such as neurons.LIF(0.5), found "
                f"{type(each).__name__}"
            )
    return found
