"""The network of `older.safetensors`, a packed file of version 2 as jaxsnn 0.2 wrote it."""

from pathlib import Path

import jax.numpy as jnp
import numpy as np

from jaxsnn import models, tree
from jaxsnn.inputs import Inputs
from jaxsnn.neurons import LIF

PATH = Path(__file__).with_name("older.safetensors")
INPUTS = Inputs((6, 6, 2), 3, mean=(0.5, 0.25), std=(0.25, 0.5))
METADATA = {"name": "older", "accuracy": "0.5"}


def network():
    """Return a network of every kind of leaf: a bitmap, gaps, patterns, floats, other types."""
    net = models.build("4C3-AP2-8B3M2-12R-6-V3", (6, 6, 2), LIF(0.5, 0.75), norm=True, seed=0)

    def numbers(name, leaf):
        at = np.arange(leaf.size)
        values = ((at * 7919 + len(name)) % 31 - 15) / 8
        if name.endswith("kernel"):
            some = {4: 3, 2: 17}[leaf.ndim]
            values = np.where(at % some == 0, values, 0)
        else:
            values = 1 + (at * at + len(name)) % 37 / 64
        return jnp.asarray(values.reshape(leaf.shape), leaf.dtype)

    params = tree.map_named(numbers, net.params)
    return net.replace(params=params)
