"""The tape: what one pass through a network carries along, and the record that it leaves."""

from collections.abc import Mapping
from typing import NamedTuple

import jax
from jax import Array

from jaxsnn.neurons import Membrane


class Activity(NamedTuple):
    """Record what a network did on a batch, summed over time.

    The one source of spike-count losses, calibration scores and operation counts. Under `jit`,
    what is not used is not computed.
    """

    spikes: dict[str, Array]  # layer -> [B, ...] spikes of each neuron
    potential: dict[str, Array]  # layer -> [B, ...] potential before reset
    events: dict[str, Array]  # kernel -> [B, ...] events at each input, counted before pooling
    magnitude: dict[str, Array]  # layer -> [B, ...] absolute value of the potential before reset
    pooled: dict[str, Array]  # max pooling -> [B, H', W', C] spikes that it lets through
    # Of watched neurons only (`layers.watch`), not summed: layer -> [T, B, ...] input current, and
    # spikes. A tape brings its own; nobody writes on the defaults.
    current: dict[str, Array] = {}
    trains: dict[str, Array] = {}
    # Kernels behind an average pooling only: kernel -> [B, ...] steps at which an input is not 0.
    arrivals: dict[str, Array] = {}


class Tape:
    """Carry one pass through a network: its mode, its randomness, and the record of it.

    Attributes:
      train: whether dropout acts and norms use the statistics of the batch.
      axis: the mapped axis over which the batch is spread, if any.
      membranes: layer name -> membrane; read where a pass begins, written where it ends.
      activity: the record.
    """

    def __init__(
        self,
        *,
        train: bool,
        key: Array | None,
        membranes: Mapping[str, Membrane],
        axis: str | None = None,
    ):
        self.train = train
        self.axis = axis
        self.membranes = dict(membranes)
        self.activity = Activity({}, {}, {}, {}, {}, {}, {}, {})
        self._key = key
        self._draws = 0

    def next_keys(self, batch: int) -> Array:
        """Return a key for each sample, `[B]`, that no other layer of this pass gets."""
        if self._key is None:
            raise ValueError("this network draws random numbers in training: pass key=")
        self._draws += 1
        keys = jax.random.split(self._key, batch) if self._key.ndim == 0 else self._key
        return jax.vmap(jax.random.fold_in, (0, None))(keys, self._draws)
