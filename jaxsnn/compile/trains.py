"""Spike trains of neurons whose current never changes, as comparisons.

With a constant input a neuron's whole train follows from one number, its weighted sum. At each step
it fires for the sums in some intervals; most often from a certain sum on. Their ends are found here
by trying every sum, and C compares with them in place of running the neuron.
"""

import numpy as np

from jaxsnn.compile.plan import Weigh

__all__ = ["ends_of_trains"]

MOST = 4  # comparisons a step that are still cheaper than the neuron


def ends_of_trains(
    step: Weigh, factors: np.ndarray, constant: np.ndarray, largest: int, timesteps: int
) -> list[list[np.ndarray]] | None:
    """Return for each step the sums at which the neurons begin or cease to fire.

    Args:
      step: a layer that spikes.
      factors: int64 `[O]`: of the sums.
      constant: int64 `[O]`: added to the current at each step.
      largest: no sum is further from 0; below 2**15.
      timesteps: of the trains.

    Returns:
      For each step int64 arrays `[O]`: a neuron fires if its sum has reached an odd number of them;
      `largest + 1` is never reached. None if there are too many.
    """
    sums = np.arange(-largest, largest + 1)[:, None]
    drive = (sums * factors << step.shift) + constant
    u = np.zeros_like(drive)
    ends: list[list[np.ndarray]] = []
    for _ in range(timesteps):
        on = u >= step.neurons.level
        u = _rest(step, u, on) + drive
        fires = on if step.neurons.fires_first else u >= step.neurons.level
        changes = np.diff(fires, axis=0, prepend=False)
        most = int(changes.sum(0).max())
        where = np.where(changes, sums, largest + 1)
        ends.append(list(np.sort(where, 0)[:most]))
        if sum(map(len, ends)) > MOST * timesteps:
            return None
    return ends


def _rest(step: Weigh, u: np.ndarray, on: np.ndarray) -> np.ndarray:
    n, theta = step.neurons, step.neurons.theta * on
    if n.reset == "soft":
        u = u - theta
    rested = n.keep * u + ((n.factor * u) >> n.right)
    if n.reset == "hard":
        rested = np.where(on, 0, rested)
    elif n.reset == "soft_undecayed":
        rested = rested - theta
    return np.asarray(rested)
