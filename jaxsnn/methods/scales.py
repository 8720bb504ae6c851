"""One factor on all thresholds of a converted network, chosen on held-out images.

Thresholds of the largest currents are right for many time steps. With few, a lower one lets spikes
reach the read-out in time, at the price of rates that are clipped; which is best depends on the
network and on T. So some factors are tried, and none of them sees a test image.
"""

from collections.abc import Callable, Sequence
from typing import Any

from jaxsnn import train
from jaxsnn.data import Dataset, Split
from jaxsnn.network import Network

__all__ = ["best_scale", "held_out"]


def held_out(data: Dataset) -> Split:
    """Return the images on which a method chooses: those held out; the training's without any."""
    return data.validation if len(data.validation.labels) else data.train


def best_scale(
    make: Callable[[float], Network],
    scales: Sequence[float],
    task: train.Task,
    data: Dataset,
    *,
    seed: int = 0,
) -> tuple[Network, list[dict[str, Any]]]:
    """Return the network of the scale that is right most often on held-out images.

    Args:
      make: scale -> converted network, not tuned.
      scales: to try; of equal ones the first is taken. A single one is taken as it is.
      task: of the spiking network.
      data: with held-out images.
      seed: of random encodings.

    Returns:
      The network, and for each scale `scale`, `accuracy` (None of a single one) and `taken`.
    """
    nets = [make(scale) for scale in scales]
    split, found = held_out(data), [0.0] * len(nets)
    if len(nets) > 1:
        found = [train.evaluate(task, net, split, seed=seed).accuracy for net in nets]
    best = found.index(max(found))
    tried = [
        {"scale": scale, "accuracy": accuracy if len(nets) > 1 else None, "taken": i == best}
        for i, (scale, accuracy) in enumerate(zip(scales, found, strict=True))
    ]
    return nets[best], tried
