"""When a training has diverged: numbers that are none, or chance with weights out of all bounds.

With `w` the weights after an epoch and `w_0` those at the start of the phase, it has if

    the loss or a weight is not finite, or
    accuracy <= p + 3 sqrt(p (1 - p) / N)    and    max |w| > 10^4 max(max |w_0|, 0.01)

for a leaf `w` with two axes or more, `p` the share of the most frequent of `N` labels: what naming
one class would give, and three standard deviations. A learning rate that is far too large ends so,
with a loss that stays finite, for spikes are bounded. Neither half alone is a divergence: a network
may learn late, and weights in front of a batch normalisation may grow.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import jax.numpy as jnp
import numpy as np
from jax import Array

from jaxsnn import tree
from jaxsnn.arrays import is_traced
from jaxsnn.errors import UserError
from jaxsnn.train.checkpoint import Checkpoints

__all__: list[str] = []  # nothing here is promised to users

Tree = Any

GROWTH = 1e4  # times its start that a weight cannot be and still be trained; ours
LEAST = 1e-2  # a start that is smaller counts as this
DEVIATIONS = 3.0


class Diverged(UserError):
    """Report a training that has left all bounds; the last good checkpoint stands."""


@dataclass(frozen=True)
class Watch:
    """What a phase must not come to; looks after each epoch, and before its state is saved.

    Attributes:
      phase: its name, for messages.
      checkpoints: where good states are, for messages.
      start: name of a leaf -> its largest absolute value at the start.
      chance: accuracy that is no better than chance, in [0, 1].
    """

    phase: str
    checkpoints: Checkpoints | None
    start: Mapping[str, np.ndarray]
    chance: float

    @staticmethod
    def over(phase: str, checkpoints: Checkpoints | None, params: Tree, labels: Any) -> "Watch":
        """Return the watch over a phase that starts from these weights on these labels."""
        return Watch(phase, checkpoints, _largest_on_host(params), float(chance(labels)))

    def check_loss(self, epoch: int, figures: Mapping[str, float]) -> None:
        """Raise if the loss is no finite number; in the middle of an epoch, too."""
        if not math.isfinite(figures["loss"]):
            raise self._error(epoch, figures, "the loss is not finite")

    def check(self, epoch: int, figures: Mapping[str, float], params: Tree) -> None:
        """Raise if the state after an epoch is that of a training that has diverged.

        Args:
          epoch: its number, from 0.
          figures: means over the epoch: loss, accuracy, spike_rate.
          params: the weights after it.

        Raises:
          Diverged: naming the epoch, its figures, and the last good checkpoint.
        """
        found = _largest_on_host(params)
        if broken := [name for name, each in found.items() if not np.isfinite(each)]:
            raise self._error(epoch, figures, f"{broken[0]} is not finite")
        if figures["accuracy"] > self.chance:
            return
        ratios = growth(self.start, found, params)
        name = max(ratios, key=lambda name: ratios[name], default=None)
        if name is not None and ratios[name] > GROWTH:
            what = f"no better than chance, and {name} has grown by a factor of {ratios[name]:.2g}"
            raise self._error(epoch, figures, what)

    def _error(self, epoch: int, figures: Mapping[str, float], what: str) -> Diverged:
        good = "nothing was saved"
        if self.checkpoints is not None:
            last = self.checkpoints.latest()
            place = f"epoch {last} in {self.checkpoints.directory}" if last else "the phase before"
            good = f"the last good checkpoint is {place}"
        facts = ", ".join(
            f"{name.replace('_', ' ')} {figures[name]:.4g}"
            for name in ("loss", "accuracy", "spike_rate")
        )
        return Diverged(
            f"phase {self.phase!r} diverged in epoch {epoch + 1}: {what} ({facts}); {good}; "
            "lower the learning rate or the penalty"
        )


def has_diverged(start: Tree, params: Tree, accuracy: Array, labels: Array) -> Array:
    """Return whether a training has diverged, for use inside a compiled program, bool `[]`.

    Args:
      start: the weights at its start.
      params: those at its end.
      accuracy: over the last epoch, `[]`.
      labels: of its samples, `[N]`.
    """
    now = largest(params)
    finite = jnp.all(jnp.isfinite(jnp.stack(list(now.values()))))
    ratios = growth(largest(start), now, params)
    grown = jnp.any(jnp.stack([each > GROWTH for each in ratios.values()] or [jnp.bool(False)]))
    found: Array = ~finite | (grown & (accuracy <= chance(labels)))
    return found


def largest(params: Tree) -> dict[str, Array]:
    """Return name -> largest absolute value of each leaf, NaN where one is."""
    leaves = tree.named_leaves(params).items()
    return {name: jnp.max(jnp.abs(leaf), initial=0).astype(jnp.float32) for name, leaf in leaves}


def _largest_on_host(params: Tree) -> dict[str, np.ndarray]:
    """Do what `largest` does without a program to compile."""
    leaves = tree.named_leaves(params).items()
    found = {name: np.max(np.abs(np.asarray(leaf)), initial=0) for name, leaf in leaves}
    return {name: each.astype(np.float32) for name, each in found.items()}


def growth(start: Mapping[str, Any], found: Mapping[str, Any], params: Tree) -> dict[str, Array]:
    """Return name -> by what factor the largest entry has grown, of leaves with several axes."""
    return {
        name: found[name] / jnp.maximum(start[name], LEAST)
        for name, leaf in tree.named_leaves(params).items()
        if jnp.ndim(leaf) > 1
    }


def chance(labels: Any) -> Any:
    """Return the accuracy that is no better than chance: the module's right-hand side.

    >>> float(chance(np.asarray([0, 0, 1, 1])))
    1.25
    """
    arrays: Any = jnp if is_traced(labels) else np
    ordered = arrays.sort(arrays.asarray(labels))
    ends = (arrays.searchsorted(ordered, ordered, side=side) for side in ("left", "right"))
    first, last = ends
    count = len(ordered)
    share = (last - first).max() / count
    return share + DEVIATIONS * arrays.sqrt(share * (1 - share) / count)
