"""Random numbers for start values and permutations, drawn by a handful of compiled programs.

JAX compiles a program for each shape that it draws, a quarter of a second each. Here one is
compiled for each power of two, and what is too much is cut off. That changes no number: an entry
depends on the key and its place alone.
"""

import math
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from jaxsnn.arrays import is_traced

__all__ = ["below", "bits", "normal", "uniform"]

FEWEST = 1024  # numbers that are drawn at least


def uniform(key: Array, shape: tuple[int, ...], low: float, high: float) -> Array:
    """Return `jax.random.uniform(key, shape, float32, low, high)`.

    >>> key = jax.random.key(0)
    >>> bool((uniform(key, (3,), -1.0, 1.0) == jax.random.uniform(key, (3,), None, -1, 1)).all())
    True
    """
    if _needs_shape(key):
        return jax.random.uniform(key, shape, jnp.float32, low, high)
    return _cut(_uniform(key, _enough(shape), low, high), shape)


def below(key: Array, shape: tuple[int, ...], count: int) -> Array:
    """Return whole numbers from 0 to `count - 1`, int32, all as likely up to 1 in 2^23 / count.

    One draw each, and a part of the program around it; `jax.random.randint` takes three and a
    remainder, which on a GPU are as many kernels more.

    >>> sorted(set(below(jax.random.key(0), (50,), 3).tolist()))
    [0, 1, 2]
    """
    drawn = jax.random.uniform(key, shape, jnp.float32)
    return jnp.floor(drawn * count).astype(jnp.int32)


def normal(key: Array, shape: tuple[int, ...], deviation: float = 1.0) -> Array:
    """Return `deviation * jax.random.normal(key, shape, float32)`."""
    if _needs_shape(key):
        return deviation * jax.random.normal(key, shape, jnp.float32)
    return _cut(_normal(key, _enough(shape)), shape, deviation)


def bits(key: Array, num: int) -> np.ndarray:
    """Return `jax.random.bits(key, (num,))`, uint32, on the host."""
    if _needs_shape(key):
        return np.asarray(jax.random.bits(key, (num,)))
    return np.asarray(_bits(key, _enough((num,))))[:num]


def _needs_shape(key: Array) -> bool:
    """Return whether numbers depend on the shape that is drawn, or are drawn inside a program."""
    return is_traced(key) or not jax.config.values["jax_threefry_partitionable"]


def _enough(shape: tuple[int, ...]) -> int:
    return max(FEWEST, 1 << (math.prod(shape) - 1).bit_length())


def _cut(drawn: Array, shape: tuple[int, ...], factor: float = 1.0) -> Array:
    kept = np.asarray(drawn)[: math.prod(shape)].reshape(shape)
    drawn = jax.device_put(kept * np.float32(factor))
    return drawn


@partial(jax.jit, static_argnums=1)
def _uniform(key: Array, num: int, low: float, high: float) -> Array:
    return jax.random.uniform(key, (num,), jnp.float32, low, high)


@partial(jax.jit, static_argnums=1)
def _normal(key: Array, num: int) -> Array:
    return jax.random.normal(key, (num,), jnp.float32)


@partial(jax.jit, static_argnums=1)
def _bits(key: Array, num: int) -> Array:
    return jax.random.bits(key, (num,))
