"""What all methods share: what they are given to train with, and what they return.

**The control.** A product was trained for longer than the dense network that it is compared with.
So every method has a second baseline, the row "dense control": the dense network trained on, until
it had as many epochs as the weights of the product (`control=False` leaves it out).
"""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import jax
import jax.numpy as jnp
import optax

from jaxsnn import metrics, train
from jaxsnn.compress import Phase
from jaxsnn.data import Dataset
from jaxsnn.network import Network
from jaxsnn.train import Fit, Task

__all__ = ["CONTROL", "Result", "Trained", "Trainer"]

CONTROL = "dense control"  # name of the row, and of the phase


@dataclass(frozen=True)
class Trained:
    """A network with the task that it was trained for, which says T and encoding."""

    network: Network
    task: Task


@dataclass(frozen=True)
class Result:
    """What a method returns.

    Attributes:
      network: the product.
      task: what the product was trained for last; its T may be shorter than the one given.
      networks: name of a row -> network and task, the product last, of all that was tried.
      report: one row for each of them, measured on the test images.
      found: what the method found on its way: scores, widths, thresholds, stages; JSON types.
    """

    network: Network
    task: Task
    networks: Mapping[str, Trained]
    report: metrics.Comparison
    found: Mapping[str, Any] = field(default_factory=dict)

    @staticmethod
    def of(
        networks: Mapping[str, Trained],
        data: Dataset,
        found: Mapping[str, Any] | None = None,
        *,
        seed: int | None = None,
        extra: Mapping[str, Mapping[str, Any]] | None = None,
        held_out: bool = False,
    ) -> "Result":
        """Measure networks on the test images; the last one is the product.

        Args:
          networks: name of a row -> network and task.
          data: whose test images are taken.
          found: what the method found on its way.
          seed: of the run.
          extra: name of a row -> facts that the method adds to it (`metrics.Report.extra`).
          held_out: whether nothing was chosen on the held-out images, which are a second test set
            then: if there are some, each row has `held_out_accuracy` and `held_out_samples`.
        """
        rows = [
            metrics.measure(each.task, each.network, data.test, name=name, seed=seed)
            for name, each in networks.items()
        ]
        more = {name: dict(facts) for name, facts in (extra or {}).items()}
        if samples := len(data.validation.labels) if held_out else 0:
            for name, each in networks.items():
                right = train.evaluate(each.task, each.network, data.validation).accuracy
                facts = {"held_out_accuracy": right, "held_out_samples": samples}
                more[name] = more.get(name, {}) | facts
        rows = [replace(row, extra=more.get(row.name, {})) for row in rows]
        last = list(networks.values())[-1]
        report = metrics.Comparison(tuple(rows))
        return Result(last.network, last.task, dict(networks), report, found or {})


@dataclass(frozen=True)
class Trainer:
    """Train phases of a method on one data set: what stays the same from phase to phase.

    >>> from jaxsnn import data, train
    >>> trainer = Trainer(train.fit, data.load("digits", limit=100), batch_size=30, seed=0)
    >>> trainer.steps(epochs=2)  # 90 training images
    6

    Attributes:
      fit: `train.fit`, or one that resumes.
      data: trained on, with its held-out images.
      batch_size: samples of a step.
      seed: of everything random.
    """

    fit: Fit
    data: Dataset
    batch_size: int
    seed: int

    def __call__(
        self,
        name: str,
        task: Task,
        phase: Phase | optax.GradientTransformation,
        net: Network,
        epochs: int,
        *,
        batch_size: int | None = None,
    ) -> Network:
        """Train a network for some epochs; with none it is only begun and finished."""
        return self.fit(
            task, phase, net, self.data.train, epochs=epochs,
            batch_size=batch_size or self.batch_size, validation=self.data.validation,
            seed=self.seed, name=name,
        )  # fmt: skip

    def steps(self, epochs: float, batch_size: int | None = None) -> int:
        """Return the number of steps of some epochs, at least 1."""
        size = batch_size or self.batch_size
        return max(round(epochs * (len(self.data.train.labels) // size)), 1)

    def cosine(self, rate: float, epochs: int, batch_size: int | None = None) -> optax.Schedule:
        """Return step sizes that fall from `rate` to 0 along a cosine over some epochs."""
        steps = float(self.steps(epochs, batch_size))
        with jax.ensure_compile_time_eval():
            # Arrays are arguments: phases with other rates and epochs share a program.
            return optax.cosine_decay_schedule(jnp.asarray(rate), jnp.asarray(steps))
