"""A dense spiking network in little time: an ANN first, one time step then, several at the end.

What others found for ANNs (Jordan 2024, https://arxiv.org/abs/2404.00498), with what is particular
to spikes:

- **Spikes by and by**: an ANN of the same layers costs as much as one time step, and its gradient
  is no stand-in; so the first epochs, `ann_epochs`, are of rectified units, whose weights and norms
  the spiking network takes over. With one time step a neuron is a threshold, and a network costs a
  T-th, `short_epochs`; in the last ones, `epochs`, it learns what the membrane adds.
- **A whitened first layer** that nobody trains (`models.whitening`).
- **Muon** for the kernels behind which a norm stands (`optimizers.muon`), Adam for the rest; or SGD
  with Nesterov's momentum, or Adam, for all.
- **One cycle** of the rate over all phases: it rises to its peak along a line, and falls to 0
  along another one,

      rate_t = peak min((t + 1) / (warmup n), (n - t) / ((1 - warmup) n))

- **Smoothed labels** (`losses.Smoothed`), **flips by turns** (`Task(augment="alternate")`), and an
  **average of the weights**, whose norms are measured anew (`train.settling`).

Each of them is an option, so that leaving one out is a command.
"""

from dataclasses import replace
from typing import Annotated, Literal

import jax
import jax.numpy as jnp
import optax

from jaxsnn import layers, losses, train, tree
from jaxsnn.arrays import Array
from jaxsnn.compress.averaging import averaged
from jaxsnn.compress.phase import Phase, as_phase
from jaxsnn.data import Dataset
from jaxsnn.errors import UserError
from jaxsnn.methods.optimizers import frozen, muon
from jaxsnn.methods.result import Trainer
from jaxsnn.models.variants import ann_of
from jaxsnn.models.whitening import whitened_layer, whitened_start
from jaxsnn.network import Network
from jaxsnn.options import Range, Whole, checked
from jaxsnn.train import Fit, Task
from jaxsnn.train.settling import settle_norms

__all__ = ["Options", "check", "one_cycle", "optimizer", "started", "train_fast"]

STARTING_IMAGES = 1_000  # whose patches are whitened


@checked
class Options:
    """Options of a fast training."""

    ann_epochs: Annotated[int, Whole(0)] = 10
    """Epochs of the ANN of the same layers, at the beginning."""
    short_epochs: Annotated[int, Whole(0)] = 10
    """Epochs with one time step, behind them."""
    epochs: Annotated[int, Whole(0)] = 4
    """Epochs with all time steps, at the end."""
    optimizer: Literal["muon", "sgd", "adam"] = "muon"
    """How the kernels descend: muon (orthogonalised momentum, kernels of constant length), sgd
    (Nesterov's momentum 0.9), or adam."""
    learning_rate: Annotated[float, Range(0, float("inf"), open_low=True, open_high=True)] = 0.15
    """Largest step size of the kernels, or of all weights with sgd and adam."""
    other_rate: Annotated[float, Range(0, float("inf"), open_low=True, open_high=True)] = 5e-3
    """With muon: largest step size of norms, biases and read-out, by Adam."""
    momentum: Annotated[float, Range(0, 1, open_high=True)] = 0.6
    """With muon: momentum of the kernels."""
    weight_decay: Annotated[float, Range(0, open_high=True)] = 5e-4
    """With sgd: decay of all weights, in the gradient."""
    warmup: Annotated[float, Range(0, 1, open_high=True)] = 0.1
    """Share of all steps in which the step size rises; in the others it falls to 0."""
    smoothing: Annotated[float, Range(0, 1, open_high=True)] = 0.1
    """Share of the labels that is spread over all classes."""
    average: Annotated[float, Range(0, 1, open_high=True)] = 0.0
    """Decay of a running average of the weights in the last phase; 0 for the last weights."""
    whiten: bool = True
    """Let the first convolution whiten patches of the training images, and stay so."""
    batch_size: Annotated[int, Whole(1)] = 250
    """Samples of one training step."""
    seed: Annotated[int, Whole(0, 2**31 - 1)] = 0
    """Seed of everything random."""

    def check(self) -> None:
        """Refuse a training without epochs."""
        if not self.short_epochs + self.epochs:
            raise UserError("short_epochs and epochs are both 0: no spikes would be trained")


DEFAULTS = Options()


def train_fast(
    net: Network,
    task: Task,
    data: Dataset,
    options: Options = DEFAULTS,
    *,
    fit: Fit = train.fit,
) -> Network:
    """Train a network from its start values: as an ANN, with one time step, with all.

    Held-out images are not looked at.

    Args:
      net: with start values.
      task: with the time steps of the end, and the loss "ce" if labels are smoothed.
      data: trained on.
      options: epochs, rates and parts.
      fit: trains; phases "ann", "short" and "long".

    Raises:
      UserError: as `check`, and if network, data and task do not fit each other.
    """
    check(net, task, options)
    trainer = Trainer(fit, data, options.batch_size, options.seed)
    if options.smoothing:
        task = replace(task, loss=losses.Smoothed(options.smoothing))
    net = started(net, task, data, options)
    each = trainer.steps(1)
    phases = [
        ("ann", task.at(1), options.ann_epochs),
        ("short", task.at(1), options.short_epochs),
        ("long", task, options.epochs),
    ]
    phases = [phase for phase in phases if phase[2]]
    steps = each * sum(epochs for *_, epochs in phases)
    done = 0
    for name, at, epochs in phases:
        own = ann_of(net) if name == "ann" else net
        phase = as_phase(optimizer(own, at, options, steps, done))
        if options.average and name == phases[-1][0]:
            phase = averaged(phase.optimizer, options.average)
        own = _fit(trainer, name, at, phase, own, epochs)
        net = _taken_over(net, own)
        done += each * epochs
    if options.average:
        batches = min(50, each)
        net = settle_norms(
            phases[-1][1], net, data.train.images, batches=batches,
            batch_size=options.batch_size, seed=options.seed,
        )  # fmt: skip
    return net


def _fit(
    trainer: Trainer, name: str, task: Task, phase: Phase, net: Network, epochs: int
) -> Network:
    """Train without a look at held-out images."""
    return trainer.fit(
        task, phase, net, trainer.data.train, epochs=epochs, batch_size=trainer.batch_size,
        seed=trainer.seed, name=name,
    )  # fmt: skip


def _taken_over(net: Network, trained: Network) -> Network:
    """Return a network with the weights and norms of another one, and neurons of its own."""
    params = tree.substitute(net.params, tree.named_leaves(trained.params))
    stats = tree.substitute(net.stats, tree.named_leaves(trained.stats))
    return net.replace(params=params, stats=stats)


def check(net: Network, task: Task, options: Options = DEFAULTS) -> None:
    """Refuse what cannot be trained so; nothing is computed.

    Raises:
      UserError: if labels of another loss would be smoothed, muon finds no kernel with a norm, or
        the first layer cannot be whitened.
    """
    if options.smoothing and task.loss != "ce":
        raise UserError(
            f"labels are smoothed for the loss 'ce', found {task.loss!r}; take smoothing=0"
        )
    if options.whiten:
        whitened_layer(net, task.inputs.abstract())
    optimizer(net, task, options, 1)


def started(net: Network, task: Task, data: Dataset, options: Options = DEFAULTS) -> Network:
    """Return a network with a whitened first layer, if the options say so."""
    if not options.whiten:
        return net
    x = task.prepare(jax.random.key(0), jnp.asarray(data.train.images[:STARTING_IMAGES]), False)
    return whitened_start(net, x)


def optimizer(
    net: Network, task: Task, options: Options, steps: int, done: int = 0
) -> optax.GradientTransformation:
    """Return what a phase descends with.

    Args:
      net: the network.
      task: the phase's.
      options: which optimizer, with which rates.
      steps: of all phases.
      done: of those before this phase.

    Raises:
      UserError: if muon finds no kernel with a norm behind it.
    """

    def cycle(peak: float) -> optax.Schedule:
        return one_cycle(peak, steps, options.warmup, done)

    first = net.flow(task.inputs).inputs
    still = tuple(f"{layer}/kernel" for layer in first) if options.whiten else ()
    if options.optimizer == "muon":
        normed = [name for name, each in layers.synapses(net.module).items() if each.norm]
        kernels = tuple(f"{name}/kernel" for name in normed)
        kernels = tuple(kernel for kernel in kernels if kernel not in still)
        if not kernels:
            raise UserError("muon holds the length of kernels: it needs layers with norms")
        descent = muon(
            cycle(options.learning_rate), kernels, optax.adam(cycle(options.other_rate)),
            momentum=options.momentum,
        )  # fmt: skip
    elif options.optimizer == "sgd":
        decay = optax.add_decayed_weights(options.weight_decay)
        momentum = optax.sgd(cycle(options.learning_rate), momentum=0.9, nesterov=True)
        descent = optax.chain(decay, momentum)
    else:
        descent = optax.adam(cycle(options.learning_rate))
    return frozen(descent, still) if still else descent


def one_cycle(peak: float, steps: int, warmup: float, done: int = 0) -> optax.Schedule:
    """Return step sizes that rise to a peak and fall to 0, each along a line.

    >>> rate = one_cycle(1.0, 10, 0.2)
    >>> [round(float(rate(step)), 3) for step in (0, 1, 2, 6, 9)]
    [0.5, 1.0, 1.0, 0.5, 0.125]

    Args:
      peak: the largest step size.
      steps: of all phases, n.
      warmup: share of the steps in which it rises, in [0, 1).
      done: steps of the phases before: those of this one count from there.
    """
    with jax.ensure_compile_time_eval():
        # Arrays are arguments: phases with other rates and epochs share a program.
        high, first = jnp.asarray(peak, jnp.float32), jnp.asarray(done)
        rising, falling = jnp.asarray(warmup * steps), jnp.asarray((1 - warmup) * steps)

    def rate(count: Array) -> Array:
        t = first + count
        up = (t + 1) / jnp.maximum(rising, 1)
        return high * jnp.clip(jnp.minimum(up, (rising + falling - t) / falling), 0, 1)

    return rate
