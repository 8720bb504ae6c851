"""Each direction of common convolutions: XLA's operations beside oneDNN's, and which is chosen."""

from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from rich.console import Console

from experiments.bench.contenders import Contender
from experiments.bench.rounds import Effort
from experiments.bench.studies.timing import in_turns
from experiments.bench.tables import new_table
from jaxsnn import native
from jaxsnn.layers.convolution import convolve
from jaxsnn.native import convolutions as onednn

# Samples, side of the images, channels in and out, side of the kernel, stride.
SHAPES = (
    (640, 28, 1, 15, 5, 1),
    (640, 12, 15, 40, 5, 1),
    (64, 32, 3, 64, 3, 1),
    (64, 32, 16, 16, 3, 1),
    (64, 32, 64, 64, 3, 1),
    (64, 16, 128, 128, 3, 1),
    (64, 8, 256, 256, 3, 1),
    (64, 4, 512, 512, 3, 1),
    (64, 16, 128, 256, 3, 2),
    (64, 16, 64, 128, 1, 2),
)
DIRECTIONS = ("forward", "to images", "to kernel")

Functions = dict[str, Callable[..., Any]]


def directions(x: jax.Array, kernel: jax.Array, wave: jax.Array, stride: int) -> Functions:
    """Return a compiled function of each direction, as the layers have them now.

    `wave` is an error of the outputs; it is an argument, for of a constant one XLA knows the sums.
    """
    conv = partial(convolve, stride=stride)
    functions: Functions = {
        "forward": lambda x, k, wave: conv(x, k),
        "to images": lambda x, k, wave: jax.vjp(lambda x: conv(x, k), x)[1](wave),
        "to kernel": lambda x, k, wave: jax.vjp(lambda k: conv(x, k), k)[1](wave),
    }
    return {name: jax.jit(f).lower(x, kernel, wave).compile() for name, f in functions.items()}


def convolutions(
    console: Console, peers: dict[str, Contender], effort: Effort, seed: int
) -> list[dict[str, Any]]:
    """Time the three directions of each shape both ways, in turns, on spikes (one in five)."""
    del peers
    random = np.random.default_rng(seed)
    table = new_table(
        f"Milliseconds, XLA / oneDNN ({native.describe()})", "images, kernel", *DIRECTIONS
    )
    records = []
    for samples, side, channels, outputs, size, stride in SHAPES:
        effort.say(f"convolution {side}x{side}x{channels}")
        spikes = random.random((samples, side, side, channels)) < 0.2
        x = jnp.asarray(spikes, jnp.float32)
        kernel = jnp.asarray(random.standard_normal((size, size, channels, outputs)), jnp.float32)
        shape = jax.eval_shape(partial(convolve, stride=stride), x, kernel).shape
        arrays = x, kernel, jnp.asarray(random.standard_normal(shape), jnp.float32)
        ways = {"oneDNN": directions(*arrays, stride)}
        with onednn.off():
            ways["XLA"] = directions(*arrays, stride)
        row = [f"{samples}x{side}x{side}x{channels}, {size}x{size} to {outputs}, step {stride}"]
        for direction in DIRECTIONS:
            calls: dict[str, Callable[[], Any]] = {
                way: partial(_call, functions[direction], *arrays)
                for way, functions in ways.items()
            }
            ms = {way: 1e3 * seconds for way, seconds in in_turns(calls, effort).items()}
            row.append(f"{ms['XLA']:.3g} / {ms['oneDNN']:.3g}")
            records.append({"shape": row[0], "direction": direction, "ms": ms})
        table.add_row(*row)
    console.print(table)
    return records


def _call(function: Callable[..., Any], *arrays: jax.Array) -> None:
    jax.block_until_ready(function(*arrays))
