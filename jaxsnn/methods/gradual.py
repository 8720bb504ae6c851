"""Gradual magnitude pruning: prune while training, along a ramp; the rival everybody asks for.

Zhu and Gupta 2017, "To prune, or not to prune: exploring the efficacy of pruning for model
compression", https://arxiv.org/abs/1710.01878. From a trained network, train on; every `dt` updates
from `t_0` on, `n` times, keep the share `1 - s_t` of the weights of each layer that are largest,

    s_t = s_f (1 - (1 - (t - t_0) / (n dt))^3)        t = t_0, t_0 + dt, ..., t_0 + n dt   (Eq. 1)

with the final sparsity `s_f`. All others are zero; behind the ramp the masks stay, and what is left
trains on (`compress.gradually_pruned`).

Where the sources differ:
- The paper also prunes from the first step of a training; ours starts from a trained network, as
  its rivals do, and the initial sparsity is 0.
- The paper gives each layer the same sparsity, but leaves some dense; ours spreads one sparsity as
  `allocation` says, as on the ADMM page, so that both keep as many weights in each layer.
"""

from typing import Annotated, Literal

import optax

from jaxsnn import train
from jaxsnn.compress.phase import gradually_pruned
from jaxsnn.data import Dataset
from jaxsnn.errors import UserError
from jaxsnn.methods.admm import sparsities
from jaxsnn.methods.result import CONTROL, Result, Trained, Trainer
from jaxsnn.network import Network
from jaxsnn.options import PerLayer, Range, Whole, checked
from jaxsnn.train import Fit, Task

__all__ = ["Options", "compress", "prune", "ramp"]


@checked
class Options:
    """Options of gradual magnitude pruning."""

    sparsity: Annotated[PerLayer, Range(0, 1, open_high=True)] = 0.9
    """Share of the connections to remove: in all, or of each layer."""
    allocation: Literal["root", "uniform"] = "root"
    """How to spread one sparsity: root (a layer keeps as the root of its size) or uniform."""
    epochs: Annotated[int, Whole(1)] = 6
    """Epochs of training on, ramp included."""
    begin: Annotated[float, Range(0, 1, open_high=True)] = 0.0
    """Share of the steps before the first pruning."""
    end: Annotated[float, Range(0, 1, open_low=True)] = 0.5
    """Share of the steps at which the final sparsity is reached."""
    every: Annotated[int, Whole(1)] = 20
    """Steps between two prunings."""
    learning_rate: Annotated[float, Range(0, float("inf"), open_low=True, open_high=True)] = 1e-3
    """First step size of Adam; it falls to 0 along a cosine."""
    control: bool = True
    """Train the dense network on for as many epochs, too, as the row "dense control"."""
    batch_size: Annotated[int, Whole(1)] = 100
    """Samples of one training step."""
    seed: Annotated[int, Whole(0, 2**31 - 1)] = 0
    """Seed of everything random."""

    def check(self) -> None:
        """Refuse a ramp that ends before it begins."""
        if self.end <= self.begin:
            raise UserError(f"end must be after begin {self.begin}, found {self.end}")


DEFAULTS = Options()


def ramp(options: Options, num_steps: int) -> tuple[int, int, int]:
    """Return first pruning, last pruning and distance of two, in steps of a training.

    The last one is within the training, and a whole number of distances behind the first. A short
    training is pruned at every step, or at once.

    >>> ramp(Options(begin=0.1, end=0.5, every=20), 200)
    (20, 100, 20)
    """
    begin = min(round(options.begin * num_steps), max(num_steps - 2, 0))
    length = max(min(round(options.end * num_steps), num_steps - 1) - begin, 1)
    every = min(options.every, length)
    return begin, begin + length // every * every, every


def prune(
    net: Network,
    task: Task,
    data: Dataset,
    options: Options = DEFAULTS,
    *,
    fit: Fit = train.fit,
    name: str = "gradual",
) -> Network:
    """Train on while the weights become sparser and sparser, then with the last masks.

    Args:
      net: a trained network.
      task: what it is trained to do.
      data: trained on.
      options: sparsity, ramp, epochs.
      fit: trains.
      name: of the phase.

    Raises:
      UserError: if a layer would be left without any weight, or a pattern matches no layer.
    """
    trainer = Trainer(fit, data, options.batch_size, options.seed)
    begin, end, every = ramp(options, trainer.steps(options.epochs))
    phase = gradually_pruned(
        optax.adam(trainer.cosine(options.learning_rate, options.epochs)),
        sparsities(net, options.sparsity, options.allocation),
        begin=begin,
        end=end,
        every=every,
    )
    return trainer(name, task, phase, net, options.epochs)


def compress(
    net: Network, task: Task, data: Dataset, options: Options = DEFAULTS, *, fit: Fit = train.fit
) -> Result:
    """Prune a trained network gradually.

    The arguments are those of `prune`; the networks of the result are "dense", "dense control" and
    "compressed".

    Example:
      >>> from jaxsnn import data, models
      >>> digits = data.load("digits", limit=100)
      >>> net = models.build("16-10", digits.shape, seed=0)
      >>> task = train.Task(digits.inputs(timesteps=2))
      >>> found = compress(net, task, digits, Options(sparsity=0.5, epochs=1, batch_size=30))
      >>> {row.name: round(row.density, 2) for row in found.report.rows}
      {'dense': 1.0, 'dense control': 1.0, 'compressed': 0.5}
    """
    networks = {"dense": net}
    if options.control:
        trainer = Trainer(fit, data, options.batch_size, options.seed)
        adam = optax.adam(trainer.cosine(options.learning_rate, options.epochs))
        networks[CONTROL] = trainer(CONTROL, task, adam, net, options.epochs)
    networks["compressed"] = prune(net, task, data, options, fit=fit)
    trained = {name: Trained(each, task) for name, each in networks.items()}
    return Result.of(trained, data, seed=options.seed)
