"""Threshold balancing: the weights of an ANN in a spiking network, and the thresholds they need.

An IF neuron with a reset by subtraction fires at the rate `clip(x / v, 0, 1)` of its mean input
current `x` and its threshold `v`: the rectified unit of an ANN, in units of `v`. So a network of
the same layers without biases or norms, with average pooling, keeps the weights, and only needs
thresholds high enough that no rate is clipped and low enough that the rates are not all zero:

    v[l] = quantile over batch and neurons, then largest over time, of the current W[l] o[l-1]

front to back, each with the thresholds before it already in place (`thresholds`), and at last
`v <- scale v` on all of them (`convert`).

References: Rathi et al. 2020, "Enabling deep SNNs with hybrid conversion and STDB", ICLR (the
largest current, scale 0.7); Chowdhury et al. 2021, https://arxiv.org/abs/2104.12528 (quantile
0.999); Kundu et al. 2021, "Spike-Thrift", WACV.

Where the sources differ:
- Their codes simulate 1000 to 2500 steps; Chowdhury's overwrites the stored value at each later
  step whose largest current exceeds it, and rounds it to two decimals. Ours is the equation above.
- Rathi's code gives the neurons in residual blocks the threshold 1, so that the rates on both
  ways into the sum have one unit. Here those have thresholds too, and the second kernel of a block
  is multiplied by the first one's: `v W2 o` is in the unit of the shortcut again, be that the
  spikes before the block or a projection of them.

Letters in shapes: `T` time, `C` channels.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import jax.numpy as jnp
import numpy as np
from jax import lax

from jaxsnn import layers, train
from jaxsnn.arrays import Array, Number, check_range, check_whole
from jaxsnn.compress.ranking import top_count
from jaxsnn.errors import UserError
from jaxsnn.inputs import Inputs
from jaxsnn.layers import walk
from jaxsnn.models.variants import residual_blocks
from jaxsnn.network import Network, Output
from jaxsnn.neurons import LIF
from jaxsnn.neurons.lif import ORDERS
from jaxsnn.surrogate import Surrogate, triangle

__all__ = [
    "Current",
    "check_delay",
    "check_kernel_only",
    "check_threshold",
    "convert",
    "nearest_rank",
    "neuron",
    "score_unit",
    "spiking_layers",
    "thresholds",
]

LINEAR = triangle(1.0, 0.3, normalized=True)  # the surrogate of all three systems
RESETS = {"fire_then_integrate": "soft_undecayed", "integrate_then_fire": "soft"}


def neuron(
    order: str = "fire_then_integrate", *, decay: Number = 1.0, surrogate: Surrogate = LINEAR
) -> LIF:
    """Return the neurons of the converted networks: reset by subtraction, no gradient through it.

    >>> neuron().reset, neuron("integrate_then_fire").reset
    ('soft_undecayed', 'soft')

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


def spiking_layers(net: Network, inputs: Inputs) -> tuple[str, ...]:
    """Return the layers that have a threshold, in the order of the calls.

    >>> from jaxsnn import models
    >>> net = models.build("8-4-3", (4,), readout="current")
    >>> spiking_layers(net, Inputs((4,), 1))
    ('dense1', 'dense2')
    """
    found = layers.synapses(net.module)
    order = net.flow(inputs).order
    return tuple(name for name in order if isinstance(found[name].neurons, layers.Neurons))


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


# ----------------------------------------------------------------------------------------------
# thresholds


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

    def __call__(self, output: Output) -> dict[str, Array]:
        """Return `{layer: []}` of a network's output, the largest over time."""
        current = output.activity.current[self.layer]
        steps = lax.map(lambda now: nearest_rank(now.ravel(), self.quantile), current)
        return {self.layer: jnp.max(steps)}


def thresholds(
    ann: Network,
    spiking: Network,
    task: train.Task,
    images: np.ndarray,
    *,
    quantile: float = 1.0,
    batches: int = 8,
    batch_size: int = 64,
    seed: int = 0,
) -> dict[str, float]:
    """Estimate the thresholds of a spiking network that takes over an ANN's weights.

    Front to back, each layer's is the largest input current that it gets while the layers before it
    spike at the thresholds already found. A program is compiled for each layer, which computes
    nothing behind it.

    Args:
      ann: the trained ANN.
      spiking: of the same layout; its decays are used, its weights and thresholds are replaced.
      task: of the spiking network: the same coding and as many steps as it will run with, or more.
      images: uint8 `[N, H, W, C]`, the training images.
      quantile: over the neurons and images of a batch at each step, in (0, 1]; 1 is the maximum.
      batches: how many; of their values the largest counts.
      batch_size: images in each. Rathi et al. take one batch of 512, which would need the currents
        of all of them in memory at once.
      seed: of the choice of images and their encoding.

    Returns:
      layer -> threshold, not yet scaled.

    Raises:
      UserError: for a silent layer, weights that cannot be converted, and what `over_batches`
        refuses; the message names the layer.
    """
    watched = Network.of(layers.watch(spiking.module))
    found: dict[str, float] = {}
    for layer in spiking_layers(spiking, task.inputs):
        current = train.over_batches(
            task, convert(ann, watched, found), images, Current(layer, quantile),
            batches=batches, batch_size=batch_size, seed=seed,
        ).batches[layer]  # fmt: skip
        found[layer] = check_threshold(layer, current.max())
    return found


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


# ----------------------------------------------------------------------------------------------
# from one network to the other


def convert(
    ann: Network,
    spiking: Network,
    thresholds: Mapping[str, Number | Array],
    *,
    scale: Number = 1.0,
    decay: Number | None = None,
) -> Network:
    """Return the spiking network that an ANN becomes.

    Weights are the ANN's, but for the second kernel of a residual block, which is multiplied by the
    first one's threshold (see the module). Scores come out divided by `score_unit`, which changes
    no class.

    Args:
      ann: the trained ANN, without biases and norms.
      spiking: of the same layout, such as `models.variants.spiking_of(ann, neuron())`.
      thresholds: layer -> threshold, `[]` or one for each channel, `[C]`. Layers left out keep
        theirs.
      scale: factor on the given thresholds, > 0; 0.7 of Rathi et al., less for few timesteps.
      decay: of all spiking neurons, in [0, 1]; left out, they keep theirs.

    Raises:
      UserError: for a bias or a norm, weights that do not fit, a layer that has no threshold, or a
        threshold that no neuron can have; the message names it.

    Example:
      >>> from jaxsnn import models
      >>> options = {"readout": "current", "use_bias": False}
      >>> ann = models.build("8-3", (4,), activation="relu", **options)
      >>> net = convert(ann, models.build("8-3", (4,), neuron(), **options), {"dense1": 2.5})
      >>> net.stats["dense1"]["neurons"]["threshold"].item()
      2.5
    """
    check_range("scale", scale, 0, float("inf"), open_low=True, open_high=True)
    module = spiking.module
    known, given = layers.synapses(module), layers.synapses(ann.module)
    _check_pair(given, known)
    for name, threshold in thresholds.items():
        if name not in known or not isinstance(known[name].neurons, layers.Neurons):
            raise UserError(f"layer {name!r} has no threshold in this network")
        what = f"the threshold of layer {name!r}"
        check_range(what, threshold, 0, float("inf"), open_low=True, open_high=True)
    if decay is not None:
        check_range("decay", decay, 0, 1)
    for name, layer in known.items():
        layer.kernel[...] = given[name].kernel[...]
        if not isinstance(layer.neurons, layers.Neurons):
            continue
        constants: Any = _lif(name, layer.neurons)
        if name in thresholds:
            old = constants.threshold[...]
            new = jnp.asarray(thresholds[name] * scale, old.dtype)
            constants.threshold[...] = jnp.broadcast_to(new, old.shape)
        if decay is not None:
            constants.decay[...] = jnp.full_like(constants.decay[...], decay)
    for block in walk.layers_of(module):
        if isinstance(block, layers.Residual) and isinstance(block.conv1.neurons, layers.Neurons):
            # The unit of the hidden spikes, one or one for each input of the second kernel.
            unit = block.conv1.neurons.variable("threshold")[...]
            block.conv2.kernel[...] = block.conv2.kernel[...] * jnp.reshape(unit, (1, 1, -1, 1))
    return Network.of(module, spiking.input_shape)


def score_unit(net: Network, inputs: Inputs) -> float:
    """Return what one unit of a converted network's scores was in the ANN: a product.

        1 = v_1 v_2 ... v_n        over the thresholds, but those of the first neurons of blocks

    A read-out whose weights are multiplied by it gives the ANN's scores as they were. No spike and
    no class depends on it, but a loss does: on scores that are 60 times too small a cross-entropy
    sees chance, and tuning begins by tearing the weights apart.

    Args:
      net: the converted network; each layer hears one other, or the input.
      inputs: of its task.

    Example:
      >>> from jaxsnn import models
      >>> net = models.build("8-4-3", (4,), LIF(1.0, 3.0), readout="current")
      >>> score_unit(net, Inputs((4,), 1))
      9.0
    """
    flow, known = net.flow(inputs), layers.synapses(net.module)
    first = {block.conv2.name: block.conv1.name for block in residual_blocks(net)}
    entering: dict[str, float] = {}  # layer -> unit of what it hears
    leaving: dict[str, float] = {}  # layer -> unit of its spikes
    for feed in flow.feeds.values():
        unit = leaving[feed.sources[0]] if feed.sources else 1.0
        # Behind a second kernel, the current is in the unit of the shortcut.
        entering[feed.layer] = entering[first[feed.layer]] if feed.layer in first else unit
        neurons = known[feed.layer].neurons
        if isinstance(neurons, layers.Neurons):
            threshold = _lif(feed.layer, neurons).variable("threshold")[...]
            if threshold.ndim:
                raise UserError(f"layer {feed.layer!r} has a threshold for each channel: no unit")
            leaving[feed.layer] = entering[feed.layer] * float(threshold)
        else:
            leaving[feed.layer] = entering[feed.layer]
    return entering[flow.readout[0]]


def _lif(name: str, neurons: layers.Neurons) -> layers.Neurons:
    """Return neurons whose decay and threshold are those of LIF.

    Raises:
      UserError: naming the layer of others.
    """
    if not isinstance(neurons.options, LIF):
        kind = type(neurons.options).__name__
        raise UserError(f"layer {name!r} fires by {kind}: conversions know LIF neurons only")
    return neurons


def _check_pair(ann: Mapping[str, layers.Synapse], spiking: Mapping[str, layers.Synapse]) -> None:
    """Raise unless two networks have kernels only, and the same."""
    for name, layer in (*ann.items(), *spiking.items()):
        check_kernel_only(name, layer)
    for name in [*ann, *spiking]:
        if name not in ann or name not in spiking:
            where = "ANN" if name in ann else "spiking network"
            raise UserError(f"layer {name!r} is in the {where} only: build both of one layout")
    for name, layer in ann.items():
        if layer.kernel.shape != spiking[name].kernel.shape:
            raise UserError(
                f"layer {name!r} has a kernel {layer.kernel.shape} in the ANN, "
                f"{spiking[name].kernel.shape} in the spiking network"
            )


def check_kernel_only(name: str, layer: layers.Synapse) -> None:
    """Refuse, by name, a layer that has more than a kernel: no threshold makes up for it."""
    more = {
        "a bias": layer.bias is not None,
        "a norm": layer.norm is not None,
        "recurrent weights": len(layer.maps()) > 1,
    }
    for what, there in more.items():
        if there:
            raise UserError(
                f"layer {name!r} has {what}, which does not survive a conversion: build both "
                "networks with use_bias=False and norm=False, without recurrence"
            )
