"""Networks as compositions of named layers, written in the field's own notation.

A layout is a string such as `32C3-AP2-32C3-AP2-128-10`:

| word       | layer                                                                    |
|------------|--------------------------------------------------------------------------|
| `32C3`     | convolution, 32 channels, 3 x 3, zeros around; `32C3S2` with stride 2;     |
|            | `32C3V` without the zeros ("valid"), so that the image shrinks by 2       |
| `128B3S2`  | residual block: two convolutions of 128 channels, the first with stride 2   |
| `AP2` `MP2` | average or maximum over 2 x 2                                            |
| `128`      | dense, 128 neurons; `128R` fully recurrent                                |
| `D0.5`     | dropout, 50 %, held over time                                             |
| `V10`      | at the end: groups of consecutive neurons vote for 10 classes             |

Layers are named `conv1, conv2, ..., block1, ..., dense1, ...`; pooling, flattening and dropout have
no weights.
"""

import math
import re
from collections.abc import Sequence
from typing import Any

import jax.numpy as jnp
from flax import nnx

from jaxsnn import layers
from jaxsnn.errors import UserError
from jaxsnn.neurons import LIF
from jaxsnn.surrogate import rectangle, triangle

N = r"[1-9]\d*"
WORD = re.compile(
    rf"(?P<conv>{N})(?P<kind>[CB])(?P<size>{N})(S(?P<stride>{N}))?(?P<valid>V?)|(?P<pool>[AM])P(?P<window>{N})"
    rf"|D(?P<drop>0?\.\d+)|V(?P<vote>{N})|(?P<dense>{N})(?P<recurrent>R?)"
)


def build(
    layout: str,
    input_shape: Sequence[int],
    neuron: LIF,
    *,
    readout: str = "spikes",
    trained: tuple[str, ...] = (),
    norm: bool = False,
    use_bias: bool = True,
    dtype: Any = jnp.float32,
    rngs: nnx.Rngs,
) -> layers.Chain:
    """Build a network from its layout.

    Args:
      layout: the layers, as in the module's table.
      input_shape: of one sample at one step, `(H, W, C)` or `(features,)`.
      neuron: constants of all spiking layers.
      readout: what the last layer gives: its "spikes"; its "current", whose mean over time is the
        potential of a perfect integrator divided by T; or the potential of a "leaky" integrator
        with the neuron's decay.
      trained: neuron constants that are parameters, one for each layer.
      norm: batch normalisation in every hidden layer.
      use_bias: biases in all weighted layers.
      dtype: of the synapses' products (`jnp.bfloat16` on accelerators); potentials stay float32.
      rngs: random numbers for the start values.

    Raises:
      UserError: for a word that is not in the table, or a layer that does not fit its input.
    """
    texts = layout.split("-")
    words = [_parse(text, layout) for text in texts]
    weighted = [i for i, word in enumerate(words) if word["conv"] or word["dense"]]
    if not weighted:
        raise UserError(f"layout {layout!r} has no layer with weights")
    shape = tuple(input_shape)
    chain: dict[str, nnx.Module] = {}
    for i, (text, word) in enumerate(zip(texts, words, strict=True)):
        last = i == weighted[-1]
        options: dict[str, Any] = {
            "use_bias": use_bias, "norm": norm and not last, "dtype": dtype, "rngs": rngs
        }  # fmt: skip
        firing = _firing(readout if last else "spikes", neuron, trained)
        if (word["conv"] or word["pool"]) and len(shape) != 3:
            raise UserError(f"layout {layout!r}: {text!r} needs images, but gets {shape}")
        if word["conv"]:
            outputs, stride = int(word["conv"]), int(word["stride"] or 1)
            size, padding = int(word["size"]), "VALID" if word["valid"] else "SAME"
            same = {"size": size, "padding": padding, **options}
            if word["kind"] == "C":
                conv = layers.Conv(shape[2], outputs, firing, stride=stride, **same)
                chain[_name("conv", chain)] = conv
            elif word["valid"] or last or outputs < shape[2]:
                raise UserError(f"layout {layout!r}: {text!r} cannot add its input to its output")
            else:
                hidden = _firing("spikes", neuron, trained)
                conv1 = layers.Conv(shape[2], outputs, hidden, stride=stride, **same)
                conv2 = layers.Conv(outputs, outputs, firing, **same)
                chain[_name("block", chain)] = layers.Residual(conv1, conv2)
            lost = size - 1 if word["valid"] else 0
            shape = (-(-(shape[0] - lost) // stride), -(-(shape[1] - lost) // stride), outputs)
            if min(shape) < 1:
                raise UserError(f"layout {layout!r}: {text!r} leaves nothing")
        elif word["pool"]:
            window = int(word["window"])
            pool = layers.AveragePool if word["pool"] == "A" else layers.MaxPool
            chain[_name("pool", chain)] = pool(window)
            shape = (shape[0] // window, shape[1] // window, shape[2])
            if 0 in shape:
                raise UserError(f"layout {layout!r}: {text!r} leaves nothing")
        elif word["drop"]:
            chain[_name("dropout", chain)] = layers.Dropout(float(word["drop"]))
        elif word["vote"]:
            classes = int(word["vote"])
            if i != len(words) - 1 or len(shape) != 1 or shape[0] % classes:
                raise UserError(f"layout {layout!r}: {text!r} cannot end {shape} neurons")
            chain["vote"] = layers.Vote(classes)
        else:
            if len(shape) != 1:
                chain[_name("flatten", chain)] = layers.Flatten()
                shape = (math.prod(shape),)
            outputs, name = int(word["dense"]), _name("dense", chain)
            if not word["recurrent"]:
                chain[name] = layers.Dense(shape[0], outputs, firing, **options)
            elif isinstance(firing, layers.Neurons):
                chain[name] = layers.Recurrent(shape[0], outputs, firing, **options)
            else:
                raise UserError(
                    f"layout {layout!r}: {text!r} hears its spikes: readout spikes only"
                )
            shape = (outputs,)
    return layers.Chain(chain)


def _parse(word: str, layout: str) -> dict[str, str]:
    match = WORD.fullmatch(word)
    if match is None:
        raise UserError(
            f"layout {layout!r}: {word!r} is not a layer; write 32C3, 32C3S2, 32C3V, 64B3, AP2, "
            "MP2, 128, 128R, D0.5 or V10, joined by '-'"
        )
    return match.groupdict(default="")


def _firing(
    readout: str, neuron: LIF, trained: tuple[str, ...]
) -> layers.Neurons | layers.Integrator:
    if readout == "spikes":
        return layers.Neurons(neuron, trained)
    if readout not in ("current", "leaky"):
        raise UserError(f"readout {readout!r} is unknown; choose spikes, current or leaky")
    return layers.Integrator(None if readout == "current" else neuron.decay)


def _name(kind: str, chain: dict[str, nnx.Module]) -> str:
    return f"{kind}{sum(name.startswith(kind) for name in chain) + 1}"


# Constants of the authors' STBP codes, the base of the ADMM system (Deng et al., 1911.00822).
STBP_MNIST = LIF(decay=0.2, threshold=0.5, surrogate=rectangle(1.0))
STBP_MNIST_MLP = LIF(decay=0.5, threshold=0.3, surrogate=rectangle(1.0))
STBP_CIFAR = LIF(decay=0.25, threshold=0.75, surrogate=rectangle(1.0))


def mlp(
    sizes: Sequence[int] = (784, 512, 10),
    neuron: LIF = STBP_MNIST_MLP,
    *,
    rngs: nnx.Rngs,
    **options: Any,
) -> layers.Chain:
    """Build dense layers of the given sizes, inputs first (STBP's MNIST net: 784-512-10, T = 8)."""
    return build("-".join(map(str, sizes[1:])), sizes[:1], neuron, rngs=rngs, **options)


def mnist_conv(
    input_shape: Sequence[int] = (28, 28, 1),
    neuron: LIF = STBP_MNIST,
    *,
    classes: int = 10,
    rngs: nnx.Rngs,
    **options: Any,
) -> layers.Chain:
    """Build the ADMM paper's MNIST net, 32C3-AP2-32C3-AP2-128-10: 211,488 weights on 28 x 28."""
    return build(f"32C3-AP2-32C3-AP2-128-{classes}", input_shape, neuron, rngs=rngs, **options)


def stbp_cifar(
    input_shape: Sequence[int] = (32, 32, 3),
    neuron: LIF = STBP_CIFAR,
    *,
    classes: int = 10,
    width: float = 1.0,
    voters: int = 10,
    dropout: float = 0.5,
    rngs: nnx.Rngs,
    **options: Any,
) -> layers.Chain:
    """Build the STBP authors' CIFAR-10 net: 5 convolutions, 3 dense layers, voting, dropout.

    128C3-256C3-AP2-512C3-AP2-1024C3-512C3-1024-512-(voters x classes), T = 5 in their code.

    Args:
      input_shape: `(H, W, C)`.
      neuron: constants of all layers.
      classes: number of classes.
      width: factor on the channels and hidden neurons; 0.25 is the cheap profile.
      voters: output neurons of each class.
      dropout: share dropped between layers; 0 for none.
      rngs: random numbers for the start values.
      **options: as of `build`.
    """
    c1, c2, c3, c4, d1, d2 = (round(n * width) for n in (128, 256, 512, 1024, 1024, 512))
    drop = f"-D{dropout}" if dropout else ""
    layout = (
        f"{c1}C3{drop}-{c2}C3-AP2{drop}-{c3}C3-AP2{drop}-{c4}C3{drop}-{c3}C3{drop}"
        f"-{d1}{drop}-{d2}{drop}-{voters * classes}-V{classes}"
    )
    return build(layout, input_shape, neuron, rngs=rngs, **options)


def admm_cifar(
    input_shape: Sequence[int] = (32, 32, 3),
    neuron: LIF = STBP_CIFAR,
    *,
    classes: int = 10,
    width: float = 1.0,
    voters: int = 10,
    rngs: nnx.Rngs,
    **options: Any,
) -> layers.Chain:
    """Build the 7-convolution, 2-dense net on which the ADMM results for CIFAR-10 are restated.

    128C3-256C3S2-256C3-512C3S2-512C3-1024C3-2048C3S2-1024-512-vote, T = 8: 62,150,016 weights
    at width 1 (known second hand, from a pruning code that names the paper).
    """
    c = [round(n * width) for n in (128, 256, 256, 512, 512, 1024, 2048)]
    strides = ("", "S2", "", "S2", "", "", "S2")
    convs = "-".join(f"{n}C3{s}" for n, s in zip(c, strides, strict=True))
    dense = f"{round(1024 * width)}-{round(512 * width)}-{voters * classes}-V{classes}"
    return build(f"{convs}-{dense}", input_shape, neuron, rngs=rngs, **options)


# Constants of the QP-SNN system (Wei et al., 2502.05905).
QP_SNN = LIF(decay=0.5, threshold=1.0, surrogate=triangle())


def vgg16(
    input_shape: Sequence[int] = (32, 32, 3),
    neuron: LIF = QP_SNN,
    *,
    classes: int = 10,
    width: float = 1.0,
    rngs: nnx.Rngs,
    **options: Any,
) -> layers.Chain:
    """Build the spiking VGG-16 of QP-SNN (Wei et al., 2502.05905, table 9), T = 4.

    13 convolutions of 64 to 512 channels with batch normalisation, maxima over the spikes of 2 x 2
    neurons, one dense read-out: 14.7 million weights on CIFAR-10.

    Args:
      input_shape: `(H, W, C)`; the sides multiples of 32.
      neuron: constants of all layers.
      classes: number of classes.
      width: factor on all channels.
      rngs: random numbers for the start values.
      **options: as of `build`.
    """
    stages = (2 * [64], 2 * [128], 3 * [256], 3 * [512], 3 * [512])
    convs = ("-".join(f"{round(n * width)}C3" for n in stage) for stage in stages)
    layout = "-MP2-".join(convs) + f"-AP2-{classes}"
    settings: dict[str, Any] = {"norm": True, "use_bias": False, "readout": "current"} | options
    return build(layout, input_shape, neuron, rngs=rngs, **settings)


def resnet20(
    input_shape: Sequence[int] = (32, 32, 3),
    neuron: LIF = QP_SNN,
    *,
    classes: int = 10,
    width: float = 1.0,
    rngs: nnx.Rngs,
    **options: Any,
) -> layers.Chain:
    """Build the spiking ResNet-20 of QP-SNN (Wei et al., 2502.05905, table 10), T = 2.

    A stem of 64 channels, three stages of three residual blocks with 128, 256 and 512 channels,
    the mean over the image, one dense read-out: 17.0 million weights on CIFAR-10.

    Args:
      input_shape: `(H, W, C)`; the sides multiples of 4.
      neuron: constants of all layers.
      classes: number of classes.
      width: factor on all channels.
      rngs: random numbers for the start values.
      **options: as of `build`.
    """
    stem, *stages = (round(n * width) for n in (64, 128, 256, 512))
    blocks = "-".join(
        f"{n}B3{stride}-{n}B3-{n}B3" for n, stride in zip(stages, ("", "S2", "S2"), strict=True)
    )
    layout = f"{stem}C3-{blocks}-AP{input_shape[0] // 4}-{classes}"
    settings: dict[str, Any] = {"norm": True, "use_bias": False, "readout": "current"} | options
    return build(layout, input_shape, neuron, rngs=rngs, **settings)
