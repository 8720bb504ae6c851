"""Comprehensive SNN compression by ADMM: prune connections and quantize weights, one recipe each.

Deng et al. 2019, "Comprehensive SNN Compression Using ADMM Optimization and Activity
Regularization", https://arxiv.org/abs/1911.00822. From a trained dense network, minimise

    f(W) + lambda R        subject to  W_l in S_l  for every layer l

where `f` is the task loss, `R` the mean firing rate (a term of the loss, `losses.spike_count`) and
`S_l` a set of few non-zeros, a grid of few values, or both. The augmented Lagrangian, with an
auxiliary `Z_l in S_l` and the scaled dual `U_l`, is minimised by turns (`transforms.pull`):

    W  <- some epochs of Adam on  f(W) + lambda R + sum_l (rho / 2) ||W_l - Z_l + U_l||^2
    Z_l <- Proj_{S_l}(W_l + U_l)
    U_l <- U_l + W_l - Z_l

The hard step then projects `W` itself, and a retraining on the set repairs the accuracy: under
masks after pruning, straight through after quantization.

    pull phase      optimizer(rate, recipe, penalty=penalty_schedule(num_steps), every=epoch)
    hard step       hard_prune(params, recipe)              hard_quantize(params, recipe)
    retraining      retrain_masked(rate, masks)             retrain_quantized(rate, recipe)

The joint way prunes first and quantizes the survivors: `quantize_recipe(..., masks=masks)`, with
the same masks given to `optimizer`. `joint_recipe` does both in one pull phase instead.

Where the sources differ:
- The penalty is squared in the paper; the authors' public script
  (https://github.com/yjwu17/ADMM-Compression-for-SNNs) adds `1e-4 ||W - Z + U||`, not squared, and
  `5e-5 ||W||`. Ours is squared; `mode="norm"` is the script's, without its second term.
- The script prunes by percentile (`projections.percentile_keep`), we by exact count.
- The script's ternary fit starts at `mean(W)` and runs 5 sweeps, ours at `mean|W|` and 20.
- The growth of the penalty, all grids but the ternary one, the retraining after quantization
  (straight through, scales fitted at every update) and the joint order are ours: no source was
  found.
"""

from collections.abc import Mapping
from typing import Any, Literal

import jax.numpy as jnp
import optax

from jaxsnn import tree
from jaxsnn.arrays import Number
from jaxsnn.compress import schedules
from jaxsnn.compress.grids import Grid, binary_grid, pow2_grid, ternary_grid, uniform_grid
from jaxsnn.compress.projections import (
    Projection,
    Recipe,
    compose,
    keep_largest,
    project,
    restrict,
)
from jaxsnn.compress.transforms import confine, latent, pull
from jaxsnn.errors import UserError

Levels = Literal["binary", "ternary", "uniform", "pow2"]


def prune_recipe(
    sparsity: Number | Mapping[str, Number], *, where: str = "*/kernel"
) -> dict[str, Projection]:
    """Set `S_l = {W : ||W||_0 <= k_l}`: keep the largest weights of each layer.

    Args:
      sparsity: share to remove in every layer, in [0, 1]; or pattern -> share. The authors' MNIST
        network has 0.83, 0.92 (convolutions), 0.991 and 0.93 (dense).
      where: pattern of the leaves for a single share.
    """
    shares = sparsity if isinstance(sparsity, Mapping) else {where: sparsity}
    return {pattern: keep_largest(share) for pattern, share in shares.items()}


def grid(levels: Levels, bits: Number | None = None, *, keep_zeros: bool = False) -> Grid:
    """Choose a set of levels by name: "binary", "ternary", or "uniform" and "pow2" of some bits."""
    if levels == "binary":
        return binary_grid(keep_zeros=keep_zeros)
    if levels == "ternary":
        return ternary_grid(keep_zeros=keep_zeros)
    if levels not in ("uniform", "pow2"):
        raise UserError(f"levels must be binary, ternary, uniform or pow2, found {levels!r}")
    if bits is None:
        raise UserError(f"the levels {levels!r} need a number of bits")
    make = uniform_grid if levels == "uniform" else pow2_grid
    return make(bits, keep_zeros=keep_zeros)


def quantize_recipe(
    levels: Levels, bits: Number | None = None, *, where: str = "*/kernel", masks: Any = None
) -> dict[str, Projection]:
    """Set `S_l = {alpha_l Q : Q_ij in levels}`: few values, one scale for each layer.

    Args:
      levels: which set of levels.
      bits: number of bits of "uniform" and "pow2".
      where: pattern of the leaves to quantize.
      masks: tree of masks from a pruning before; scale and levels are then fitted to the
        survivors, and the rest stays zero.
    """
    if masks is None:
        return {where: grid(levels, bits)}
    return restrict({where: grid(levels, bits, keep_zeros=True)}, masks)


def joint_recipe(
    sparsity: Number | Mapping[str, Number],
    levels: Levels,
    bits: Number | None = None,
    *,
    where: str = "*/kernel",
) -> dict[str, Projection]:
    """Prune and quantize at once: `Proj_grid(Proj_sparse(V))`, a heuristic for both sets."""
    quantizer = grid(levels, bits, keep_zeros=True)
    sparse = prune_recipe(sparsity, where=where)
    return {pattern: compose(projection, quantizer) for pattern, projection in sparse.items()}


def penalty_schedule(
    num_steps: int, *, initial: Number = 1e-3, growth: Number = 10.0, phases: int = 3
) -> optax.Schedule:
    """Multiply the penalty by `growth` after each of `phases` equal parts of the pull phase."""
    boundaries = [num_steps * i // phases for i in range(1, phases)]
    return schedules.steps([initial * growth**i for i in range(phases)], boundaries)


def optimizer(
    learning_rate: optax.ScalarOrSchedule,
    recipe: Recipe,
    *,
    penalty: Number | optax.Schedule,
    every: int | None,
    mode: Literal["squared", "norm"] = "squared",
    masks: Any = None,
) -> optax.GradientTransformationExtraArgs:
    """Build the optimizer of the pull phase: Adam on the loss with the penalty.

    The penalty's gradient comes before Adam's scaling, as if the sum had been differentiated.

    Args:
      learning_rate: Adam's step size.
      recipe: pattern -> projection.
      penalty: `rho`, or a schedule of it.
      every: updates between dual steps, one epoch in the authors' script.
      mode: "squared", or "norm" for the authors' script.
      masks: tree of masks to stay inside, from a pruning before.
    """
    steps = [pull(recipe, penalty, every, mode=mode), optax.adam(learning_rate)]
    return optax.chain(*steps, *([] if masks is None else [confine(masks)]))


def hard_prune(params: Any, recipe: Recipe) -> tuple[Any, Any]:
    """Project the weights once and for all.

    On weights that were never pulled, this is one-shot magnitude pruning.

    Returns:
      The pruned parameters, and the tree of masks of what is left: `[...]` for the leaves that
      the recipe matches, scalar `True` for the others.
    """
    pruned, selected = project(recipe, params), tree.match(recipe, params)
    masks = tree.map_named(
        lambda name, leaf: leaf != 0 if name in selected else jnp.asarray(True), pruned
    )
    return pruned, masks


def hard_quantize(params: Any, recipe: Recipe) -> Any:
    """Project the weights onto their grids once and for all."""
    return project(recipe, params)


def retrain_masked(
    learning_rate: optax.ScalarOrSchedule, masks: Any
) -> optax.GradientTransformationExtraArgs:
    """Build the optimizer after pruning: Adam, confined to the masks."""
    return optax.chain(optax.adam(learning_rate), confine(masks))


def retrain_quantized(
    learning_rate: optax.ScalarOrSchedule, recipe: Recipe
) -> optax.GradientTransformationExtraArgs:
    """Build the optimizer after quantization: Adam on free copies, straight through the grids.

    Begin with `state = init(params)` on the weights of the pull phase and continue with
    `hard_quantize(params, recipe)`.
    """
    return latent(optax.adam(learning_rate), recipe)
