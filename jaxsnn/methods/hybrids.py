"""How spatio-temporal pruning trains: a layout as ANN and spiking network, then at each T.

The ANN descends with SGD whose step falls tenfold after each third of its epochs, a spiking network
with Adam whose step is halved every 5 epochs (Chowdhury et al. 2021, arXiv 2104.12528, at second
hand); `conversion` has the other ways, and the options of all.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from statistics import mean
from typing import Any

import optax

from jaxsnn import metrics, train
from jaxsnn.data import Split
from jaxsnn.methods import conversion
from jaxsnn.methods.measuring import accuracies
from jaxsnn.methods.result import Trained, Trainer
from jaxsnn.network import Network

__all__ = ["Direct", "adam", "controls", "trained", "tuned"]


def trained(
    name: str, net: Network, task: train.Task, trainer: Trainer, options: conversion.Options
) -> conversion.Hybrid:
    """Train a layout as an ANN and as a spiking network: phases "NAME ann" and "NAME tune".

    Args:
      name: of the phases.
      net: the layout, see `conversion.compress`.
      task: of the spiking network.
      trainer: trains a phase.
      options: of the training.
    """
    rate, epochs = options.ann_learning_rate, options.ann_epochs
    thirds = _each(max(epochs // 3, 1), epochs)
    sgd = conversion.ann_optimizer(trainer, options, rate, epochs, shares=thirds, nesterov=False)
    tuner = adam(trainer, options, options.tune_epochs)
    return conversion.hybrid(name, net, task, trainer, options, ann_sgd=sgd, tuner=tuner)


def tuned(
    name: str, start: Trained, trainer: Trainer, options: conversion.Options, epochs: int
) -> Trained:
    """Train a spiking network on for some epochs, its thresholds and leaks constant."""
    optimizer = adam(trainer, options, epochs)
    return replace(start, network=trainer(name, start.task, optimizer, start.network, epochs))


def adam(
    trainer: Trainer, options: conversion.Options, epochs: int
) -> optax.GradientTransformation:
    """Return Adam with weight decay in the gradient; the step is halved every 5 epochs."""
    shares = _each(5, epochs)
    rate = conversion.falling(trainer, options, options.learning_rate, epochs, shares, 0.5)
    return optax.chain(optax.add_decayed_weights(options.weight_decay), optax.adam(rate))


def _each(every: int, epochs: int) -> tuple[float, ...]:
    """Return the shares of the epochs at which a step falls that falls every so many epochs."""
    return tuple(epoch / epochs for epoch in range(every, epochs, every))


# ----------------------------------------------------------------------------------------------
# fewer time steps at once, in place of step by step


@dataclass(frozen=True)
class Direct:
    """A network trained at one T at once, the control of that trained over more and fewer before.

    Attributes:
      timesteps: T.
      names: of the rows of the gradual network and of this one.
      direct: the network and its task.
      epochs: of each of both as a spiking network.
    """

    timesteps: int
    names: tuple[str, str]
    direct: Trained
    epochs: int

    def facts(
        self, start: Trained, rows: Mapping[str, metrics.Report], test: Split, draws: int
    ) -> dict[str, Any]:
        """Return the accuracies at this T; not trained here is the network of T0, `start`."""
        gradual, direct = (rows[name].extra["mean_accuracy"] for name in self.names)
        untrained = replace(self.direct, network=start.network)
        return {
            "timesteps": self.timesteps,
            "gradual": gradual,
            "direct": direct,
            "not trained": mean(accuracies(untrained, test, draws)),
            "epochs": self.epochs,
        }


def controls(
    converted: Network,
    at: Mapping[int, Trained],
    last: int,
    trainer: Trainer,
    options: conversion.Options,
    *,
    epochs: int,
    every: bool,
) -> list[Direct]:
    """Train a converted network at the T of the product; or at every T, that of the product last.

    Args:
      converted: the network that the gradual ones began with, not tuned.
      at: T -> gradual network of each stage, T0 first.
      last: T of the product.
      trainer: trains a phase "direct 75" for each number of steps.
      options: of the training.
      epochs: of a stage.
      every: whether the other stages have a control, too; that of T0 never needs one.
    """
    found = []
    for stage, (steps, gradual) in enumerate(at.items()):
        if steps == last or (stage and every):
            total = options.tune_epochs + stage * epochs
            begin = Trained(converted, gradual.task)
            direct = tuned(f"direct {steps}", begin, trainer, options, total)
            names = ("short", "direct") if steps == last else (f"T {steps}", f"direct T {steps}")
            found.append(Direct(steps, names, direct, total))
    return sorted(found, key=lambda each: each.timesteps == last)
