"""QP-SNN: which layers it quantizes, which channels it removes, how it trains, one page.

Wei et al. 2025, "QP-SNN: Quantized and Pruned Spiking Neural Networks", ICLR 2025,
https://arxiv.org/abs/2502.05905. Four steps: train with rescaled weights (`rescaled`, Eq. 9, 10),
score the channels by the singular values of their spike maps (`singular`, Eq. 11 to 13), remove the
lowest once (`export.shrink`), train on. The first layer and the read-out stay float32; all other
kernels are quantized. What is pruned are convolutions, the first one too, but not those whose
channels enter the read-out: the last one, and in a residual network the second one of each block
of the last width.

The ratios are the authors' choice by hand, tables 9 to 11, with one correction: table 10 prints
0.6 / 0.75 for the second convolution of the blocks of 256 channels, but the table's own sizes, and
the authors' code, have 0.3 / 0.35 there; so have we. Those of SEW-ResNet18 were not published.

Trees are those of `functional.split`; layers are named as in `models`.
"""

import re
from typing import Any

import jax
import jax.numpy as jnp
import optax

from jaxsnn import tree
from jaxsnn.errors import UserError
from jaxsnn.metrics import sizes

Tree = Any
KINDS = ("conv", "block", "dense")  # in the order in which a network has them


_RESNET20 = {"A": (0.1, 0.3, 0.6), "B": (0.1, 0.35, 0.75)}  # stem, outer and inner channels
_CONVOLUTIONS = {
    ("vgg16", 10, "A"): 7 * (0.45,) + 5 * (0.51,),
    ("vgg16", 10, "B"): 7 * (0.49,) + 5 * (0.8,),
    ("vgg16", 100, "A"): 7 * (0.45,) + 5 * (0.7,),
    ("vgg16", 100, "B"): 7 * (0.45,) + 5 * (0.78,),
    ("vgg16", 200, "A"): 7 * (0.45,) + 5 * (0.51,),
    ("vgg16", 200, "B"): 7 * (0.45,) + 5 * (0.62,),
    ("vggsnn", 10, "A"): 3 * (0.5,) + 4 * (0.7,),
    ("vggsnn", 10, "B"): 3 * (0.5,) + 4 * (0.8,),
    ("vggsnn", 10, "C"): 3 * (0.82,) + 4 * (0.93,),
}


def ratios(network: str, setting: str, classes: int) -> dict[str, float]:
    """Return the published share of channels to remove from each layer.

    A layer of `C` channels keeps `int(C (1 - ratio))` of them (`singular.kept_channels`).

    Args:
      network: "vgg16", "resnet20" or "vggsnn".
      setting: "A" (mild) or "B", for vggsnn also "C".
      classes: of the data set: 10 (CIFAR-10, and DVS-CIFAR10 for vggsnn), 100 (CIFAR-100), 200
        (Tiny-ImageNet).

    Returns:
      Layer -> ratio in (0, 1), for the pruned layers in order.

    Raises:
      UserError: if the paper has no such setting.
    """
    if network == "resnet20" and classes in (10, 100) and setting in _RESNET20:
        return _resnet20(*_RESNET20[setting])
    if (network, classes, setting) not in _CONVOLUTIONS:
        raise UserError(
            f"no published ratios for {network!r} with {classes} classes, setting {setting!r}; "
            "there are: vgg16 A, B with 10, 100 or 200 classes, resnet20 A, B with 10 or 100, "
            "vggsnn A, B, C with 10"
        )
    found = _CONVOLUTIONS[network, classes, setting]
    return {f"conv{i}": ratio for i, ratio in enumerate(found, 1)}


def _resnet20(stem: float, outer: float, inner: float) -> dict[str, float]:
    """Return the ratios of table 10, with the correction."""
    found = {"conv1": stem}
    for block in range(1, 10):
        found[f"block{block}/conv1"] = outer if block == 1 else inner
        if block <= 6:
            found[f"block{block}/conv2"] = outer
    return found


def widths(params: Tree) -> dict[str, int]:
    """Return layer -> number of its outputs: convolutions, then blocks, then dense layers.

    Raises:
      UserError: if a layer is not named as in `models`.
    """
    leaves = tree.named_leaves(params)
    found = {
        name.removesuffix("/kernel"): leaf.shape[-1]
        for name, leaf in leaves.items()
        if name.endswith("/kernel")
    }
    return {layer: found[layer] for layer in sorted(found, key=_place)}


def _place(layer: str) -> list[tuple[int, int]]:
    parts = [re.fullmatch(rf"({'|'.join(KINDS)})(\d+)", part) for part in layer.split("/")]
    if None in parts:
        raise UserError(f"layer {layer!r} must be named {', '.join(KINDS)} and a number")
    return [(KINDS.index(part[1]), int(part[2])) for part in parts if part is not None]


def prunable(params: Tree) -> tuple[str, ...]:
    """Return the convolutions that are pruned, in order: those that do not enter the read-out."""
    found = widths(params)
    *hidden, _ = found
    images = [x for x in hidden if len(tree.named_leaves(params)[f"{x}/kernel"].shape) == 4]
    if not images or images[-1] != hidden[-1]:
        return tuple(images)
    if "/" not in hidden[-1]:
        return tuple(images[:-1])
    last = {x for x in images if x.endswith("/conv2") and found[x] == found[hidden[-1]]}
    return tuple(x for x in images if x not in last)


def quantized_leaves(params: Tree) -> tuple[str, ...]:
    """Return the names of the kernels that are quantized: all but the first and the last."""
    return tuple(f"{layer}/kernel" for layer in list(widths(params))[1:-1])


def size_mb(params: Tree, bits: int) -> float:
    """Return the size in MB of `10**6` bytes with all quantized kernels at `bits` (Eq. 16)."""
    return sizes.megabytes(params, dict.fromkeys(quantized_leaves(params), bits))


def fresh_norms(params: Tree, stats: Tree) -> tuple[Tree, Tree]:
    """Restart batch normalisation: scale 1, bias 0, mean 0, variance 1.

    The authors' code does so after pruning, and lets fine-tuning find them again.
    """

    def restart(name: str, leaf: jax.Array) -> jax.Array:
        if "norm" not in name.split("/"):
            return leaf
        ones = name.endswith(("/scale", "/var"))
        return jnp.ones_like(leaf) if ones else jnp.zeros_like(leaf)

    return tree.map_named(restart, params), tree.map_named(restart, stats)


def optimizer(
    rate: optax.ScalarOrSchedule, name: str = "adam", weight_decay: float = 1e-5
) -> optax.GradientTransformation:
    """Return the optimizer of all phases.

    The authors' code runs Adam from 0.001 with decay 1e-5 of convolution kernels, added to the
    gradient; their table 8 says SGD from 0.1 for the first phase, with nothing on momentum and
    decay: ours has momentum 0.9.

    Args:
      rate: learning rate or schedule.
      name: "adam" or "sgd".
      weight_decay: factor of the kernels `[k, k, I, O]` in their gradient, >= 0.

    Raises:
      UserError: if the name is unknown.
    """
    if name not in ("adam", "sgd"):
        raise UserError(f"optimizer {name!r} is unknown; choose adam or sgd")
    descent = optax.adam(rate) if name == "adam" else optax.sgd(rate, momentum=0.9)

    def convolutions(params: Tree) -> Tree:
        return tree.map_named(lambda x, leaf: x.endswith("kernel") and leaf.ndim == 4, params)

    return optax.chain(optax.add_decayed_weights(weight_decay, convolutions), descent)
