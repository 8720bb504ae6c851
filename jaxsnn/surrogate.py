"""Spike functions: the exact step forward, a named derivative backward.

A spike is the Heaviside step of the membrane potential `u` at the threshold `theta`,

    o = 1[u > theta]   (strict)      or      o = 1[u >= theta]

and its derivative, zero almost everywhere, is replaced by `h`, a function of the distance to the
threshold. The distance is `z = u - theta`, or the normalised `z = u / theta - 1`:

    do/du = h(z)             do/dtheta = -h(z)              (plain)
    do/du = h(z) / theta     do/dtheta = -h(z) u / theta^2  (normalised)

A `Surrogate` compares by value, so two equal ones share a compiled program.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import jax
import jax.numpy as jnp
from jax import Array

from jaxsnn.arrays import check_range

Derivative = Callable[[Array], Array]  # distance to the threshold in widths -> height, peak 1


@dataclass(frozen=True)
class Surrogate:
    """Hold `h(z) = peak * shape(z / width)`, the stand-in for a step's derivative.

    Attributes:
      shape: the curve in units of its width, with height 1 at 0.
      width: its width in units of `z`, > 0.
      peak: its height at the threshold.
      normalized: whether `z = u / theta - 1` instead of `u - theta`.
    """

    shape: Derivative
    width: float = 1.0
    peak: float = 1.0
    normalized: bool = False

    def __post_init__(self):
        check_range("surrogate width", self.width, 0.0, float("inf"), open_low=True, open_high=True)
        check_range("surrogate peak", self.peak, 0.0, float("inf"), open_high=True)

    def __call__(self, distance: Array) -> Array:
        """Return `h(distance)`, elementwise."""
        return self.peak * self.shape(distance / self.width)


def rectangle(width: float = 1.0) -> Surrogate:
    """Return `h(z) = 1/a * 1[|z| < a/2]`: unit area, exactly 0 on its edges.

    Wu et al., "Spatio-temporal backpropagation" (2018); the ADMM paper's codes use `a = 1` (MNIST,
    CIFAR) and `a = 0.5` (N-MNIST).
    """
    return Surrogate(_rectangle, width, 1.0 / width if width else 0.0)


def triangle(
    width: float = 1.0, peak: float | None = None, *, normalized: bool = False
) -> Surrogate:
    """Return `h(z) = peak * max(0, 1 - |z|/a)`; `peak = 1/a` (unit area) unless given.

    QP-SNN's code is `triangle(a)`, its paper's appendix D `triangle(a, 1.0)` (the same at a = 1).
    Rathi et al. (2020), Chowdhury et al. (2021) and Spike-Thrift use
    `triangle(1.0, 0.3, normalized=True)`.
    """
    if peak is None:
        peak = 1.0 / width if width else 0.0
    return Surrogate(_triangle, width, peak, normalized)


def atan(alpha: float = 2.0) -> Surrogate:
    """Return `h(z) = (alpha/2) / (1 + (pi alpha z / 2)^2)`: unit area.

    Fang et al., "Incorporating learnable membrane time constant" (2021); snnTorch's default.
    """
    return Surrogate(_lorentzian, 2.0 / (jnp.pi * alpha) if alpha else 0.0, alpha / 2.0)


def fast_sigmoid(slope: float = 25.0) -> Surrogate:
    """Return `h(z) = 1 / (1 + slope |z|)^2`: peak 1 (Zenke and Ganguli, "SuperSpike", 2018)."""
    return Surrogate(_hyperbola, 1.0 / slope if slope else 0.0)


def sigmoid(slope: float = 4.0) -> Surrogate:
    """Return `h(z) = slope s (1 - s)`, `s = 1/(1 + e^(-slope z))`: the logistic's derivative."""
    return Surrogate(_logistic, 1.0 / slope if slope else 0.0, slope / 4.0)


def straight_through() -> Surrogate:
    """Return `h(z) = 1`: the gradient passes the step untouched (Bengio et al., 2013)."""
    return Surrogate(jnp.ones_like)


def custom(derivative: Derivative, *, normalized: bool = False) -> Surrogate:
    """Return the surrogate with `h = derivative`, any elementwise function of the distance.

    Give a module-level function, not a lambda made anew at each call, so that equal surrogates
    compare equal and nothing is compiled twice.
    """
    return Surrogate(derivative, normalized=normalized)


def fire(potential: Array, threshold: Array, surrogate: Surrogate, *, strict: bool = True) -> Array:
    """Return the spikes, 0 or 1 in the dtype of `potential`, with the surrogate's derivative.

    Args:
      potential: membrane potential `u`, any shape.
      threshold: `theta` > 0, broadcastable to `potential`.
      surrogate: the derivative's stand-in.
      strict: spike where `u > theta`; otherwise where `u >= theta`.
    """
    return _fire(surrogate, strict, potential, threshold)


@partial(jax.custom_jvp, nondiff_argnums=(0, 1))
def _fire(surrogate, strict, potential, threshold):
    crossed = potential > threshold if strict else potential >= threshold
    return crossed.astype(potential.dtype)


@_fire.defjvp
def _fire_jvp(surrogate, strict, primals, tangents):
    potential, threshold = primals
    d_potential, d_threshold = tangents
    if surrogate.normalized:
        height = surrogate(potential / threshold - 1.0) / threshold
        d_distance = d_potential - d_threshold * potential / threshold
    else:
        height = surrogate(potential - threshold)
        d_distance = d_potential - d_threshold
    return _fire(surrogate, strict, potential, threshold), height * d_distance


def _rectangle(x):
    return (jnp.abs(x) < 0.5).astype(x.dtype)


def _triangle(x):
    return jnp.maximum(0.0, 1.0 - jnp.abs(x))


def _lorentzian(x):
    return 1.0 / (1.0 + x * x)


def _hyperbola(x):
    return 1.0 / jnp.square(1.0 + jnp.abs(x))


def _logistic(x):
    return 4.0 * jax.nn.sigmoid(x) * jax.nn.sigmoid(-x)
