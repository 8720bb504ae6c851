"""How much of each stage a budget buys: found on held-out images, by a few short trainings.

A candidate is a share of channels, a number of bits and a sparsity of the connections between the
channels that stay. The file that it will take is known before any training: channels are cut, the
smallest weights pruned, the others quantized and packed, and the file's bytes counted.

    bytes    for each share and number of bits the least sparsity with which the file fits, or is
             larger by no more than `spare` (bisection); the candidate with the highest accuracy is
             taken
    points   shares, bits and sparsities as listed; of those that lose no more, the smallest file

What accuracy a candidate keeps is measured after a short training on some of the images with all of
its sets in force at once, as one lane of a sweep: one compiled program for all, in which channels
are masked, not cut. Time steps come later, when fewer of them are tried on held-out images; a
budget of points leaves them what the candidate has not used up.
"""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax import Array

from jaxsnn import compress as sets
from jaxsnn import export, train, tree
from jaxsnn.compress.schedules import is_accepted
from jaxsnn.data import Split
from jaxsnn.errors import UserError
from jaxsnn.methods import channels, stages
from jaxsnn.methods.pipeline import Held, Pipeline, hidden, level_recipe
from jaxsnn.network import Network
from jaxsnn.options import replaced
from jaxsnn.sweep.lane import Lane, training
from jaxsnn.sweep.lanes import run_lanes

__all__ = ["Arrays", "Keep", "check", "fit_file", "outcome", "settle", "trim"]

Arrays = dict[str, Any]
Keep = Callable[[str, Callable[[], Arrays]], Arrays]
"""(name, what computes arrays) -> the arrays: computed, or read back by a run that is resumed."""

SPARSEST = (0.995, 0.99, 0.98, 0.95, 0.9, 0.8, 0.6, 0.3, 0.0)  # tried as the most, in this order
CLOSE = 0.985  # a file of this share of the budget needs no better sparsity
ROUNDS = 8  # of the bisection
MOST, LEAST = 0.8, 0.99  # share of a try's weights that the next one keeps, before a file fits
TRIMS = 30  # of these tries
NEAR = 1e-3  # two of their shares that need none between them
FEW = 1.05  # a file of so many times the budget loses too much to be left as it is then


class Narrow(NamedTuple):
    """A network whose channels were cut."""

    net: Network
    places: Any  # of its weights in the leaves of the whole network, whole numbers


@dataclass(frozen=True, eq=False)
class Candidate:
    """How much of each stage, and the file that it takes."""

    channels: float
    bits: int
    sparsity: float
    num_bytes: int
    masks: Any = None  # of the whole network's leaves


def check(pipeline: Pipeline, net: Network) -> None:
    """Refuse a number of bytes that even the smallest candidate does not fit into.

    Args:
      pipeline: its options say which candidates there are.
      net: the network, maybe untrained: the bytes hardly depend on its weights.

    Raises:
      UserError: naming the smallest size that is reached.
    """
    c = pipeline.chosen
    if c.bytes is not None:
        share = max(_shares(c))
        names = hidden(net, pipeline.dense[1])
        leaves = tree.named_leaves(net.params)
        scores = {x: np.zeros((1, leaves[f"{x}/kernel"].shape[-1])) for x in names}
        narrow = _cut(pipeline, net, scores, share)
        least = _sparsest(pipeline, narrow, share, min(c.search_bits))
        _refuse(c.bytes, least)


def settle(pipeline: Pipeline, keep: Keep) -> tuple[stages.Options, dict[str, Any]]:
    """Return the options that the budget buys, and what was found on the way, in JSON types.

    Args:
      pipeline: with the dense network, its data, and options with a budget.
      keep: keeps what is expensive for a run that is resumed.

    Raises:
      UserError: if no candidate meets the budget, naming the nearest.
    """
    c = pipeline.chosen
    arrays = keep("budget", lambda: _searched(pipeline))
    accuracy = np.asarray(arrays["accuracy"])
    sizes, whole = np.asarray(arrays["num_bytes"]), float(arrays["dense"])
    if c.bytes is not None:
        best = min(range(len(sizes)), key=lambda i: (-accuracy[i], sizes[i]))
    else:
        share = (c.points or 0.0) / 100
        near = [i for i, each in enumerate(accuracy) if is_accepted(whole, float(each), share)]
        if not near:
            i = int(accuracy.argmax())
            raise UserError(
                f"points {c.points:g}: the candidate that loses least on held-out images loses "
                f"{100 * (whole - accuracy[i]):.2f} points with {sizes[i]:,} bytes; allow more, "
                "search longer (search_epochs, search_samples) or larger networks"
            )
        best = min(near, key=lambda i: (sizes[i], -accuracy[i]))
    names = ("channels", "bits", "sparsity", "num_bytes", "accuracy")
    table = [
        {name: np.asarray(arrays[name])[i].item() for name in names} for i in range(len(sizes))
    ]
    found = {"bytes": c.bytes, "points": c.points, "dense_accuracy": whole, "candidates": table}
    taken = table[best]
    chosen: dict[str, Any] = {"bits": int(taken["bits"]), "sparsity": taken["sparsity"]}
    if "channels" in c.stages:
        chosen["channel_ratios"] = taken["channels"]
    if c.points is not None:
        chosen["tolerance"] = max(c.points / 100 - (whole - taken["accuracy"]), 0.0)
    return replaced(c, **chosen), found | {"chosen": taken}


def trim(pipeline: Pipeline, held: Held) -> Held:
    """Remove the smallest weights that are left, no more than it takes to fit a budget of bytes.

    How many that are is found by bisection, for grids are fitted anew to the weights that stay. A
    file that is still too large after `TRIMS` tries stays so (`outcome`).
    """
    budget, size = pipeline.chosen.bytes, pipeline.bytes_of(held)
    if budget is None or size <= budget:
        return held
    best: Held | None = None
    low, high = 0.0, 1.0  # shares of the weights that stay
    share = budget / size
    for _ in range(TRIMS):
        last = _kept(pipeline, held, share)
        size = pipeline.bytes_of(last)
        if size <= budget:
            best, low = last, share
        else:
            high = share
        if CLOSE * budget <= size <= budget or high - low < NEAR:
            break
        share = (low + high) / 2 if best else high * min(max(budget / size, MOST), LEAST)
    return best or last


def _kept(pipeline: Pipeline, held: Held, share: float) -> Held:
    """Return what is held with a share of each kernel's weights that are not zero, the largest."""
    weights = jax.tree.map(
        lambda seen, free: jnp.where(seen != 0, free, 0), held.seen.params, held.free.params
    )
    leaves = tree.named_leaves(weights)
    largest = {
        name: sets.keep_largest(1 - share * np.count_nonzero(leaves[name]) / leaves[name].size)
        for name in tree.match({"*/kernel": True}, weights)
    }
    held = replace(held, masks=sets.prune(weights, largest)[1])
    return replace(held, seen=pipeline.see(held))


def fit_file(pipeline: Pipeline, name: str, held: Held, epochs: int) -> Held:
    """Trim the product of the last training; train once more what loses more than a little by that.

    Weights that a grid held at zero leave it in training. By how much a file grows then is not
    known beforehand: two bits on MNIST took a quarter more than was planned, and to cut that off
    without training cost two points.

    Args:
      pipeline: its options have the budget.
      name: of the last stage; the phase is "NAME trimmed".
      held: what was trained.
      epochs: of that phase.
    """
    budget = pipeline.chosen.bytes
    if budget is None or pipeline.bytes_of(held) <= FEW * budget:
        return trim(pipeline, held)
    return trim(pipeline, pipeline.tune(f"{name} trimmed", trim(pipeline, held), epochs))


def outcome(pipeline: Pipeline, held: Held, dense_accuracy: float) -> dict[str, Any]:
    """Return what became of a budget: the file's bytes, the points lost, whether it was met.

    Args:
      pipeline: its options have the budget.
      held: the product.
      dense_accuracy: of the dense network on the held-out images.
    """
    c, size = pipeline.chosen, pipeline.bytes_of(held)
    accuracy = pipeline.validate(replace(held, seen=pipeline.packed(held.seen)))
    met = (
        size <= c.bytes
        if c.bytes is not None
        else is_accepted(dense_accuracy, accuracy, (c.points or 0.0) / 100)
    )
    lost = 100 * (dense_accuracy - accuracy)
    return {"file_bytes": size, "lost_points": lost, "met": bool(met)}


def _searched(pipeline: Pipeline) -> Arrays:
    """Return the candidates and what accuracy each keeps, arrays `[candidates]`."""
    net, task = pipeline.dense
    found = candidates(pipeline)
    validation = pipeline.trainer.data.validation
    dense = train.evaluate(task, net, validation).accuracy
    accuracy = _accuracies(pipeline, found)
    arrays: Arrays = {
        name: np.asarray([getattr(each, name) for each in found])
        for name in ("channels", "bits", "sparsity", "num_bytes")
    }
    return arrays | {"accuracy": accuracy, "dense": np.asarray(dense)}


def candidates(pipeline: Pipeline) -> list[Candidate]:
    """Return the candidates, with their masks and the bytes of their files.

    Raises:
      UserError: if none fits the budget of bytes.
    """
    c, (net, task) = pipeline.chosen, pipeline.dense
    names, scores = hidden(net, task), {}
    if any(_shares(c)):
        images = pipeline.trainer.data.train.images
        scores = channels.scores(
            net, task, images, names, seed=c.seed,
            batches=c.calibration_batches, batch_size=c.calibration_batch_size,
        )  # fmt: skip
    found, least = [], []
    for share in _shares(c):
        narrow = _cut(pipeline, net, scores, share)
        for bits in c.search_bits:
            if c.bytes is None:
                each = [_sized(pipeline, narrow, share, bits, s) for s in c.search_sparsity]
                found += [x for x in each if x is not None]
            else:
                least.append(_sparsest(pipeline, narrow, share, bits))
                if least[-1].num_bytes <= c.bytes:
                    found.append(_solved(pipeline, narrow, least[-1]))
    if not found and least:
        _refuse(c.bytes or 0, min(least, key=lambda each: each.num_bytes))
    if not found:
        raise UserError("search_sparsity: each of them would leave a layer without any weight")
    return found


def _shares(c: stages.Options) -> tuple[float, ...]:
    """Return the shares of channels that are tried."""
    return c.search_channels if "channels" in c.stages else (0.0,)


def _cut(pipeline: Pipeline, net: Network, scores: Mapping[str, Any], share: float) -> Narrow:
    """Return the network without a share of its channels, and where its weights were."""
    numbers = jax.tree.map(
        lambda leaf: jnp.arange(leaf.size, dtype=jnp.int32).reshape(leaf.shape), net.params
    )
    if not share:
        return Narrow(net, numbers)
    ratios = channels.shares(hidden(net, pipeline.dense[1]), share)
    kept = channels.kept(scores, ratios)
    inputs = pipeline.dense[1].inputs
    small = export.shrink(net, kept, inputs=inputs)
    places = export.shrink(net.replace(params=numbers), kept, inputs=inputs).params
    return Narrow(small, places)


def _sized(
    pipeline: Pipeline, narrow: Narrow, share: float, bits: int, sparsity: float
) -> Candidate | None:
    """Return a candidate with its bytes and masks; None if it would empty a layer."""
    (net, task), small = pipeline.dense, narrow.net
    own = replace(pipeline, chosen=replaced(pipeline.chosen, bits=bits, sparsity=sparsity))
    held = Held(small, small, task)
    try:
        recipe = own.sparse(held)
    except UserError:
        return None
    free, left = sets.prune(small, recipe)
    held = Held(free, free, task, left, quantized=True)
    size = own.bytes_of(replace(held, seen=own.see(held)))

    def whole(leaf: Array, places: Array, mask: Array) -> np.ndarray:
        kept = np.broadcast_to(np.asarray(mask), places.shape)
        found = np.zeros(leaf.size, bool)
        found[np.asarray(places)[kept]] = True
        return found.reshape(leaf.shape)

    masks = jax.tree.map(whole, net.params, narrow.places, left)
    return Candidate(share, bits, sparsity, size, masks)


def _sparsest(pipeline: Pipeline, narrow: Narrow, share: float, bits: int) -> Candidate:
    """Return the candidate of the highest sparsity that leaves each layer some weights."""
    tried = (_sized(pipeline, narrow, share, bits, sparsity) for sparsity in SPARSEST)
    return next(each for each in tried if each is not None)


def _solved(pipeline: Pipeline, narrow: Narrow, least: Candidate) -> Candidate:
    """Return the candidate of the lowest sparsity whose file fits, between `least` and none."""
    budget = (pipeline.chosen.bytes or 0) * (1 + pipeline.chosen.spare)
    full = _sized(pipeline, narrow, least.channels, least.bits, 0.0)
    if full is not None and full.num_bytes <= budget:  # codes alone, without positions
        return full
    best, low, high = least, math.log(1 - least.sparsity), 0.0  # of the densities
    for _ in range(ROUNDS):
        if best.num_bytes >= CLOSE * budget:
            break
        middle = (low + high) / 2
        sparsity = round(1 - math.exp(middle), 6)
        each = _sized(pipeline, narrow, least.channels, least.bits, sparsity)
        if each is None or each.num_bytes <= budget:
            best, low = each or best, middle
        else:
            high = middle
    return best


def _refuse(budget: int, least: Candidate) -> None:
    """Raise if the smallest candidate is too large."""
    if least.num_bytes > budget:
        raise UserError(
            f"bytes {budget}: the smallest file that was reached takes {least.num_bytes:,} bytes "
            f"({least.channels:.0%} of the channels and {least.sparsity:.1%} of the connections "
            f"removed, {least.bits} bits); allow as many, or take a smaller network"
        )


def _accuracies(pipeline: Pipeline, found: list[Candidate]) -> np.ndarray:
    """Return what accuracy each candidate keeps on held-out images after a short training."""
    c, (net, task), data = pipeline.chosen, pipeline.dense, pipeline.trainer.data
    size = min(c.search_samples, len(data.train.labels))
    rows = np.random.default_rng(c.seed).permutation(len(data.train.labels))[:size]
    batch = min(c.batch_size, size)
    few = Split(data.train.images[rows], data.train.labels[rows])
    rate = optax.cosine_decay_schedule(c.learning_rate, c.search_epochs * (size // batch))

    def trained(point: Mapping[str, Array], given: Any) -> tuple[Any, dict[str, Any]]:
        masks = jax.tree.map(lambda each: each[point["candidate"]], given["masks"])
        params = jax.tree.map(lambda m, x: jnp.where(m, x, 0), masks, given["start"].params)
        recipe = level_recipe(c, point["bits"], net, task, masks)
        inside = sets.pruned(optax.adam(rate), masks).optimizer
        begun = given["start"].replace(params=params)
        lane = Lane(sets.quantized(inside, recipe), begun)
        run = training(lambda *_: lane, task, epochs=c.search_epochs, batch_size=batch, seed=c.seed)
        _, metrics = run(dict(point), {"start": begun, "splits": given["splits"]})
        return {}, {name: metrics[name] for name in ("validation_accuracy", "diverged")}

    stacked = jax.tree.map(lambda *each: np.stack(each), *(each.masks for each in found))
    splits = {"train": few, "validation": data.validation}
    swept = run_lanes(
        trained,
        [{"candidate": i, "bits": each.bits} for i, each in enumerate(found)],
        {"start": net.replace(steps={}), "splits": splits, "masks": stacked},
        name="budget",
    )
    return np.where(swept.diverged, 0.0, np.asarray(swept.metrics["validation_accuracy"]))
