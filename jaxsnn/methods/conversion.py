"""From a trained ANN to a spiking network: its weights, and a threshold for each layer.

An IF neuron with a reset by subtraction fires at the rate `clip(x / v, 0, 1)` of its mean input
current `x` and its threshold `v`: the rectified unit of an ANN, in units of `v`. So a network of
the same layers without biases or norms, with average pooling, keeps the weights, and only needs
thresholds high enough that no rate is clipped and low enough that the rates are not all zero:

    v[l] = quantile over batch and neurons, then largest over time, of the current W[l] o[l-1]

front to back, each with the thresholds before it already in place ("threshold balancing";
`calibrate.thresholds` is the loop), and at last `v <- scale v` on all of them.

References: Rathi et al. 2020, "Enabling deep SNNs with hybrid conversion and STDB" (the largest
current, scale 0.7); Chowdhury et al. 2021, https://arxiv.org/abs/2104.12528 (quantile 0.999);
Kundu et al. 2021, "Spike-Thrift", WACV.

Where the sources differ:
- Their codes simulate 1000 to 2500 steps; Chowdhury's overwrites the stored value at each later
  step whose largest current exceeds it, and rounds it to two decimals. Ours is the equation above.
- Rathi's code gives the neurons in residual blocks the threshold 1, so that the rates on both
  ways into the sum have one unit. Here those have thresholds too, and the second kernel of a block
  is multiplied by the first one's: `v W2 o` is in the unit of the shortcut again, be that the
  spikes before the block or a projection of them.

Letters in shapes: `T` time, `...` batch and neurons.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from math import prod
from typing import Any

import jax.numpy as jnp
import numpy as np
from jax import lax

from jaxsnn import tree
from jaxsnn.arrays import Array, Number, check_range, check_whole, top_count
from jaxsnn.errors import UserError
from jaxsnn.neurons import LIF, ORDERS
from jaxsnn.surrogate import Surrogate, triangle

Tree = Any

LINEAR = triangle(1.0, 0.3, normalized=True)  # the surrogate of all three systems
RESETS = {"fire_then_integrate": "soft_undecayed", "integrate_then_fire": "soft"}


def neuron(
    order: str = "fire_then_integrate", *, decay: Number = 1.0, surrogate: Surrogate = LINEAR
) -> LIF:
    """Return the neurons of the converted networks: reset by subtraction, no gradient through it.

    Args:
      order: "fire_then_integrate" (Rathi et al. 2020, both systems here), in which each layer
        delays by a step, or "integrate_then_fire" (DIET-SNN, IIR-SNN; for T below about 15).
      decay: 1 of Rathi et al. and Spike-Thrift; 0.9901 of Chowdhury et al.
      surrogate: the stand-in for a spike's derivative.

    Raises:
      UserError: for an unknown order or a decay out of range.
    """
    reset = RESETS.get(order, "soft")
    return LIF(decay, reset=reset, order=order, detach_reset=True, surrogate=surrogate)


def spiking_layers(synapses: Iterable[str], *trees: Tree) -> tuple[str, ...]:
    """Return the names of the layers that have a threshold, first to last.

    Args:
      synapses: kernel names in the order of the network: `Functional.synapses`.
      *trees: its parameters and statistics; the threshold is in one of them.
    """
    found = [leaf for part in trees for leaf in tree.named_leaves(part)]
    names = dict.fromkeys(kernel.rpartition("/")[0] for kernel in synapses)
    return tuple(name for name in names if f"{name}/neurons/threshold" in found)


def check_delay(layers: Sequence[str], timesteps: int, order: str) -> None:
    """Check that spikes reach the read-out within T steps.

    In the order "fire_then_integrate" a current makes a spike one step later, so behind `n` spiking
    layers the first comes at step `n + 1`; for good accuracy T should be `2 n` and more.

    Args:
      layers: names of the spiking layers, first to last: `spiking_layers`.
      timesteps: T.
      order: of the neurons.

    Raises:
      UserError: for an unknown order, or with the first layer that can never spike.
    """
    check_whole("timesteps", timesteps, 1, float("inf"))
    if order not in ORDERS:
        raise UserError(f"order {order!r} is unknown; choose one of {', '.join(ORDERS)}")
    if order == "fire_then_integrate" and timesteps <= len(layers):
        raise UserError(
            f"layer {layers[timesteps - 1]!r} cannot spike within {timesteps} timesteps: in the "
            f"order {order!r} each layer delays by one; take {len(layers) + 1} timesteps or more, "
            "or the order 'integrate_then_fire'"
        )


def nearest_rank(values: Array, quantile: float) -> Array:
    """Return a quantile that is one of the values: the `1 + round(q (n - 1))`-th smallest.

    >>> nearest_rank(jnp.arange(1.0, 1001.0), 0.999).tolist()
    999.0

    Args:
      values: `[n]`, no NaN. They are counted, not sorted: ten times faster on a CPU.
      quantile: `q`, in (0, 1]; 1 is the maximum. A Python number.

    Returns:
      `[]`.
    """
    check_range("quantile", quantile, 0, 1, open_low=True)
    if quantile == 1:
        return jnp.max(values)
    largest = top_count(values, values.size - round(quantile * (values.size - 1)))
    return jnp.min(jnp.where(largest, values, jnp.inf))


@dataclass(frozen=True)
class Current:
    """The statistic that is a layer's threshold: how large its input current gets.

    Equal ones share a compiled program, in which the layers behind are never computed.

    Attributes:
      layer: its name; the network must be watched (`layers.watch`).
      quantile: over batch and neurons at each step, in (0, 1]; 1 is the maximum.
    """

    layer: str
    quantile: float = 1.0

    def __call__(self, output: Any) -> dict[str, Array]:
        """Return `{layer: []}` of a network's `Output`, the largest over time.

        Raises:
          UserError: if the layer's current is not on the record.
        """
        currents = output.activity.current
        if self.layer not in currents:
            raise UserError(
                f"layer {self.layer!r} has no recorded current: split layers.watch(network)"
            )
        current = currents[self.layer]
        steps = lax.map(lambda now: nearest_rank(now.ravel(), self.quantile), current)
        return {self.layer: jnp.max(steps)}


def check_threshold(layer: str, value: Number) -> float:
    """Return a threshold as a number, if it is one that a neuron can have.

    Raises:
      UserError: if it is not finite, or not above 0: then the layer gets no current at all.
    """
    found = float(value)
    if not np.isfinite(found):
        raise UserError(f"layer {layer!r}: its threshold came out as {found}; training diverged")
    if found <= 0:
        raise UserError(
            f"layer {layer!r}: its threshold came out as {found:g}, the layer is silent; calibrate "
            "over more timesteps, with a larger quantile, or keep more of the weights before it"
        )
    return found


def convert(
    ann_params: Tree,
    params: Tree,
    stats: Tree,
    thresholds: Mapping[str, Number],
    *,
    scale: Number = 1.0,
    decay: Number | None = None,
) -> tuple[Tree, Tree]:
    """Return the parameters and statistics of the spiking network that an ANN becomes.

    Weights are the ANN's, but for the second kernel of a residual block, which is multiplied by the
    first one's threshold (see the module). Scores come out divided by `score_unit`, which changes
    no class.

    Args:
      ann_params: of the ANN: kernels only.
      params: of the spiking network with the same layout.
      stats: of the spiking network.
      thresholds: layer -> threshold, [] or one for each channel, `[C]`. Layers left out keep
        theirs.
      scale: factor on the given thresholds, > 0; 0.7 of Rathi et al., less for few timesteps.
      decay: of all spiking neurons, in [0, 1]; left out, they keep theirs.

    Returns:
      The parameters and the statistics, trees like `params` and `stats`.

    Raises:
      UserError: for a bias or a norm, weights that do not fit, a layer that has no threshold, or a
        threshold that no neuron can have; the message names it.
    """
    check_range("scale", scale, 0, float("inf"), open_low=True, open_high=True)
    kernels, present = tree.named_leaves(ann_params), _named(params, stats)
    _check_kernels(kernels, tree.named_leaves(params))
    new = {}
    for layer, threshold in thresholds.items():
        name = f"{layer}/neurons/threshold"
        if name not in present:
            raise UserError(f"layer {layer!r} has no threshold in this network")
        what = f"the threshold of layer {layer!r}"
        check_range(what, threshold, 0, float("inf"), open_low=True, open_high=True)
        leaf = jnp.asarray(present[name])
        new[name] = jnp.broadcast_to(jnp.asarray(threshold * scale, leaf.dtype), leaf.shape)
    if decay is not None:
        check_range("decay", decay, 0, 1)
        for name in present:
            layer, _, constant = name.rpartition("/neurons/")
            if constant == "decay" and f"{layer}/neurons/threshold" in present:
                new[name] = jnp.full_like(present[name], decay)
    constants = present | new
    for name, kernel in kernels.items():
        first = _first_of_block(name)
        unit = constants.get(f"{first}/neurons/threshold") if first else None
        # The unit of a block's hidden spikes, one or one for each input of the second kernel.
        new[name] = kernel if unit is None else kernel * jnp.reshape(unit, (1, 1, -1, 1))
    return tree.substitute(params, new), tree.substitute(stats, new)


def score_unit(thresholds: Mapping[str, Number], *, scale: Number = 1.0) -> Number:
    """Return what one unit of a converted network's scores was in the ANN: a product.

        1 = v_1 v_2 ... v_n        over the thresholds, but those of the first neurons of blocks

    A read-out whose weights are multiplied by it gives the ANN's scores as they were. No spike and
    no class depends on it, but a loss does: on scores that are 60 times too small a cross-entropy
    sees chance, and tuning begins by tearing the weights apart.

    Args:
      thresholds: layer -> threshold, those given to `convert`.
      scale: as given to `convert`.
    """
    counted = [v for layer, v in thresholds.items() if not layer.endswith("/conv1")]
    return prod(v * scale for v in counted)


def rescale(params: Tree, stats: Tree, factors: Mapping[str, Number]) -> tuple[Tree, Tree]:
    """Multiply the weights and the threshold of layers by one factor each: the same spikes.

    The factor `1 / s` turns weights on a grid of step `s` into whole numbers. Spikes are equal bit
    for bit if the factor is a power of two, otherwise up to potentials within rounding of the
    threshold. A read-out has no threshold: its scores are multiplied by the factor.

    Args:
      params: kernels, biases, recurrent weights; thresholds too if they are trained.
      stats: the neurons' constants.
      factors: layer -> factor > 0.

    Returns:
      The parameters and the statistics.

    Raises:
      UserError: for a layer that is not there, that has a norm (fold it first), or that ends a
        residual block whose shortcut has no factor of its own, or is a projection; the message
        names it.
    """
    leaves, new = _named(params, stats), {}
    for layer, factor in factors.items():
        check_range(f"factor of layer {layer!r}", factor, 0, float("inf"), open_low=True)
        own = [name for name in leaves if name.startswith(f"{layer}/")]
        if f"{layer}/kernel" not in own:
            raise UserError(f"layer {layer!r} has no weights to rescale")
        if any(name.startswith(f"{layer}/norm/") for name in own):
            raise UserError(f"layer {layer!r} has a norm, which undoes a factor: fold it first")
        block, _, part = layer.rpartition("/")
        if block and part == "projection":
            raise UserError(f"layer {layer!r} has no threshold: give the factor to '{block}/conv2'")
        if _first_of_block(f"{layer}/kernel"):
            shortcuts = [f"{block}/{x}" for x in ("projection/kernel", "weight")]
            shortcuts = [name for name in shortcuts if name in leaves]
            if not shortcuts:
                raise UserError(
                    f"layer {layer!r} adds a shortcut that has no factor: build the block with "
                    "weight=, or leave the layer out"
                )
            own.append(shortcuts[0])
        for name in own:
            if not name.endswith("/neurons/decay"):
                new[name] = leaves[name] * factor
    return tree.substitute(params, new), tree.substitute(stats, new)


def _named(*trees: Tree) -> dict[str, Any]:
    return {name: leaf for part in trees for name, leaf in tree.named_leaves(part).items()}


def _first_of_block(kernel: str) -> str | None:
    """Return the layer whose spikes a kernel weighs, if it is the second of a residual block."""
    layer = kernel.removesuffix("/kernel")
    block, _, part = layer.rpartition("/")
    return f"{block}/conv1" if block and part == "conv2" else None


def _check_kernels(kernels: Mapping[str, Any], params: Mapping[str, Any]) -> None:
    """Raise unless an ANN has kernels only, and those of the spiking network."""
    for name in kernels:
        if not name.endswith("/kernel"):
            raise UserError(
                f"parameter {name!r} does not survive a conversion: build both networks with "
                "use_bias=False and norm=False, without recurrence"
            )
    expected = {name for name in params if "/neurons/" not in name}
    for name in sorted(expected ^ kernels.keys()):
        where = "spiking network" if name in expected else "ANN"
        raise UserError(f"parameter {name!r} is in the {where} only: build both of one layout")
    for name, kernel in kernels.items():
        if jnp.shape(kernel) != jnp.shape(params[name]):
            raise UserError(
                f"parameter {name!r} has the shape {jnp.shape(kernel)} in the ANN, "
                f"{jnp.shape(params[name])} in the spiking network"
            )
