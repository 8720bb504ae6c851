"""A part of a lane's training as one program, so that lanes of different ages share it.

A segment is some epochs. Its lane starts from its point if it is fresh, otherwise from the state
that it was left in; both are the same program, so a lane may be replaced at any time:

    segment(axis/NAME, fresh, state/NUMBER; data)
        -> the network as it stands, its counts, its metrics, and its state

All arguments before the semicolon are flat, for `chunks.build_program` maps over a flat dictionary.
"""

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

import jax
import jax.numpy as jnp
from jax import Array

from jaxsnn.compress.phase import Phase, as_phase
from jaxsnn.sweep.lane import Lane, LaneFunction, as_lane, train_traced
from jaxsnn.train import Task, divergence, evaluation, loop

__all__ = ["AXIS", "FRESH", "begun", "segment"]

Tree = Any
Flat = Mapping[str, Array]

AXIS, FRESH, STATE = "axis/", "fresh", "state/"


def segment(
    lane: LaneFunction,
    task: Task,
    *,
    epochs: int,
    batch_size: int,
    seed: int,
    judge: str,
    goes_on: bool,
) -> Callable[[Flat, Tree], dict[str, Any]]:
    """Return the function that trains a lane for one segment and evaluates it.

    Args:
      lane: what a point trains.
      task: of all lanes that bring none of their own.
      epochs: of the segment.
      batch_size: samples of a step.
      seed: where a lane has none.
      judge: the split that it is evaluated on.
      goes_on: whether lanes may start from a state, and give theirs.

    Returns:
      `(points, {"start": network, "splits": name -> (samples, labels)})` -> `net`; `counts` on the
      split; `metrics`: `accuracy` on the split, `loss` of the last epoch and whether it has
      `diverged`, each `[]`; and where lanes go on `state`, a list of leaves.
    """

    def run(point: Flat, data: Tree) -> dict[str, Any]:
        this, phase, state = _begin(lane, point, data, seed)
        own = replace(this.task or task, devices=1)
        split = data["splits"]["train"]
        if goes_on:
            fresh, structure = jax.tree.flatten(state)
            kept = [point[f"{STATE}{i:04d}"] for i in range(len(fresh))]
            chosen = [jnp.where(point[FRESH], a, b) for a, b in zip(fresh, kept, strict=True)]
            state = jax.tree.unflatten(structure, chosen)
        state, sums = train_traced(own, phase, state, split, epochs=epochs, batch_size=batch_size)
        net = loop.end_phase(phase, state)
        over_time, _, counts = evaluation.evaluate_traced(own, net, data["splits"][judge])
        correct = sums.correct[-1] / (sums.steps[-1] * batch_size)
        metrics = {
            "accuracy": over_time[-1],
            "loss": sums.loss[-1] / sums.steps[-1],
            "diverged": divergence.has_diverged(this.net.params, net.params, correct, split[1]),
        }
        found = {"net": net, "counts": counts, "metrics": metrics}
        return found | {"state": jax.tree.leaves(state)} if goes_on else found

    return run


def begun(
    lane: LaneFunction, point: Mapping[str, Any], data: Tree
) -> dict[str, jax.ShapeDtypeStruct]:
    """Return the shapes of a lane's state, by the names under which a segment takes it."""
    shapes = jax.eval_shape(lambda point, data: _begin(lane, point, data, 0)[2], point, data)
    return {f"{STATE}{i:04d}": leaf for i, leaf in enumerate(jax.tree.leaves(shapes))}


def _begin(
    lane: LaneFunction, point: Flat, data: Tree, seed: int
) -> tuple[Lane, Phase, loop.TrainState]:
    """Return what a lane trains, with what, and the state that it starts from."""
    axes = {name.removeprefix(AXIS): x for name, x in point.items() if name.startswith(AXIS)}
    this = as_lane(lane(axes, data["start"]))
    phase = as_phase(this.phase)
    key = loop.phase_key(seed if this.seed is None else this.seed, "train")
    return this, phase, loop.init(this.net, phase, key)
