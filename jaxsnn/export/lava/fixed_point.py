"""A network of integers in the numbers of Loihi, where every spike stays the same.

Lava's bit-accurate `Sparse` (or `Dense`) and `LIF` compute, in each step and for each neuron,

    a    = (W s) << e               a step later; W has 8 bits, and is even where signs are mixed
    u[t] = a[t] << 6                                 with du = 4095, which keeps nothing
    v[t] = (v[t-1] (4096 - dv)) / 4096 + u[t] + (mantissa << exponent)     rounded towards 0
    o[t] = 1[v[t] > 64 vth],  and then v[t] = 0

(github.com/lava-nc/lava, `proc/lif/models.py`, `proc/sparse/models.py`, `utils/weightutils.py`.)
With potentials `v = 2**g u` of our `u` (`integer.network`), `f` bits behind the point and
`s = f + g` the same for all channels of a layer,

    W << e = K 2**(s - 6)          (level - 1) 2**g <= 64 vth < level 2**g

`s` is the smallest with which these and the recurrent weights are whole numbers. What makes a layer
impossible: a reset by subtraction, a leak that rounds or of everything, maximum pooling, shortcuts
(lava's connections take a step each), numbers that do not fit. Pools that add up become a part of
the connections behind them.

A layer starts when the first input reaches it, later than those before it, and its bias works all
the time. So potentials start where the bias brings them to 0 at that moment.

Letters in shapes: `n` inputs, `N` neurons, `O` channels, `C` connections.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from jaxsnn.encode import Signal
from jaxsnn.errors import UserError
from jaxsnn.export.integer import IntegerNetwork, LayerVerdict
from jaxsnn.export.integer.network import IntegerNeurons, Joined, Weighted, Weightless

__all__ = ["Connections", "LavaLayer", "LavaNetwork", "in_fixed_point"]

ALIGNED = 6  # bits that Loihi shifts inputs and thresholds by
UNITY = 1 << 12  # of dv
STATE = (1 << 23) - 2  # largest potential
INPUT = (1 << 15) - 1  # largest sum of inputs: 16 bits
THRESHOLD = (1 << 17) - 1  # largest vth
MANTISSA, MOST_EXPONENT = (1 << 12) - 1, 7  # of a bias
WEIGHT_EXPONENTS = range(-8, 8)
ROWS = 256  # inputs at a time, whose connections are found


class Connections(NamedTuple):
    """Weights of Loihi that are not 0: `weights << exponent`, int32 `[C]` each."""

    targets: np.ndarray
    sources: np.ndarray
    weights: np.ndarray
    exponent: int
    size: tuple[int, int]  # neurons, inputs


@dataclass(frozen=True)
class LavaLayer:
    """Connections and LIF neurons, int32 `[N]` each."""

    name: str
    inward: Connections
    recurrent: Connections | None
    dv: int
    vth: np.ndarray
    bias_mantissa: np.ndarray
    bias_exponent: np.ndarray
    start: np.ndarray  # potentials
    first: int  # step of lava in which the output of our first step is sent
    # Of a read-out, which never fires: v = 2**behind u, or its sum over time if it keeps no memory.
    behind: int
    summed: bool


@dataclass(frozen=True)
class LavaNetwork:
    """Layers for lava, and what goes in and comes out."""

    layers: tuple[LavaLayer, ...]
    message_bits: int  # of an input; 0 for spikes
    timesteps: int
    silent: bool  # whether the last layer is a read-out that never fires
    classes: int


def in_fixed_point(network: IntegerNetwork, shape: tuple[int, ...]) -> LavaNetwork:
    """Return a network in the numbers of Loihi.

    Args:
      network: from `export.to_integer`.
      shape: of a sample at one step.

    Raises:
      UserError: for the first layer that cannot be exact, by its name.
    """
    low, high = network.inputs[1:]
    if low < 0:
        raise UserError(f"lava's connections take inputs of 0 and more, found {low} to {high}")
    verdicts = {report.layer: report for report in network.report}
    layers: list[LavaLayer] = []
    pending: list[Weightless] = []
    start, limit = 1, high
    for stage in network.stages:
        if isinstance(stage, Joined):
            raise UserError(
                f"{stage.second.name!r} adds a shortcut, which would arrive a step too early: "
                "each of lava's connections takes one"
            )
        if isinstance(stage, Weightless):
            pending.append(stage)
            continue
        convert = _Converter(stage, verdicts[stage.name], network.timesteps, start)
        layer, shape = convert.layer(pending, shape, limit)
        layers.append(layer)
        pending, limit, start = [], 1, layer.first + 1
    classes = pending[-1].size if pending else layers[-1].inward.size[0]
    silent = network.stages[-1 - len(pending)].neurons.reset is None
    message_bits = high.bit_length() if high > 1 else 0
    return LavaNetwork(tuple(layers), message_bits, network.timesteps, silent, classes)


@dataclass(frozen=True)
class _Converter:
    """A layer on its way."""

    stage: Weighted
    verdict: LayerVerdict
    timesteps: int
    start: int  # step of lava in which the first input arrives

    def refuse(self, reason: str) -> UserError:
        return UserError(f"{self.stage.name!r} has no exact form in lava: {reason}")

    @property
    def neurons(self) -> IntegerNeurons:
        return self.stage.neurons

    @property
    def silent(self) -> bool:
        return self.neurons.reset is None

    def layer(
        self, before: Sequence[Weightless], shape: tuple[int, ...], high: int
    ) -> tuple[LavaLayer, tuple[int, ...]]:
        """Return the layer and the shape of what it gives.

        Args:
          before: what lies between it and its source.
          shape: of the source.
          high: its largest value.
        """
        if any(stage.kind == "max" for stage in before):
            raise self.refuse("maximum pooling comes before it")
        if self.neurons.second is not None:
            what = "a threshold that rises" if self.neurons.rises else "a synaptic current"
            raise self.refuse(f"its neurons carry {what}, and only LIF is written for lava")
        if self.neurons.reset not in (None, "hard"):
            raise self.refuse("it resets by subtraction, lava's LIF to 0")
        dv, summed = self._decay()
        try:
            targets, sources, codes, after = connections(self.stage, before, shape)
        except (TypeError, ValueError):
            raise UserError(f"{self.stage.name!r} does not fit an input of {shape}") from None
        channels, positions = after[-1], int(np.prod(after[:-1]))
        fraction = np.asarray(self.stage.shift, np.int64)
        total, vth = self._scale(fraction, summed)
        behind = np.tile(total - fraction, positions)
        size = channels * positions, int(np.prod(shape))
        inward = self._connections(targets, sources, codes, total - ALIGNED, size)
        recurrent = self._recurrent(total - fraction)
        self._check_inputs(inward, recurrent, high)
        bias = np.tile(np.asarray(self.stage.bias, np.int64), positions) << behind
        mantissa, exponent = self._bias(bias)
        vth = np.tile(vth, positions)
        layer = LavaLayer(
            name=self.stage.name,
            inward=inward,
            recurrent=recurrent,
            dv=dv,
            vth=vth,
            bias_mantissa=mantissa,
            bias_exponent=exponent,
            start=self._start(bias, dv, vth),
            first=self.start - self.neurons.fires_first,
            behind=int(behind[0]),
            summed=summed,
        )
        return layer, after

    def _decay(self) -> tuple[int, bool]:
        """Return dv, and whether the potential of a read-out is to be a sum."""
        keep, factor, right = (
            np.asarray(x, np.int64)
            for x in (self.neurons.keep, self.neurons.factor, self.neurons.right)
        )
        kept = np.unique((keep << 12) + (factor << (12 - right)))
        if kept.size > 1:
            shares = ", ".join(f"{share / UNITY:.4g}" for share in kept[:3])
            raise self.refuse(f"its channels decay by {shares} ..., lava's LIF has one dv")
        if kept[0] == 0 and not self.silent:
            raise self.refuse("it forgets at once, and dv keeps at least 1/4096")
        if "leak" in dict(self.verdict.rounded):
            raise self.refuse(
                f"its leak drops binary digits within {self.timesteps} timesteps, and Loihi rounds "
                "in another direction: take fewer, a decay such as 0.5, and no bias"
            )
        return (0, True) if kept[0] == 0 else (UNITY - int(kept[0]), False)

    def _scale(self, fraction: np.ndarray, summed: bool) -> tuple[int, np.ndarray]:
        """Return `s` and the thresholds `[O]`."""
        bound = ((1 << (self.verdict.state_bits - 1)) - 1) * (self.timesteps if summed else 1)
        level = np.asarray(self.neurons.level, np.int64)
        if not self.silent and level.min() < 1:
            raise self.refuse("it fires at a potential of 0")
        recurrent = self.stage.recurrent
        heard = np.zeros(1, np.int64) if recurrent is None else np.asarray(recurrent, np.int64)
        least = max(ALIGNED, int(fraction.max()))
        for total in range(least, least + ALIGNED + 1):
            behind = total - fraction
            reached = (level <= bound) & (not self.silent)
            vth = np.where(reached, ((level << behind) - 1) >> ALIGNED, THRESHOLD)
            above = np.where(reached, (level - 1) << behind, bound << behind)
            aligned = (heard << behind) % (1 << ALIGNED) == 0
            if (vth << ALIGNED >= above).all() and vth.max() <= THRESHOLD and aligned.all():
                break
        largest = bound << int(behind.max())
        if largest > STATE:
            raise self.refuse(
                f"its potentials need {largest.bit_length() + 1} bits, Loihi has 24: take fewer "
                "timesteps or weight bits"
            )
        return total, vth

    def _connections(
        self,
        targets: np.ndarray,
        sources: np.ndarray,
        codes: np.ndarray,
        exponent: int,
        size: tuple[int, int],
    ) -> Connections:
        """Return connections of `codes << exponent` in 8 bits, even ones where signs are mixed."""
        mixed = bool((codes < 0).any() and (codes > 0).any())
        common = int(np.bitwise_or.reduce(codes)) if codes.size else 1
        zeros = (common & -common).bit_length() - 1
        exponent += zeros - mixed
        more = max(0, exponent - WEIGHT_EXPONENTS[-1])
        exponent -= more
        weights = (codes >> zeros) << (mixed + more)
        if weights.size and not (-256 + (not mixed) <= weights.min() and weights.max() <= 255):
            bits = int(np.abs(weights).max()).bit_length()
            raise self.refuse(f"its weights need {bits} bits beside the sign, Loihi has 8")
        if exponent not in WEIGHT_EXPONENTS:
            raise self.refuse(f"its weights need an exponent of {exponent}, Loihi has -8 to 7")
        targets, sources, weights = (x.astype(np.int32) for x in (targets, sources, weights))
        return Connections(targets, sources, weights, exponent, size)

    def _recurrent(self, behind: np.ndarray) -> Connections | None:
        if self.stage.recurrent is None:
            return None
        heard = (np.asarray(self.stage.recurrent, np.int64) << behind) >> ALIGNED
        sources, targets = np.nonzero(heard)
        size = (len(heard), len(heard))
        return self._connections(targets, sources, heard[sources, targets], 0, size)

    def _check_inputs(self, inward: Connections, recurrent: Connections | None, high: int) -> None:
        """Refuse a sum of inputs that does not fit 16 bits."""
        ends = np.zeros((2, inward.size[0]))
        for part, most in ((inward, high), (recurrent, 1)):
            if part is not None:
                effect = part.weights * 2.0**part.exponent * most
                np.add.at(ends[0], part.targets, effect.clip(max=0))
                np.add.at(ends[1], part.targets, effect.clip(min=0))
        largest = int(np.abs(ends).max())
        if largest > INPUT:
            bits = largest.bit_length() + 1
            raise self.refuse(f"its inputs may add up to {largest:,}, {bits} bits; Loihi has 16")

    def _bias(self, bias: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Return mantissas of 13 bits and exponents of 3."""
        exponent = np.zeros_like(bias)
        for _ in range(MOST_EXPONENT):
            exponent += (np.abs(bias) >> exponent) > MANTISSA
        mantissa = bias >> exponent
        if ((mantissa << exponent) != bias).any() or (np.abs(mantissa) > MANTISSA).any():
            raise self.refuse("a bias needs more than 13 bits: quantize biases, or leave them out")
        return mantissa.astype(np.int32), exponent.astype(np.int32)

    def _start(self, bias: np.ndarray, dv: int, vth: np.ndarray) -> np.ndarray:
        """Return potentials from which the bias alone leads to 0 when the first input arrives."""
        kept, potential = UNITY - dv, np.zeros_like(bias)
        for _ in range(self.start):
            if (potential > vth << ALIGNED).any() or (np.abs(potential) > STATE).any():
                raise self.refuse("its bias would make it fire before the first input arrives")
            left = potential - bias
            potential = np.sign(left) * -(-np.abs(left) * UNITY // kept)
        if (np.abs(potential) > STATE).any():
            raise self.refuse("its bias has no start in 24 bits")
        return potential.astype(np.int32)


def connections(
    stage: Weighted, before: Sequence[Weightless], shape: tuple[int, ...]
) -> tuple[np.ndarray, np.ndarray, np.ndarray, tuple[int, ...]]:
    """Return targets, sources and weights `[C]` of a layer's connections, and its output's shape.

    Args:
      stage: a dense layer or a convolution.
      before: pools that add up and flattening between it and its source.
      shape: of the source.
    """
    plain = replace(stage, shift=jnp.zeros_like(stage.shift), bias=jnp.zeros_like(stage.bias))
    inputs = int(np.prod(shape))
    rows = min(ROWS, inputs)
    found = []
    after: tuple[int, ...] = ()
    for first in range(0, inputs, rows):
        one = np.eye(rows, inputs, first, np.int32)  # rows behind the last input are 0
        effect = np.asarray(_effect(plain, tuple(before), one.reshape(rows, *shape)))
        after, effect = effect.shape[1:], effect.reshape(rows, -1)
        sources, targets = np.nonzero(effect)
        found.append((targets, sources + first, effect[sources, targets]))
    targets, sources, weights = (np.concatenate(parts) for parts in zip(*found, strict=True))
    return targets, sources, weights.astype(np.int64), after


@jax.jit
def _effect(stage: Weighted, before: tuple[Weightless, ...], x: Array) -> Array:
    """Return the currents that inputs make."""
    signal = Signal(x, 1, constant=True)
    for pool in before:
        signal = pool(signal, {})
    return stage.current(signal.value)
