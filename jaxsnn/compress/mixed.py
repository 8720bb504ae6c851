"""Mixed precision: what each leaf suffers at each width, and the widths that a budget buys.

A sensitivity pass measures how much the loss rises when one leaf (or channel) alone is quantized to
each of some widths, `d[g, b]`. Then the widths solve

    minimise sum_g d[g, b_g]    subject to    sum_g price_g N_g b_g <= budget

with `N_g` weights of a group, a multiple-choice knapsack: the rises are taken to add up. The greedy
solution buys, again and again, the wider codes that lower the loss most for their price among those
that can still be paid; it differs from the best one by less than the last thing that it could not
buy. The price of a bit is 1/8 for a budget of bytes, or what a weight is worth in SynOps.

References: Dong et al. 2019, https://arxiv.org/abs/1911.03852 (one sensitivity a layer, by Hessian;
ours measures the loss itself); Kellerer et al. 2004, "Knapsack problems", section 11.2 (greedy).

Letters in shapes: `G` groups, `W` widths, `O` output channels (the last axis).
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jaxsnn import tree
from jaxsnn.arrays import Array, Number, check_range
from jaxsnn.compress.budget import SLACK, check_budget
from jaxsnn.compress.codes import Quantized, Step, along_channels
from jaxsnn.compress.grids import Per, check_bits, check_channels, check_per, uniform_grid
from jaxsnn.errors import UserError

__all__ = ["MixedGrid", "allocate", "recipe", "sensitivity"]

WIDTHS = (2, 3, 4, 5, 6, 8)
BYTES = 0.125  # of a bit


@dataclass(frozen=True, eq=False)
class MixedGrid:
    """A uniform grid of 2 bits or more, or with 0 bits nothing: zeros.

    >>> MixedGrid(jnp.asarray([0, 3]), "channel")(jnp.asarray([[9.0, 3.0], [9.0, -1.0]])).tolist()
    [[0.0, 3.0], [0.0, -1.0]]
    """

    bits: Number  # `[]`, or `[O]` with a scale for each channel
    per: Per = "leaf"

    def quantize(self, leaf: Array) -> Quantized:
        """Return the codes, all 0 where there are 0 bits."""
        bits = along_channels(self.bits, leaf)
        found = uniform_grid(jnp.maximum(jnp.asarray(self.bits), 2), per=self.per).quantize(leaf)
        codes = jnp.where(bits > 0, found.codes, 0)
        return Step.of(found.scale, bits=bits).with_codes(codes)

    def __call__(self, leaf: Array) -> Array:
        """Return the nearest point of the grid, `[...]` like the leaf."""
        return self.quantize(leaf).decode().astype(leaf.dtype)

    def check(self, name: str, leaf: Array) -> None:
        """Raise a `UserError` by the leaf's name if the bits do not fit it."""
        check_bits(name, self.bits, leaf, self.per)
        check_channels(self.per, name, leaf)


def recipe(bits: Mapping[str, Number], *, per: Per = "leaf") -> dict[str, MixedGrid]:
    """Return a recipe of uniform grids of so many bits, for `compress.quantized` and the like.

    >>> recipe({"w": 2})["w"](jnp.asarray([1.0, -3.0, 0.5, 2.0])).tolist()
    [0.0, -2.5, 0.0, 2.5]

    Args:
      bits: pattern -> 0, or 2 to 16, or with `per="channel"` one for each channel, `[O]`; may be
        traced.
      per: "leaf", or "channel" for a scale for each output channel.

    Raises:
      UserError: if `per` is unknown; once the leaf is known, by its name, if bits do not fit it.
    """
    return {name: MixedGrid(each, check_per(per)) for name, each in bits.items()}


class _Trial(NamedTuple):
    """What is quantized in one evaluation of the loss."""

    leaf: Array  # place among the leaves, int32 []
    channel: Array  # of the leaf, int32 []; -1 for all
    width: Array  # place among the widths, int32 []


def sensitivity(
    loss: Callable[[Any], Array],
    weights: Any,
    *,
    where: str = "*/kernel",
    widths: Sequence[int] = WIDTHS,
    per: Per = "leaf",
    scales: Per | None = None,
    at_once: int = 1,
) -> dict[str, Array]:
    """Measure how much the loss rises with one leaf, or one channel, quantized to each width.

    One compiled program evaluates the loss once for each leaf (or channel) and width, and once for
    the weights as they are.

    >>> weights = {"a": jnp.asarray([3.0, 1.0]), "b": jnp.asarray([0.3, 0.1])}
    >>> loss = lambda weights: sum(jnp.sum((weights[n] - weights0[n]) ** 2) for n in weights)
    >>> weights0 = weights
    >>> found = sensitivity(loss, weights, where="*", widths=(2, 3))
    >>> [round(float(rise), 3) for rise in found["a"]]
    [1.0, 0.0]

    Args:
      loss: weights -> `[]`, of some samples, pure; it is given a network if `weights` is one.
      weights: a network, or a tree of arrays.
      where: pattern of the leaves.
      widths: bits to try, rising: 0 (all zero), 2 to 16.
      per: "leaf", or "channel" for the rise by each output channel alone.
      scales: "leaf" or "channel", what has a scale of its own; None for the same as `per`.
      at_once: how many losses are computed together (`vmap`), at least 1; they take as much more
        memory.

    Returns:
      leaf name -> rise of the loss, float32 `[W]` or `[W, O]`.

    Raises:
      UserError: if the pattern matches no leaf, or widths are no rising whole numbers.
    """
    params = tree.params_of(weights)
    leaves = tree.named_leaves(params)
    names = list(tree.match({where: True}, params))
    _check_widths(widths)
    scales = check_per(per if scales is None else scales)
    for name in names:
        check_channels(check_per(per), name, leaves[name])
        check_channels(scales, name, leaves[name])
    sizes = [leaves[name].shape[-1] if per == "channel" else 1 for name in names]
    rows = [
        (i, channel if per == "channel" else -1, width)
        for i, size in enumerate(sizes)
        for width in range(len(widths))
        for channel in range(size)
    ]

    def measured(params: Any) -> tuple[Array, Array]:
        values = tree.named_leaves(params)
        tables = {
            name: jax.lax.map(
                lambda b, x=values[name]: MixedGrid(b, scales)(x), jnp.asarray(widths)
            )
            for name in names
        }

        def rise(trial: _Trial) -> Array:
            tried = {}
            for i, name in enumerate(names):
                leaf = values[name]
                channels = jnp.arange(leaf.shape[-1]) if leaf.ndim else jnp.zeros([], jnp.int32)
                chosen = (trial.channel < 0) | (along_channels(channels, leaf) == trial.channel)
                on = jnp.broadcast_to((trial.leaf == i) & chosen, leaf.shape)
                tried[name] = jnp.where(on, tables[name][trial.width], leaf)
            return loss(tree.with_params(weights, tree.substitute(params, tried)))

        trials = _Trial(*jnp.asarray(np.array(rows, np.int32).T))
        found = jax.lax.map(rise, trials, batch_size=at_once if at_once > 1 else None)
        return jnp.asarray(found, jnp.float32), jnp.asarray(
            loss(tree.with_params(weights, params)), jnp.float32
        )

    losses, before = jax.jit(measured)(params)
    parts = jnp.split(losses - before, np.cumsum([len(widths) * size for size in sizes])[:-1])
    shape = (len(widths), -1) if per == "channel" else (len(widths),)
    return {name: part.reshape(shape) for name, part in zip(names, parts, strict=True)}


def allocate(
    rises: Mapping[str, Array],
    weights: Any,
    budget: Number,
    *,
    widths: Sequence[int] = WIDTHS,
    prices: Mapping[str, Number] | None = None,
) -> dict[str, Array]:
    """Return the bits of each leaf, or channel, that lower the loss most within a budget.

    >>> rises = {"a": jnp.asarray([1.0, 0.0]), "b": jnp.asarray([0.1, 0.0])}
    >>> weights = {"a": jnp.ones(80), "b": jnp.ones(80)}
    >>> bits = allocate(rises, weights, 80 * (4 + 2) / 8, widths=(2, 4))
    >>> {name: int(each) for name, each in bits.items()}
    {'a': 4, 'b': 2}

    Args:
      rises: leaf name -> rise of the loss at each width, `[W]` or `[W, O]`, of `sensitivity`.
      weights: the network or tree that they were measured on.
      budget: of all these leaves, above 0, may be traced: bytes of the codes, without scales, or
        in the unit of the prices.
      widths: those of the rises.
      prices: pattern -> what a bit of one weight costs, at least 0, may be traced; None for bytes.

    Returns:
      leaf name -> bits, int32 `[]` or `[O]`, for `recipe` or `learned_scales`. With a traced
      budget that cannot be met they are the smallest width.

    Raises:
      UserError: if a concrete budget cannot be met; the message names the largest leaf and the
        smallest budget that can. If a leaf is not there or its rises do not fit it.
    """
    leaves = tree.named_leaves(tree.params_of(weights))
    _check_widths(widths)
    check_range("budget", budget, 0, float("inf"), open_low=True)
    rows = {name: _rows(name, rise, leaves, len(widths)) for name, rise in rises.items()}
    paid = tree.match({"*": BYTES} if prices is None else prices, dict(rows))
    if missing := sorted(rows.keys() - paid.keys()):
        raise UserError(f"prices: there is none for {missing[0]!r}")
    each = {
        name: jnp.full(len(row), leaves[name].size / len(row), jnp.float32) * paid[name]
        for name, row in rows.items()
    }
    bits = jnp.asarray(widths, jnp.float32)
    costs = jnp.concatenate(list(each.values())).reshape(-1, 1) * bits.reshape(1, -1)
    least = {name: leaves[name].size * paid[name] * widths[0] for name in rows}
    check_budget(budget, least, f"{widths[0]} bits everywhere")
    chosen = _greedy(jnp.concatenate(list(rows.values())), costs, jnp.asarray(budget, jnp.float32))
    found = jnp.asarray(widths, jnp.int32)[chosen]
    parts = jnp.split(found, np.cumsum([len(row) for row in rows.values()])[:-1])
    return {
        name: part if jnp.ndim(rises[name]) == 2 else part[0]
        for name, part in zip(rows, parts, strict=True)
    }


def _check_widths(widths: Sequence[int]) -> None:
    """Raise a `UserError` unless the widths rise and a grid can have each."""
    whole = all(each in (0, *range(2, 17)) for each in widths)
    if not widths or not whole or sorted(set(widths)) != list(widths):
        raise UserError(f"widths must rise and be 0 or 2 to 16 bits, found {tuple(widths)}")


def _rows(name: str, rise: Array, leaves: Mapping[str, Array], count: int) -> Array:
    """Return the rises of a leaf's groups, `[groups, W]`, after they were checked."""
    found = jnp.asarray(rise, jnp.float32)
    if name not in leaves:
        raise UserError(f"rises name {name!r}, the leaves are: {', '.join(leaves)}")
    expected = (count,) if found.ndim == 1 else (count, *leaves[name].shape[-1:])
    if found.shape != expected:
        raise UserError(f"the rises of {name!r} have the shape {found.shape}, expected {expected}")
    return found.reshape(count, -1).T


def _greedy(rises: Array, costs: Array, budget: Array) -> Array:
    """Return the place of each group's width, int32 `[G]`; both tables are `[G, W]`."""
    groups, widths = rises.shape

    def buy(_: Array, chosen: Array) -> Array:
        has = chosen.reshape(-1, 1)
        cost = jnp.take_along_axis(costs, has, 1)
        gain = jnp.take_along_axis(rises, has, 1) - rises
        more = costs - cost
        left = budget * (1 + SLACK) - jnp.sum(cost)
        possible = (more > 0) & (more <= left) & (gain > 0)
        ratio = jnp.where(possible, gain / jnp.where(more > 0, more, 1.0), -jnp.inf)
        group, width = jnp.divmod(jnp.argmax(ratio), widths)
        wider = jnp.where(jnp.arange(groups) == group, width.astype(jnp.int32), chosen)
        return jnp.where(jnp.any(possible), wider, chosen)

    found: Array = jax.lax.fori_loop(0, groups * (widths - 1), buy, jnp.zeros(groups, jnp.int32))
    return found
