"""Spike functions: the exact step forward, a named derivative backward.

A spike is the Heaviside step of the membrane potential `u` at the threshold `theta`,

    o = 1[u > theta]   (strict)      or      o = 1[u >= theta]

and its derivative, zero almost everywhere, is replaced by `h`, a function of the distance to the
threshold. The distance is `z = u - theta`, or the normalised `z = u / theta - 1`:

    do/du = h(z)             do/dtheta = -h(z)              (plain)
    do/du = h(z) / theta     do/dtheta = -h(z) u / theta^2  (normalised)

`stdb` alone looks at the time since the neuron's last spike in place of the distance, and so needs
the whole time axis: `fire_over_time`.

A `Surrogate` compares by value, so two equal ones share a compiled program.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial

import jax
import jax.numpy as jnp
from jax import Array, lax

from jaxsnn import arrays
from jaxsnn.arrays import check_range
from jaxsnn.errors import UserError

__all__ = [
    "Surrogate",
    "atan",
    "constant",
    "custom",
    "fast_sigmoid",
    "fire",
    "rectangle",
    "sigmoid",
    "stdb",
    "triangle",
]

Derivative = Callable[[Array], Array]  # distance to the threshold in widths -> height, peak 1

NEVER = 999.0  # steps since the last spike at the first step of all, before any spike


@dataclass(frozen=True)
class Surrogate:
    """The stand-in for a step's derivative, `h(z) = peak * shape(z / width)`.

    >>> triangle(1.0, 0.3) == triangle(1.0, 0.3), triangle(1.0, 0.3).peak
    (True, 0.3)

    Attributes:
      shape: the curve in units of its width, with height 1 at 0.
      width: its width in units of `z`, > 0.
      peak: its height at the threshold.
      normalized: whether `z = u / theta - 1` instead of `u - theta`.
      timed: whether the steps since the last spike take the place of `z` in `h`.
    """

    shape: Derivative
    width: float = 1.0
    peak: float = 1.0
    normalized: bool = False
    timed: bool = False

    def __post_init__(self) -> None:
        check_range("surrogate width", self.width, 0.0, float("inf"), open_low=True, open_high=True)
        check_range("surrogate peak", self.peak, 0.0, float("inf"), open_high=True)

    @property
    def curve(self) -> str | None:
        """Return the name of its shape in `CURVES`, None for another one."""
        return next((name for name, known in CURVES.items() if self.shape is known), None)

    def __call__(self, distance: Array) -> Array:
        """Return `h(distance)`, elementwise."""
        return self.peak * self.shape(distance / self.width)


def rectangle(width: float = 1.0) -> Surrogate:
    """Return `h(z) = 1/a * 1[|z| < a/2]`: unit area, exactly 0 on its edges.

    Wu et al., "Spatio-temporal backpropagation" (2018); the ADMM paper's codes use `a = 1` (MNIST,
    CIFAR) and `a = 0.5` (N-MNIST).

    >>> rectangle(2.0)(jnp.asarray([0.0, 0.9, 1.0])).tolist()
    [0.5, 0.5, 0.0]

    Args:
      width: `a`, > 0.
    """
    return Surrogate(_rectangle, width, 1.0 / width if width else 0.0)


def triangle(
    width: float = 1.0, peak: float | None = None, *, normalized: bool = False
) -> Surrogate:
    """Return `h(z) = peak * max(0, 1 - |z|/a)`; `peak = 1/a` (unit area) unless given.

    QP-SNN's code is `triangle(a)`, its paper's appendix D `triangle(a, 1.0)` (the same at a = 1).
    Rathi et al. (2020), Chowdhury et al. (2021) and Spike-Thrift use
    `triangle(1.0, 0.3, normalized=True)`.

    >>> triangle(2.0)(jnp.asarray([0.0, 1.0, 3.0])).tolist()
    [0.5, 0.25, 0.0]

    Args:
      width: `a`, > 0, in units of `z`.
      peak: height at the threshold, >= 0; left out, `1/a`.
      normalized: whether `z = u / theta - 1`.
    """
    if peak is None:
        peak = 1.0 / width if width else 0.0
    return Surrogate(_triangle, width, peak, normalized)


def atan(alpha: float = 2.0) -> Surrogate:
    """Return `h(z) = (alpha/2) / (1 + (pi alpha z / 2)^2)`: unit area.

    Fang et al., "Incorporating learnable membrane time constant" (2021); snnTorch's default.

    >>> atan(2.0)(jnp.asarray([0.0])).tolist()
    [1.0]

    Args:
      alpha: > 0; the larger, the steeper.
    """
    return Surrogate(_lorentzian, 2.0 / (jnp.pi * alpha) if alpha else 0.0, alpha / 2.0)


def fast_sigmoid(slope: float = 25.0) -> Surrogate:
    """Return `h(z) = 1 / (1 + slope |z|)^2`: peak 1.

    Zenke and Ganguli, "SuperSpike" (2018).

    >>> fast_sigmoid(1.0)(jnp.asarray([0.0, 1.0])).tolist()
    [1.0, 0.25]

    Args:
      slope: > 0.
    """
    return Surrogate(_hyperbola, 1.0 / slope if slope else 0.0)


def sigmoid(slope: float = 4.0) -> Surrogate:
    """Return the logistic's derivative, `h(z) = slope s (1 - s)`.

        s = 1 / (1 + e^(-slope z))

    >>> sigmoid(4.0)(jnp.asarray([0.0])).tolist()
    [1.0]

    Args:
      slope: > 0.
    """
    return Surrogate(_logistic, 1.0 / slope if slope else 0.0, slope / 4.0)


def constant() -> Surrogate:
    """Return `h(z) = 1`: the gradient passes the step untouched (Bengio et al., 2013).

    >>> constant()(jnp.asarray([0.0, 9.0])).tolist()
    [1.0, 1.0]
    """
    return Surrogate(_one)


def stdb(peak: float = 0.3, rate: float = 0.01) -> Surrogate:
    """Return `h = peak e^(-rate d)`, with `d` the steps since the neuron's last spike.

    Spike timing dependent backpropagation: the distance to the threshold plays no part; before its
    first spike a neuron learns next to nothing. By `u` it is `h / theta`. Needs neurons with a
    detached reset, in a network (`layers.Neurons`). Its authors warn that it can diverge and
    prefer `triangle(1.0, 0.3, normalized=True)`.

    Rathi et al., "Enabling deep SNNs with hybrid conversion and STDB" (2020), their code: a spike
    at the step before is `d = 1`, and a neuron that never spiked has `d = t + 999` (t from 0).

    >>> stdb(peak=0.5, rate=1.0)(jnp.asarray([0.0])).tolist()
    [0.5]

    Args:
      peak: height for a neuron that spikes at the same step, >= 0.
      rate: by which it falls a step, > 0.
    """
    return Surrogate(_exponential, 1.0 / rate if rate else 0.0, peak, normalized=True, timed=True)


def custom(derivative: Derivative, *, normalized: bool = False) -> Surrogate:
    """Return the surrogate whose `h` is any elementwise function of the distance.

    Give a module-level function, not a lambda made anew at each call, so that equal surrogates
    compare equal and nothing is compiled twice.

    >>> custom(jnp.cos)(jnp.asarray([0.0])).tolist()
    [1.0]

    Args:
      derivative: `[...]` -> `[...]`, of the distance to the threshold.
      normalized: whether the distance is `u / theta - 1`.
    """
    return Surrogate(derivative, normalized=normalized)


def fire(potential: Array, threshold: Array, surrogate: Surrogate, *, strict: bool = True) -> Array:
    """Return the spikes of a potential, with the surrogate's derivative.

    >>> theta = jnp.asarray(1.0)
    >>> fire(jnp.asarray([0.5, 1.5]), theta, triangle()).tolist()
    [0.0, 1.0]
    >>> float(jax.grad(fire)(1.25, theta, triangle()))
    0.75

    Args:
      potential: membrane potential `u`, any shape.
      threshold: `theta` > 0, broadcastable to `potential`.
      surrogate: the derivative's stand-in.
      strict: spike where `u > theta`; otherwise where `u >= theta`.

    Returns:
      0 or 1, in the shape and the dtype of `potential`.
    """
    spikes: Array = _fire(surrogate, strict, potential, threshold)
    return spikes


def steps_since_spike(spikes: Array, before: Array) -> Array:
    """Return how many steps ago each neuron's last spike was, before the present step.

    Args:
      spikes: `[T, ...]`.
      before: the steps since the last spike at the first step, `[...]`, > 0.

    Returns:
      `[T + 1, ...]` in the dtype of `before`; the last entry is that of the step after these.
    """
    steps = jnp.arange(spikes.shape[0], dtype=before.dtype).reshape((-1,) + (1,) * before.ndim)
    at = jnp.where(spikes > 0, jnp.broadcast_to(steps, spikes.shape), -before[None])
    last = lax.cummax(jnp.concatenate([-before[None], at]))
    return jnp.concatenate([steps, steps[-1:] + 1]) - last


def fire_over_time(
    potential: Array,
    threshold: Array,
    surrogate: Surrogate,
    before: Array,
    *,
    strict: bool = True,
) -> tuple[Array, Array]:
    """Return the spikes of all steps with the derivative of a timed surrogate, `stdb`.

    Args:
      potential: membrane potential `u` at each step, `[T, ...]`.
      threshold: `theta` > 0, of as many axes, broadcastable to `potential`.
      surrogate: a timed one.
      before: the steps since the last spike at the first step, `[...]`, > 0.
      strict: as of `fire`.

    Returns:
      The spikes, `[T, ...]`, and the steps since the last spike at the step after them, `[...]`.
    """
    constants = lax.stop_gradient((potential, threshold))
    spikes = fire(*constants, surrogate, strict=strict)
    since = steps_since_spike(spikes, before)
    height = surrogate(since[:-1])
    return arrays.straight_through(spikes, height * (potential / threshold)), since[-1]


@partial(jax.custom_jvp, nondiff_argnums=(0, 1))
def _fire(surrogate: Surrogate, strict: bool, potential: Array, threshold: Array) -> Array:
    crossed = potential > threshold if strict else potential >= threshold
    return crossed.astype(potential.dtype)


@_fire.defjvp
def _fire_jvp(
    surrogate: Surrogate, strict: bool, primals: tuple[Array, Array], tangents: tuple[Array, Array]
) -> tuple[Array, Array]:
    potential, threshold = primals
    d_potential, d_threshold = tangents
    if surrogate.timed:
        raise UserError(
            "surrogate stdb looks back in time: use it in layers.Neurons, or with fire_over_time"
        )
    if surrogate.normalized:
        height = surrogate(potential / threshold - 1.0) / threshold
        d_distance = d_potential - d_threshold * potential / threshold
    else:
        height = surrogate(potential - threshold)
        d_distance = d_potential - d_threshold
    return _fire(surrogate, strict, potential, threshold), height * d_distance


def _one(x: Array) -> Array:
    return jnp.ones_like(x)


def _rectangle(x: Array) -> Array:
    return (jnp.abs(x) < 0.5).astype(x.dtype)


def _triangle(x: Array) -> Array:
    return jnp.maximum(0.0, 1.0 - jnp.abs(x))


def _lorentzian(x: Array) -> Array:
    return 1.0 / (1.0 + x * x)


def _hyperbola(x: Array) -> Array:
    return 1.0 / jnp.square(1.0 + jnp.abs(x))


def _exponential(x: Array) -> Array:
    return jnp.exp(-x)


def _logistic(x: Array) -> Array:
    return 4.0 * jax.nn.sigmoid(x) * jax.nn.sigmoid(-x)


# Those of a few operations, which other code may write out.
CURVES: Mapping[str, Derivative] = {
    "one": _one, "rectangle": _rectangle, "triangle": _triangle, "lorentzian": _lorentzian,
    "hyperbola": _hyperbola,
}  # fmt: skip
