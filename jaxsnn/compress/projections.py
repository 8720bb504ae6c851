"""Sets for weights to live in, each given by its projection.

A projection maps a leaf to the nearest point of a set, `argmin_{Z in S} ||Z - V||_F`, in the shape
and dtype of the leaf. Here are the sets of few non-zeros (`keep_largest`, `percentile_keep`,
`on_mask`) and the means to apply several in turn; `groups.py` has N:M sparsity, `grids.py` the sets
of few values.

Letters in shapes: `...` any shape, `I` inputs of a synapse, `O` its outputs (the last axis).
"""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Protocol, TypeVar, runtime_checkable

import jax
import jax.numpy as jnp

from jaxsnn import tree
from jaxsnn.alike import Shared, share
from jaxsnn.arrays import (
    Array,
    Number,
    as_stored,
    check_range,
    is_traced,
    keep_count,
)
from jaxsnn.compress.codes import HasSteps, Quantized, Step
from jaxsnn.compress.ranking import top_fraction
from jaxsnn.errors import UserError

__all__ = [
    "Projection",
    "Recipe",
    "Scores",
    "compose",
    "identity",
    "keep_largest",
    "nonzeros",
    "on_mask",
    "percentile_keep",
    "project",
    "prune",
    "quantize",
    "resolve",
    "restrict",
]

Weights = TypeVar("Weights")

Projection = Callable[[Array], Array]
"""Leaf `[...]` -> nearest point of the set `[...]`, same dtype; pure and traceable."""

Scores = Callable[[Array], Array]
"""Leaf `[...]` -> importance of each entry `[...]`; the highest are kept."""

Recipe = Mapping[str, Projection]
"""Pattern of leaf names -> projection."""


@runtime_checkable
class Checked(Protocol):
    """A projection that can tell whether it suits a leaf."""

    def check(self, name: str, leaf: Array) -> None:
        """Raise a `UserError` that names the leaf if the projection cannot serve it."""
        ...


def resolve(recipe: Recipe, params: Any) -> dict[str, Projection]:
    """Assign projections to leaves and check that each suits its leaf.

    Returns:
      leaf name -> projection, for the matched leaves only.

    Raises:
      UserError: if a pattern matches no leaf, or a projection cannot serve a leaf (it would empty
        it, has another shape, ...); the message names the leaf.
    """
    matched = tree.match(recipe, params)
    leaves = tree.named_leaves(params)
    for name, projection in matched.items():
        if isinstance(projection, Checked):
            projection.check(name, leaves[name])
    return matched


def project(weights: Weights, recipe: Recipe) -> Weights:
    """Project every leaf that the recipe matches onto its set.

    >>> project({"w": jnp.asarray([3.0, -1.0])}, {"w": keep_largest(0.5)})["w"].tolist()
    [3.0, 0.0]

    Args:
      weights: a tree of arrays, or a network (anything with `params` and `replace(params=...)`).
        A network with `steps` gets those of the leaves that are on a grid now.
      recipe: pattern -> projection.

    Raises:
      UserError: as `resolve`.
    """
    params, steps = land(tree.params_of(weights), recipe)
    if not isinstance(weights, HasSteps):
        return tree.with_params(weights, params)
    others = {
        name: weights.steps[name] for name in weights.steps.keys() - tree.match(recipe, params)
    }
    changed: Weights = weights.replace(params=params, steps=others | steps)
    return changed


def land(params: Any, recipe: Recipe) -> tuple[Any, dict[str, Step]]:
    """Return the projected parameters, and leaf name -> step of those that are on a grid."""
    leaves, projections = tree.named_leaves(params), resolve(recipe, params)
    projected, steps = _land(share(projections), {name: leaves[name] for name in projections})
    return tree.substitute(params, projected), steps


@jax.jit
def _land(
    shared: Shared[dict[str, Projection]], leaves: dict[str, Array]
) -> tuple[dict[str, Array], dict[str, Step]]:
    """Do what `land` does with the leaves of a recipe, as one program for all of them."""
    return on_sets(shared.function, leaves)


def on_sets(
    projections: Mapping[str, Projection], leaves: Mapping[str, Array]
) -> tuple[dict[str, Array], dict[str, Step]]:
    """Return leaves on their sets, and the steps of those that end on a grid, fitted once."""
    projected, steps = {}, {}
    for name, projection in projections.items():
        if is_grid(projection):
            found = quantize(projection, leaves[name])
            projected[name], steps[name] = found.decode().astype(leaves[name].dtype), found.step
        else:
            projected[name] = projection(leaves[name])
    return projected, steps


def unknown_steps(steps: Callable[[], dict[str, Step]]) -> dict[str, Step]:
    """Return steps of zeros in the place of those that would be computed: no grid is known yet."""
    shapes = jax.eval_shape(steps)
    zeros: dict[str, Step] = jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), shapes)
    return zeros


def prune(weights: Weights, recipe: Recipe) -> tuple[Weights, Any]:
    """Project the weights once and for all, and return what is left as masks, too.

    On weights that were never pulled, `keep_largest` makes this one-shot magnitude pruning.

    >>> pruned, masks = prune({"w": jnp.asarray([3.0, -1.0])}, {"w": keep_largest(0.5)})
    >>> pruned["w"].tolist(), masks["w"].tolist()
    ([3.0, 0.0], [True, False])

    Args:
      weights: a tree of arrays, or a network (anything with `params` and `replace(params=...)`).
      recipe: pattern -> projection.

    Returns:
      The pruned weights, and a tree of masks like the parameters: `[...]` for the leaves that the
      recipe matches, scalar `True` for the others.

    Raises:
      UserError: as `resolve`.
    """
    pruned = project(weights, recipe)
    params = tree.params_of(pruned)
    return pruned, nonzeros(params, tree.match(recipe, params))


def nonzeros(params: Any, selected: Iterable[str]) -> Any:
    """Return a tree of masks: where the selected leaves are not 0, scalar `True` for the others."""
    leaves = tree.named_leaves(params)
    found: dict[str, Array] = _nonzeros({name: leaves[name] for name in selected})
    return tree.map_named(lambda name, _: found.get(name, jnp.asarray(True)), params)


@jax.jit
def _nonzeros(leaves: dict[str, Array]) -> dict[str, Array]:
    return {name: leaf != 0 for name, leaf in leaves.items()}


def check_survivors(sparsity: Number, name: str, leaf: Array) -> None:
    """Raise a `UserError` if a concrete sparsity would leave the leaf without any weight."""
    if not is_traced(sparsity) and keep_count(sparsity, leaf.size) == 0:
        raise UserError(
            f"sparsity {sparsity} would empty {name!r} ({leaf.size} weights); "
            f"use less than {1 - 0.5 / leaf.size:.6g}"
        )


def identity(leaf: Array) -> Array:
    """Return the leaf itself: the set is the whole space.

    In `pull` it still tethers the leaf to its old value; leave a leaf out of the recipe to leave
    it free.
    """
    return leaf


@dataclass(frozen=True, eq=False)
class _KeepLargest:
    sparsity: Number
    scores: Scores

    def __call__(self, leaf: Array) -> Array:
        kept = top_fraction(self.scores(leaf), self.sparsity)
        return jnp.where(kept, leaf, jnp.zeros_like(leaf))

    def check(self, name: str, leaf: Array) -> None:
        check_survivors(self.sparsity, name, leaf)


def keep_largest(sparsity: Number, *, scores: Scores = jnp.abs) -> Projection:
    """Keep the entries of largest magnitude and zero the rest, with an exact count.

    The set is `{X : ||X||_0 <= k}` with `k = round((1 - sparsity) * size)`, half to even. Ties go
    to the lower index.

    >>> keep_largest(0.5)(jnp.asarray([1.0, -3.0, 2.0, 0.5])).tolist()
    [0.0, -3.0, 2.0, 0.0]

    Args:
      sparsity: share of the leaf to zero, in [0, 1], may be traced. One that leaves a leaf
        without any weight is an error once the leaf is known.
      scores: what ranks the entries; the magnitude makes it the Euclidean projection.
    """
    check_range("sparsity", sparsity, 0, 1)
    return _KeepLargest(sparsity, scores)


def percentile_keep(sparsity: Number) -> Projection:
    """Zero the entries below a percentile of the magnitude, the rule of the ADMM authors' code.

    `tau` is the linearly interpolated `sparsity`-quantile of `|X|` over all entries, zeros
    included; entries with `|x| < tau` become zero. Ties at `tau` all survive, so the count is
    exact only without ties, and at sparsity 1 the largest entry survives.

    >>> percentile_keep(0.5)(jnp.asarray([1.0, -3.0, 2.0, 0.5])).tolist()
    [0.0, -3.0, 2.0, 0.0]

    Args:
      sparsity: share of the leaf to zero, in [0, 1], may be traced.
    """
    check_range("sparsity", sparsity, 0, 1)

    def project_leaf(leaf: Array) -> Array:
        magnitude = jnp.abs(as_stored(leaf))
        below = magnitude < jnp.quantile(magnitude, jnp.asarray(sparsity, magnitude.dtype))
        return jnp.where(below, jnp.zeros_like(leaf), leaf)

    return project_leaf


@dataclass(frozen=True, eq=False)
class _OnMask:
    mask: Array

    def __call__(self, leaf: Array) -> Array:
        return jnp.where(jnp.broadcast_to(self.mask, leaf.shape), leaf, jnp.zeros_like(leaf))

    def check(self, name: str, leaf: Array) -> None:
        check_mask(self.mask, name, leaf)


def on_mask(mask: Array) -> Projection:
    """Zero everything outside a given mask, from whatever method it came.

    >>> on_mask(jnp.asarray([True, False]))(jnp.asarray([1.0, 2.0])).tolist()
    [1.0, 0.0]

    Args:
      mask: boolean, broadcastable to the leaf.
    """
    return _OnMask(jnp.asarray(mask, bool))


def check_mask(mask: Array, name: str, leaf: Array) -> None:
    """Raise a `UserError` that names the leaf if the mask cannot be broadcast to it."""
    try:
        fits = jnp.broadcast_shapes(jnp.shape(mask), leaf.shape) == leaf.shape
    except ValueError:
        fits = False
    if not fits:
        raise UserError(
            f"the mask of {name!r} has shape {jnp.shape(mask)}, "
            f"which does not broadcast to the leaf's {leaf.shape}"
        )


@runtime_checkable
class Quantizes(Protocol):
    """A projection onto a grid, which can give the codes of a leaf."""

    def quantize(self, leaf: Array) -> Quantized:
        """Return the projected leaf as codes and scale."""
        ...


def quantize(projection: Projection, leaf: Array) -> Quantized:
    """Return the projected leaf as codes and scale.

    `quantize(projection, leaf).decode()`, cast to the leaf's dtype, is exactly `projection(leaf)`.

    >>> from jaxsnn.compress import uniform_grid
    >>> quantize(uniform_grid(3), jnp.asarray([0.3, -0.1, 0.02])).codes.tolist()
    [3, -1, 0]

    Args:
      projection: a grid, or one after other sets (`compose`, `restrict`).
      leaf: `[...]`, the weights before they are projected.

    Raises:
      UserError: if the projection does not end on a grid.
    """
    if not is_grid(projection) or not isinstance(projection, Quantizes):
        raise UserError(
            f"the projection {projection!r} is no grid and has no codes: it must end on a grid"
        )
    return projection.quantize(leaf)


def is_grid(projection: Projection) -> bool:
    """Return whether a projection ends on a grid, so that `quantize` takes it."""
    if isinstance(projection, _Composition):
        return is_grid(projection.projections[-1])
    return isinstance(projection, Quantizes)


@dataclass(frozen=True, eq=False)
class _Composition:
    projections: tuple[Projection, ...]

    def __call__(self, leaf: Array) -> Array:
        for projection in self.projections:
            leaf = projection(leaf)
        return leaf

    def quantize(self, leaf: Array) -> Quantized:
        *first, last = self.projections
        for projection in first:
            leaf = projection(leaf)
        return quantize(last, leaf)

    def check(self, name: str, leaf: Array) -> None:
        for projection in self.projections:
            if isinstance(projection, Checked):
                projection.check(name, leaf)


def compose(*projections: Projection) -> Projection:
    """Apply projections from left to right.

    Exact where the later sets respect the earlier ones (a mask, then a grid that keeps zeros);
    elsewhere a heuristic for the intersection, not its projection.

    >>> from jaxsnn.compress import binary_grid
    >>> both = compose(keep_largest(0.5), binary_grid(keep_zeros=True))
    >>> both(jnp.asarray([1.0, -3.0, 2.0, 0.5])).tolist()
    [0.0, -2.5, 2.5, 0.0]

    Args:
      *projections: at least one; a grid comes last.
    """
    if not projections:
        raise UserError("compose needs at least one projection")
    return _Composition(projections)


def restrict(recipe: Recipe, masks: Any) -> dict[str, Projection]:
    """Put a mask before every projection of a recipe: quantize survivors only.

    >>> from jaxsnn.compress import binary_grid
    >>> masks = {"w": jnp.asarray([False, True, True])}
    >>> recipe = restrict({"w": binary_grid(keep_zeros=True)}, masks)
    >>> recipe["w"](jnp.asarray([9.0, -3.0, 2.0])).tolist()
    [0.0, -2.5, 2.5]

    Args:
      recipe: pattern -> projection. Grids in it should keep zeros.
      masks: tree with the structure of the parameters, of masks broadcastable to them.

    Returns:
      leaf name -> mask, then projection; a recipe like any other.
    """
    mask_of = tree.named_leaves(masks)
    return {
        name: compose(on_mask(mask_of[name]), projection)
        for name, projection in tree.match(recipe, masks).items()
    }
