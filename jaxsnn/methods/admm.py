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
steps are functions, too: `prune`, `quantize`, `quieten`; `one_shot` cuts small weights at once.

Where the sources differ:
- The penalty is squared in the paper; the authors' public script
  (https://github.com/yjwu17/ADMM-Compression-for-SNNs) adds `1e-4 ||W - Z + U||`, not squared, and
  `5e-5 ||W||`. Ours is squared; the script's are `penalty_mode="norm"` and `norm_weight=5e-5`.
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
import jax.numpy as jnp
import optax

from jaxsnn import train, tree
from jaxsnn.arrays import Number, check_whole, safe_divide
from jaxsnn.compress import distributions, projections, schedules
from jaxsnn.compress.grids import Grid, binary_grid, pow2_grid, ternary_grid, uniform_grid
from jaxsnn.compress.phase import pruned, pulled, quantized
from jaxsnn.compress.projections import Projection, Recipe, compose, keep_largest, restrict
from jaxsnn.data import Dataset
from jaxsnn.errors import UserError
from jaxsnn.methods.result import Result, Trained, Trainer
from jaxsnn.network import Network
from jaxsnn.options import PerLayer, Range, Whole, checked, recipe_of
from jaxsnn.train import Fit, Task

__all__ = [
    "Levels",
    "Options",
    "compress",
    "grid",
    "joint_recipe",
    "norm_decay",
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

Shares = Number | Mapping[str, Number]  # one number, or pattern of leaves -> number
Bits = Shares | None
Levels = Literal["binary", "ternary", "uniform", "pow2"]
MOST_BITS = {"uniform": 8, "pow2": 6}


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
    order: Literal["sequence", "together"] = "sequence"
    """To prune and quantize in sequence (the survivors) or together, in one ADMM phase."""
    spike_weight: Annotated[float, Range(0, float("inf"), open_high=True)] = 0.0
    """Weight of the mean firing rate in the loss, added to that of the task."""
    penalty: Annotated[float, Range(0, float("inf"), open_low=True, open_high=True)] = 1e-4
    """Penalty rho at the start; it grows tenfold after each third of an ADMM phase."""
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
    """First step size of Adam in each phase; it falls to 0 along a cosine."""
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


def prune_recipe(sparsity: Shares, *, where: str = "*/kernel") -> dict[str, Projection]:
    """Build the sets `S_l = {W : ||W||_0 <= k_l}`: the largest weights of each layer.

    >>> prune_recipe(0.5)["*/kernel"](jnp.asarray([3.0, -1.0])).tolist()
    [3.0, 0.0]

    Args:
      sparsity: share to remove in every layer, in [0, 1]; or pattern of leaves -> share. The
        authors' MNIST network has 0.83, 0.92 (convolutions), 0.991 and 0.93 (dense).
      where: pattern of the leaves for a single share.
    """
    shares = sparsity if isinstance(sparsity, Mapping) else {where: sparsity}
    return {pattern: keep_largest(share) for pattern, share in shares.items()}


def grid(levels: Levels, bits: Number | None = None, *, keep_zeros: bool = False) -> Grid:
    """Choose a set of levels by name: "binary", "ternary", or "uniform" and "pow2" of some bits.

    >>> grid("ternary")(jnp.asarray([2.0, -2.0, 0.1])).tolist()
    [2.0, -2.0, 0.0]
    """
    if levels in ("binary", "ternary"):
        return (binary_grid if levels == "binary" else ternary_grid)(keep_zeros=keep_zeros)
    if levels not in MOST_BITS:
        raise UserError(f"levels must be binary, ternary, uniform or pow2, found {levels!r}")
    if bits is None:
        raise UserError(f"the levels {levels!r} need a number of bits")
    make = uniform_grid if levels == "uniform" else pow2_grid
    return make(bits, keep_zeros=keep_zeros)


def quantize_recipe(
    levels: Levels, bits: Bits = None, *, where: str = "*/kernel", masks: Tree | None = None
) -> dict[str, Projection]:
    """Build the sets `S_l = {alpha_l Q : Q_ij in levels}`: few values, one scale for each layer.

    >>> quantize_recipe("binary")["*/kernel"](jnp.asarray([3.0, -1.0])).tolist()
    [2.0, -2.0]

    Args:
      levels: which set of levels.
      bits: number of bits of "uniform" and "pow2"; or pattern of leaves -> bits.
      where: pattern of the leaves to quantize, for a single number.
      masks: tree of masks from a pruning before; scale and levels are then fitted to the
        survivors, and the rest stays zero.
    """
    widths = bits if isinstance(bits, Mapping) else {where: bits}
    keep_zeros = masks is not None
    found = {pattern: grid(levels, b, keep_zeros=keep_zeros) for pattern, b in widths.items()}
    return dict(found) if masks is None else restrict(found, masks)


def joint_recipe(
    sparsity: Shares, levels: Levels, bits: Bits = None, *, where: str = "*/kernel"
) -> dict[str, Projection]:
    """Prune and quantize at once: `Proj_grid(Proj_sparse(V))`, a heuristic for both sets.

    >>> joint_recipe(0.5, "binary")["*/kernel"](jnp.asarray([3.0, -1.0, 5.0, 0.0])).tolist()
    [4.0, 0.0, 4.0, 0.0]

    The arguments are those of `prune_recipe` and `quantize_recipe`; with a number for each pattern
    in both, the patterns are the same where both sets are meant.
    """
    found = prune_recipe(sparsity, where=where)
    widths = bits if isinstance(bits, Mapping) else dict.fromkeys(found, bits)
    for pattern, width in widths.items():
        quantizer = grid(levels, width, keep_zeros=pattern in found)
        found[pattern] = compose(found[pattern], quantizer) if pattern in found else quantizer
    return found


def sparsities(
    net: Network, sparsity: PerLayer, allocation: Literal["root", "uniform"] = "root"
) -> dict[str, float]:
    """Return leaf name -> share to remove.

    Args:
      net: the network.
      sparsity: of all kernels together; or pattern of layers -> share to remove.
      allocation: how one share is spread: a layer keeps as the "root" of its size, or "uniform".

    Raises:
      UserError: if a layer would be left without any weight, or a pattern matches no layer.
    """
    if isinstance(sparsity, Mapping):
        found = tree.match(recipe_of(sparsity), net.params)
    else:
        exponent = {"root": 0.5, "uniform": 1.0}[allocation]
        found = distributions.spread(net.params, sparsity, exponent=exponent)
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


def norm_decay(weight: Number, recipe: Recipe) -> optax.GradientTransformation:
    """Add the gradient of `weight sum_l ||W_l||`, over the leaves of a recipe: the script's term.

    >>> decay, params = norm_decay(0.5, {"w": keep_largest(0.5)}), {"w": jnp.asarray([3.0, 4.0])}
    >>> decay.update({"w": jnp.zeros(2)}, decay.init(params), params)[0]["w"].tolist()
    [0.30000001192092896, 0.4000000059604645]
    """

    def add(updates: Any, params: Any) -> Any:
        selected = tree.match(recipe, params)

        def one(name: str, update: jax.Array, leaf: jax.Array) -> jax.Array:
            if name not in selected:
                return update
            norm = jnp.broadcast_to(jnp.linalg.norm(leaf.ravel()), leaf.shape)
            return update + weight * safe_divide(leaf, norm)

        return tree.map_named(one, updates, params)

    return optax.stateless(add)


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
    recipe = quantize_recipe(options.levels, _widths(net, options), masks=masks)
    return _phases(task, data, options, fit).on_grid("quantize ", net, recipe, masks)


def quieten(
    net: Network, task: Task, data: Dataset, options: Options = DEFAULTS, *, fit: Fit = train.fit
) -> Network:
    """Train on for `retrain_epochs` with the mean firing rate in the loss: phase "activity"."""
    phases, epochs = _phases(task, data, options, fit), options.retrain_epochs
    return phases.trainer("activity", phases.task, phases.adam(epochs), net, epochs)


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
      The networks "dense" and "compressed", with a report on the test images.

    Raises:
      UserError: if the options do not fit the network, before anything is trained.

    Example:
      >>> from jaxsnn import data, models
      >>> digits = data.load("digits", limit=100)
      >>> net = models.build("16-10", digits.shape, seed=0)
      >>> task = train.Task(digits.inputs(timesteps=2))
      >>> few = Options(sparsity=0.5, pull_epochs=1, retrain_epochs=0, batch_size=30)
      >>> compress(net, task, digits, few).report.rows[1].density <= 0.5
      True
    """
    shares, widths = sparsities(net, options.sparsity, options.allocation), _widths(net, options)
    pruning, quantizing = any(shares.values()), widths is not None
    if pruning and quantizing and options.order == "together":
        recipe = joint_recipe(shares, options.levels, widths)
        product = _phases(task, data, options, fit).on_grid("", net, recipe)
    elif not (pruning or quantizing):
        product = quieten(net, task, data, options, fit=fit)
    else:
        product, masks = prune(net, task, data, options, fit=fit) if pruning else (net, None)
        if quantizing:
            product = quantize(product, task, data, options, masks=masks, fit=fit)
    networks = {"dense": Trained(net, task), "compressed": Trained(product, task)}
    return Result.of(networks, data, seed=options.seed)


def _widths(net: Network, options: Options) -> Any:
    """Return leaf name -> bits where each layer has its own, one number for all, or None."""
    if isinstance(options.bits, Mapping):
        return tree.match(recipe_of(options.bits), net.params)
    return options.bits


@dataclass(frozen=True)
class _Phases:
    """The phases that the steps are made of."""

    trainer: Trainer
    task: Task
    options: Options

    def adam(self, epochs: int) -> optax.GradientTransformation:
        return optax.adam(self.trainer.cosine(self.options.learning_rate, epochs))

    def pull(self, name: str, net: Network, recipe: Recipe, masks: Tree | None = None) -> Network:
        """Run an ADMM phase."""
        o, steps = self.options, self.trainer.steps
        adam = self.adam(o.pull_epochs)
        if o.norm_weight:
            adam = optax.chain(norm_decay(o.norm_weight, recipe), adam)
        penalty = penalty_schedule(steps(o.pull_epochs), initial=o.penalty)
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
