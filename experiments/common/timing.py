"""How long inference takes, two networks in turns."""

import time
from statistics import median

import jax.numpy as jnp
import numpy as np

from jaxsnn import train
from jaxsnn.methods import Trained


def timed(
    before: Trained, after: Trained, samples: np.ndarray, rounds: int = 5
) -> tuple[float, float]:
    """Return how long inference takes, median milliseconds a sample, compiling left out."""
    seconds: tuple[list[float], list[float]] = [], []
    device = jnp.asarray(samples)
    for turn in range(-1, rounds):  # the first compiles
        for each, times in zip((before, after), seconds, strict=True):
            start = time.perf_counter()
            train.predict(each.task, each.network, device).block_until_ready()
            times += [time.perf_counter() - start] * (turn >= 0)
    first, second = (1e3 * median(times) / len(samples) for times in seconds)
    return first, second
