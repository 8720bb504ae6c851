"""Comprehensive SNN compression by ADMM: prune connections, quantize weights, quieten neurons.

Deng et al. 2019, "Comprehensive SNN Compression Using ADMM Optimization and Activity
Regularization", https://arxiv.org/abs/1911.00822. From a trained dense network, minimise

    f(W) + lambda R        subject to  W_l in S_l  for every layer l

where `f` is the task loss, `R` the mean firing rate (`Task.spike_weight`) and `S_l` a set of few
non-zeros, a grid of few values, or both. The augmented Lagrangian, with an auxiliary `Z_l in S_l`
and the scaled dual `U_l`, is minimised by turns (`compress.pulled`):

    W  <- some steps of Adam on  f(W) + lambda R + sum_l (rho / 2) ||W_l - Z_l + U_l||^2
    Z_l <- Proj_{S_l}(W_l + U_l)
    U_l <- U_l + W_l - Z_l

The hard step then projects `W` itself (`compress.prune`), and a retraining on the set repairs the
accuracy: under masks after pruning (`compress.pruned`), straight through after quantization
(`compress.quantized`).

`compress` prunes first and quantizes the survivors, or does both in one pull phase
(`order="together"`); `bits=None` only prunes, `sparsity=0` only quantizes, both only quieten. The
steps are functions, too: `prune`, `quantize`, `quieten`; `one_shot` cuts small weights at once, and
`control` trains the dense network on for as many epochs.

Where the sources differ:
- The penalty is squared in the paper; the authors' public script
  (https://github.com/yjwu17/ADMM-Compression-for-SNNs) adds `1e-4 ||W - Z + U||`, not squared, and
  `5e-5 ||W||`, at one penalty and one step size. Ours is squared and grows; the script's are
  `penalty_mode="norm"`, `penalty_growth=1`, `norm_weight=5e-5`, `schedule="constant"`.
- The script prunes by percentile (`projections.percentile_keep`), we by exact count.
- The script's ternary fit starts at `mean(W)` and runs 5 sweeps, ours at `mean|W|` and 20.
- The growth of the penalty, the spread of one sparsity over the layers (as the root of their size),
  all grids but the ternary one, the retraining after quantization (straight through, scales fitted
  at every update) and the joint order are ours: no source was found.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Annotated, Any, Literal

import jax
import optax

from jaxsnn import train, tree
from jaxsnn.arrays import Number, check_whole
from jaxsnn.compress import distributions, projections, schedules
from jaxsnn.compress.phase import pruned, pulled, quantized
from jaxsnn.compress.projections import Recipe
from jaxsnn.data import Dataset
from jaxsnn.export.whole import to_whole_numbers
from jaxsnn.methods.optimizers import norm_decay
from jaxsnn.methods.recipes import (
    MOST_BITS,
    Levels,
    grid,
    joint_recipe,
    of_kernels,
    prune_recipe,
    quantize_recipe,
)
from jaxsnn.methods.result import CONTROL, Result, Trained, Trainer
from jaxsnn.network import Network
from jaxsnn.options import PerLayer, Range, Whole, checked
from jaxsnn.train import Fit, Task

__all__ = [
    "Levels",
    "Options",
    "compress",
    "control",
    "epochs_of",
    "grid",
    "joint_recipe",
    "one_shot",
    "penalty_schedule",
    "prune",
    "prune_recipe",
    "quantize",
    "quantize_recipe",
    "quieten",
    "sparsities",
]

Tree = Any  # of masks, like the parameters


@checked
class Options:
    """Options of the ADMM method."""

    sparsity: Annotated[PerLayer, Range(0, 1, open_high=True)] = 0.9
    """Share of the connections to remove: in all, or of each layer. 0 prunes nothing."""
    allocation: Literal["root", "uniform"] = "root"
    """How to spread one sparsity: root (a layer keeps as the root of its size) or uniform."""
    levels: Levels = "uniform"
    """Levels of a quantized weight: binary, ternary, uniform or pow2."""
    bits: Annotated[PerLayer | None, Whole(1, 8)] = 3
    """Bits of the levels uniform and pow2, for all layers or each; None quantizes nothing."""
    per: Literal["leaf", "channel"] = "leaf"
    """One scale of the levels for each layer (leaf), or one for each output channel."""
    constant_bits: Annotated[int | None, Whole(2, 8)] = None
    """Bits of each bias and threshold of the product, whole numbers in units of its weights; left
    out, they are float32. For a chain of layers without norms."""
    order: Literal["sequence", "together"] = "sequence"
    """To prune and quantize in sequence (the survivors) or together, in one ADMM phase."""
    spike_weight: Annotated[float, Range(0, float("inf"), open_high=True)] = 0.0
    """Weight of the mean firing rate in the loss, added to that of the task."""
    penalty: Annotated[float, Range(0, float("inf"), open_low=True, open_high=True)] = 1e-4
    """Penalty rho at the start of an ADMM phase."""
    penalty_growth: Annotated[float, Range(1, float("inf"), open_high=True)] = 10.0
    """Its growth after each third of the phase; 1 in the authors' script."""
    penalty_mode: Literal["squared", "norm"] = "squared"
    """The penalty: squared, or norm as in the authors' script."""
    norm_weight: Annotated[float, Range(0, float("inf"), open_high=True)] = 0.0
    """Weight of the norm of the weights in an ADMM phase; 5e-5 in the authors' script."""
    dual_steps: Annotated[int, Whole(1)] = 10
    """Dual updates in each epoch of an ADMM phase."""
    pull_epochs: Annotated[int, Whole(1)] = 3
    """Epochs of each ADMM phase."""
    retrain_epochs: Annotated[int, Whole(0)] = 3
    """Epochs of each retraining after a hard step."""
    learning_rate: Annotated[float, Range(0, float("inf"), open_low=True, open_high=True)] = 1e-3
    """First step size of Adam in each phase."""
    schedule: Literal["cosine", "constant"] = "cosine"
    """How it falls: to 0 along a cosine, or not at all, as in the authors' script."""
    control: bool = True
    """Train the dense network on for as many epochs, too, as the row "dense control"."""
    batch_size: Annotated[int, Whole(1)] = 100
    """Samples of one training step."""
    seed: Annotated[int, Whole(0, 2**31 - 1)] = 0
    """Seed of everything random."""

    def check(self) -> None:
        """Refuse bits that the levels do not have."""
        if self.bits is not None and self.levels in MOST_BITS:
            name = f"bits of the levels {self.levels}"
            values = self.bits.values() if isinstance(self.bits, Mapping) else [self.bits]
            for each in values:
                check_whole(name, each, 2, MOST_BITS[self.levels])


DEFAULTS = Options()


def sparsities(
    net: Network, sparsity: PerLayer, allocation: Literal["root", "uniform"] = "root"
) -> dict[str, float]:
    """Return leaf name -> share to remove.

    Args:
      net: the network.
      sparsity: of all kernels together, recurrent ones included; or pattern of layers -> share to
        remove (`of_kernels`).
      allocation: how one share is spread: a layer keeps as the "root" of its size, or "uniform".

    Raises:
      UserError: if a layer would be left without any weight, or a pattern matches no layer.
    """
    if isinstance(sparsity, Mapping):
        found = of_kernels(net, sparsity)
    else:
        exponent = {"root": 0.5, "uniform": 1.0}[allocation]
        leaves = tree.named_leaves(net.params)
        kernels = {name: leaves[name] for name in of_kernels(net, 0.0)}
        found = distributions.spread(kernels, sparsity, where="*", exponent=exponent)
    # The shapes are enough to refuse a sparsity that would empty a layer.
    jax.eval_shape(lambda params: projections.project(params, prune_recipe(found)), net.params)
    return found


def penalty_schedule(
    num_steps: int, *, initial: Number = 1e-3, growth: Number = 10.0, phases: int = 3
) -> optax.Schedule:
    """Multiply the penalty by `growth` after each of `phases` equal parts of a pull phase.

    >>> [round(float(penalty_schedule(90)(count)), 4) for count in (0, 30, 60)]
    [0.001, 0.01, 0.1]
    """
    boundaries = [num_steps * i // phases for i in range(1, phases)]
    return schedules.stepwise([initial * growth**i for i in range(phases)], boundaries)


def prune(
    net: Network, task: Task, data: Dataset, options: Options = DEFAULTS, *, fit: Fit = train.fit
) -> tuple[Network, Tree]:
    """Pull towards sparse weights, prune, retrain under the masks.

    The arguments are those of `compress`; the phases are "prune pull" and "prune retrain".

    Returns:
      The pruned network, and the tree of masks of what is left.
    """
    phases = _phases(task, data, options, fit)
    recipe = prune_recipe(sparsities(net, options.sparsity, options.allocation))
    near = phases.pull("prune pull", net, recipe)
    return phases.cut("prune retrain", near, recipe, options.retrain_epochs)


def one_shot(
    net: Network, task: Task, data: Dataset, options: Options = DEFAULTS, *, fit: Fit = train.fit
) -> tuple[Network, Tree]:
    """Prune by magnitude at once and retrain: the rival of `prune`, with as many epochs.

    The arguments and what is returned are those of `prune`; the phase is "one-shot retrain".
    """
    recipe = prune_recipe(sparsities(net, options.sparsity, options.allocation))
    epochs = options.pull_epochs + options.retrain_epochs
    return _phases(task, data, options, fit).cut("one-shot retrain", net, recipe, epochs)


def quantize(
    net: Network,
    task: Task,
    data: Dataset,
    options: Options = DEFAULTS,
    *,
    masks: Tree | None = None,
    fit: Fit = train.fit,
) -> Network:
    """Pull towards a grid, project, retrain straight through.

    The arguments are those of `compress`; with the `masks` of `prune` the survivors are quantized,
    the rest stays zero. The phases are "quantize pull" and "quantize retrain".
    """
    widths = _widths(net, options) or dict.fromkeys(of_kernels(net, 0.0))
    recipe = quantize_recipe(options.levels, widths, masks=masks, per=options.per)
    return _phases(task, data, options, fit).on_grid("quantize ", net, recipe, masks)


def quieten(
    net: Network, task: Task, data: Dataset, options: Options = DEFAULTS, *, fit: Fit = train.fit
) -> Network:
    """Train on for `retrain_epochs` with the mean firing rate in the loss: phase "activity"."""
    phases, epochs = _phases(task, data, options, fit), options.retrain_epochs
    return phases.trainer("activity", phases.task, phases.adam(epochs), net, epochs)


def control(
    net: Network,
    task: Task,
    data: Dataset,
    options: Options = DEFAULTS,
    *,
    epochs: int | None = None,
    fit: Fit = train.fit,
) -> Network:
    """Train the dense network on for as many epochs as `compress` does: phase "dense control".

    The arguments are those of `compress`; `epochs` may be others.
    """
    phases, epochs = _phases(task, data, options, fit), epochs or epochs_of(options)
    return phases.trainer(CONTROL, task, phases.adam(epochs), net, epochs)


def epochs_of(options: Options) -> int:
    """Return for how many epochs `compress` trains the product.

    >>> epochs_of(Options(pull_epochs=3, retrain_epochs=2))
    10
    """
    shares = (
        options.sparsity.values() if isinstance(options.sparsity, Mapping) else [options.sparsity]
    )
    steps = any(shares) + (options.bits is not None)
    rounds = 1 if steps == 2 and options.order == "together" else steps
    return rounds * (options.pull_epochs + options.retrain_epochs) or options.retrain_epochs


def compress(
    net: Network, task: Task, data: Dataset, options: Options = DEFAULTS, *, fit: Fit = train.fit
) -> Result:
    """Prune, quantize and quieten a trained network.

    Args:
      net: a trained dense network.
      task: what it is trained to do.
      data: trained on, with its held-out and test images.
      options: what to do, and how long.
      fit: trains: `train.fit`, or one that checkpoints and resumes.

    Returns:
      The networks "dense", "dense control" and "compressed", with a report on the test images.

    Raises:
      UserError: if the options do not fit the network, before anything is trained.

    Example:
      >>> from jaxsnn import data, models
      >>> digits = data.load("digits", limit=100)
      >>> net = models.build("16-10", digits.shape, seed=0)
      >>> task = train.Task(digits.inputs(timesteps=2))
      >>> few = Options(sparsity=0.5, pull_epochs=1, retrain_epochs=0, batch_size=30)
      >>> compress(net, task, digits, few).report.row("compressed").density <= 0.5
      True
    """
    shares, widths = sparsities(net, options.sparsity, options.allocation), _widths(net, options)
    pruning, quantizing = any(shares.values()), widths is not None
    if options.constant_bits is not None:
        to_whole_numbers(net, options.constant_bits)  # refuses what it does not suit
    if pruning and quantizing and options.order == "together":
        recipe = joint_recipe(shares, options.levels, widths, per=options.per)
        product = _phases(task, data, options, fit).on_grid("", net, recipe)
    elif not (pruning or quantizing):
        product = quieten(net, task, data, options, fit=fit)
    else:
        product, masks = prune(net, task, data, options, fit=fit) if pruning else (net, None)
        if quantizing:
            product = quantize(product, task, data, options, masks=masks, fit=fit)
    networks = {"dense": net}
    if options.control:
        networks[CONTROL] = control(net, task, data, options, fit=fit)
    if options.constant_bits is not None:
        product = to_whole_numbers(product, options.constant_bits)
    networks["compressed"] = product
    trained = {name: Trained(each, task) for name, each in networks.items()}
    return Result.of(trained, data, seed=options.seed)


def _widths(net: Network, options: Options) -> dict[str, float] | None:
    """Return leaf name -> bits of each kernel; None where nothing shall be quantized."""
    return None if options.bits is None else of_kernels(net, options.bits)


@dataclass(frozen=True)
class _Phases:
    """The phases that the steps are made of."""

    trainer: Trainer
    task: Task
    options: Options

    def adam(self, epochs: int) -> optax.GradientTransformation:
        rate, falls = self.options.learning_rate, self.options.schedule == "cosine"
        return optax.adam(self.trainer.cosine(rate, epochs) if falls else rate)

    def pull(self, name: str, net: Network, recipe: Recipe, masks: Tree | None = None) -> Network:
        """Run an ADMM phase."""
        o, steps = self.options, self.trainer.steps
        adam = self.adam(o.pull_epochs)
        if o.norm_weight:
            adam = optax.chain(norm_decay(o.norm_weight, recipe), adam)
        growth, length = o.penalty_growth, steps(o.pull_epochs)
        penalty = penalty_schedule(length, initial=o.penalty, growth=growth)
        every = max(steps(1) // o.dual_steps, 1)
        phase = pulled(adam, recipe, penalty, every=every, mode=o.penalty_mode, masks=masks)
        return self.trainer(name, self.task, phase, net, o.pull_epochs)

    def cut(self, name: str, net: Network, recipe: Recipe, epochs: int) -> tuple[Network, Tree]:
        """Cut what lies outside the set and retrain what is left."""
        cut, masks = projections.prune(net, recipe)
        return self.trainer(name, self.task, pruned(self.adam(epochs), masks), cut, epochs), masks

    def on_grid(
        self, prefix: str, net: Network, recipe: Recipe, masks: Tree | None = None
    ) -> Network:
        """Pull towards the recipe's set, project onto it, and retrain straight through."""
        near, epochs = self.pull(f"{prefix}pull", net, recipe, masks), self.options.retrain_epochs
        phase = quantized(self.adam(epochs), recipe)
        return self.trainer(f"{prefix}retrain", self.task, phase, near, epochs)


def _phases(task: Task, data: Dataset, options: Options, fit: Fit) -> _Phases:
    quieter = replace(task, spike_weight=task.spike_weight + options.spike_weight)
    return _Phases(Trainer(fit, data, options.batch_size, options.seed), quieter, options)
