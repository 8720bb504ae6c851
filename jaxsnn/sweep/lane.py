"""What a sweep usually runs: a whole training, from the start values to the evaluation, traced.

The engine is that of `jaxsnn.train`; here its steps stand inside a compiled program, so that every
number of a method may be traced. Letters in shapes: `[]` a number, `N` samples.
"""

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jax import Array, lax

from jaxsnn import train, tree
from jaxsnn.arrays import Number, check_range, check_whole
from jaxsnn.compress import schedules, transforms
from jaxsnn.compress.projections import Recipe
from jaxsnn.errors import UserError
from jaxsnn.network import has_norms
from jaxsnn.train import Task, evaluation

Tree = Any
Point = Mapping[str, Array]  # axis -> its number in this lane, [] int32 or float32
Data = Mapping[str, Any]  # "train" and the splits to evaluate -> (images, labels), and more


def _same(params: Tree) -> Tree:
    return params


def _last(state: train.TrainState) -> Tree:
    return state.params


class Method(NamedTuple):
    """Say how weights are trained, and what comes before the first step and after the last."""

    optimizer: optax.GradientTransformation
    begin: Callable[[Tree], Tree] = _same  # start values -> the weights that the first step sees
    finish: Callable[[train.TrainState], Tree] = _last  # last state -> the weights of the product


def straight_through(
    inner: optax.GradientTransformation,
    recipe: Recipe,
    rule: transforms.GradientRule | None = None,
) -> Method:
    """Return quantization-aware training: `transforms.latent`, begun visibly and snapped at last.

    Args:
      inner: the optimizer of the free copies.
      recipe: pattern -> projection; its numbers may be traced.
      rule: for the gradient through the projection; the identity if None.
    """

    def finish(state: train.TrainState) -> Tree:
        found = transforms.find(state.opt_state, transforms.LatentState)
        return transforms.snap(recipe, found, state.params)

    optimizer = transforms.latent(inner, recipe, straight_through=rule)
    return Method(optimizer, lambda params: transforms.visible(recipe, params), finish)


def fit(
    task: Task,
    method: Method | optax.GradientTransformation,
    params: Tree,
    stats: Tree,
    split: tuple[Array, Array],
    *,
    epochs: int,
    batch_size: int,
    key: Array,
) -> tuple[Tree, Tree, train.Sums]:
    """Train for some epochs inside a compiled program: `train.fit` without what a host does.

    Args:
      task: network, input and loss; may hold traced numbers. In a sweep the lanes are what is
        spread over devices, so there its own number of `devices` must be 1.
      method: an optimizer, or a `Method`; may hold traced numbers.
      params: start values.
      stats: running statistics and constants.
      split: images uint8 `[N, ...]` and labels int32 `[N]`.
      epochs: how many, static.
      batch_size: samples of a step, static.
      key: from which shuffling, encoding and dropout are drawn.

    Returns:
      The weights, the statistics, and the sums of each epoch, leaves `[epochs]`.

    Raises:
      UserError: if the batch does not fit the data.
    """
    size = split[1].shape[0]
    check_whole("batch_size", batch_size, 1, size)
    check_whole("epochs", epochs, 0, 1 << 20)
    method = method if isinstance(method, Method) else Method(method)
    state = train.init(params, stats, method.optimizer, key)
    state = state._replace(params=method.begin(state.params))
    steps = size // batch_size

    def epoch(state: train.TrainState, number: Array) -> tuple[train.TrainState, train.Sums]:
        sums, stop = train.no_sums(), (number + 1) * steps
        return train.steps(task, method.optimizer, batch_size, state, sums, split, stop)

    state, sums = lax.scan(epoch, state, jnp.arange(epochs))
    return method.finish(state), state.stats, sums


def training(
    start: Callable[[Point, Data], tuple[Tree, Tree]],
    task: Callable[[Point], Task],
    method: Callable[[Point, Tree], Method | optax.GradientTransformation],
    *,
    epochs: int,
    batch_size: int,
    timesteps: int | None = None,
    seed: int = 0,
) -> Callable[[Point, Data], tuple[Tree, dict[str, Any]]]:
    """Return a run for `sweep.run`: start, train, evaluate.

    It reads these axes of a point by itself, if they are there; what others mean, the three
    functions say:

        seed          of the training's random numbers
        decay         of all neurons (`with_constants`)
        threshold     of all neurons
        timesteps     steps that count, of `timesteps` (`shortened`)

    Args:
      start: (point, data) -> (params, stats) to start from: drawn from `point["seed"]`, or taken
        from the data.
      task: point -> task; its number of `devices` is taken to be 1.
      method: (point, start values) -> `Method` or optimizer.
      epochs: of the training.
      batch_size: samples of a step.
      timesteps: T of the network; needed by the axis `timesteps` alone.
      seed: where it is no axis.

    Returns:
      The run. Its data are a dictionary with "train" -> (images, labels), and more such splits to
      evaluate. It returns `{"params", "stats"}` and the metrics `loss`, `spike_rate` and
      `train_accuracy`, means over the batches of the last epoch `[]`, those of every epoch as
      `epochs/...` `[epochs]`, and for each other split `NAME_accuracy` `[]`.

    Raises:
      UserError: if there is no epoch.
    """
    check_whole("epochs", epochs, 1, 1 << 20)

    def run(point: Point, data: Data) -> tuple[Tree, dict[str, Any]]:
        params, stats = start(point, data)
        stats = with_constants(stats, **constants_of(point))
        this = task(point)._replace(devices=1)
        if "timesteps" in point:
            if timesteps is None:
                raise UserError("the axis 'timesteps' needs training(timesteps=T of the network)")
            if has_norms(stats):
                raise UserError(
                    "the axis 'timesteps' needs a network without batch normalisation, which would "
                    "average over the steps that do not count"
                )
            this = shortened(this, point["timesteps"], timesteps)
        key = jax.random.key(point.get("seed", seed))
        params, stats, sums = fit(
            this, method(point, params), params, stats, data["train"],
            epochs=epochs, batch_size=batch_size, key=key,
        )  # fmt: skip
        means = {
            "loss": sums.loss / sums.steps,
            "spike_rate": sums.spike_rate / sums.steps,
            "train_accuracy": sums.correct / (sums.steps * batch_size),
        }
        metrics: dict[str, Any] = {name: each[-1] for name, each in means.items()}
        metrics["epochs"] = means
        for name, split in data.items():
            if name != "train" and isinstance(split, tuple) and split[1].shape[0]:
                over_time, _, _ = evaluation.measure(this, params, stats, split)
                metrics[f"{name}_accuracy"] = over_time[-1]
        return {"params": params, "stats": stats}, metrics

    return run


def constants_of(point: Point) -> dict[str, Array]:
    """Return the axes of a point that are constants of neurons, arguments of `with_constants`."""
    return {name: point[name] for name in ("decay", "threshold") if name in point}


def with_constants(
    stats: Tree, *, decay: Number | None = None, threshold: Number | None = None
) -> Tree:
    """Return a network's statistics with other constants of its neurons, in all layers.

    Args:
      stats: of `functional.split`; constants that are trained are not among them.
      decay: share of the potential left after a step, in [0, 1], may be traced; None leaves it.
      threshold: potential above which a neuron spikes, > 0, may be traced; None leaves it.

    Raises:
      UserError: if there is no such constant, or a number is out of range.
    """
    new: dict[str, Number] = {}
    if decay is not None:
        new["*/neurons/decay"] = check_range("decay", decay, 0.0, 1.0)
    if threshold is not None:
        ends = {"open_low": True, "open_high": True}
        new["*/neurons/threshold"] = check_range("threshold", threshold, 0.0, float("inf"), **ends)
    matched = tree.match(new, stats)
    return tree.map_named(
        lambda name, leaf: jnp.full_like(leaf, matched[name]) if name in matched else leaf, stats
    )


def shortened(task: Task, active: Number, timesteps: int) -> Task:
    """Return a task of which only the first time steps count, their number traced.

    The read-out is weighted with `schedules.time_weights`, so that loss, gradient and accuracy are
    those of a network that is stopped after `active` steps. Spikes are counted over all steps.

    Args:
      task: of a network without batch normalisation.
      active: how many steps count, whole, in [1, T], may be traced.
      timesteps: T of the network.
    """
    weights = schedules.time_weights(active, timesteps)

    def apply(params: Tree, stats: Tree, x: Any, **options: Any) -> Any:
        output = task.apply(params, stats, x, **options)
        return output._replace(readout=schedules.over_time(weights, output.readout))

    return task._replace(apply=apply)
