"""Train the dense network, sweep or search, measure every network, choose, draw the fronts."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import jax
import jax.numpy as jnp
import optax

from experiments import common
from experiments.sweep import __doc__ as about
from experiments.sweep import choice, search
from experiments.sweep.config import PRESETS, Config
from jaxsnn import compress, sweep
from jaxsnn.compress import distributions, masks
from jaxsnn.errors import UserError
from jaxsnn.methods import Result, Trained, Trainer, admm
from jaxsnn.methods.result import CONTROL
from jaxsnn.network import Network
from jaxsnn.sweep.grid import point_name
from jaxsnn.sweep.lane import fit_traced
from jaxsnn.train.loop import phase_key


def lane(config: Config, problem: common.Problem, trainer: Trainer) -> Callable[..., sweep.Lane]:
    """Return what one lane does with the dense network: pull, prune, train straight through."""
    c = config.sweep
    exponent = {"root": 0.5, "uniform": 1.0}[c.allocation]

    def one(point: Any, start: Network) -> sweep.Lane:
        constants = {name: point[name] for name in ("decay", "threshold") if name in point}
        start = sweep.with_constants(start, **constants)
        active = {"active": point["timesteps"]} if "timesteps" in point else {}
        weight = point.get("spike_weight", problem.task.spike_weight)
        task = replace(problem.task, spike_weight=weight, devices=1, **active)

        def adam(epochs: int) -> optax.GradientTransformation:
            shape = trainer.cosine(1.0, epochs)
            rate = point.get("learning_rate", c.learning_rate)
            return optax.adam(lambda count: rate * shape(count))

        seed = point.get("seed", c.seed)
        shares = distributions.spread(start.params, point["sparsity"], exponent=exponent)
        if c.pull_epochs:
            pull = compress.pulled(
                adam(c.pull_epochs), admm.prune_recipe(shares),
                point.get("penalty", c.penalty), every=trainer.steps(1),
            )  # fmt: skip
            split = jax.tree.map(jnp.asarray, tuple(problem.data.train))
            start, _ = fit_traced(
                task, pull, start, split, epochs=c.pull_epochs, batch_size=c.batch_size,
                key=phase_key(seed, "pull"),
            )  # fmt: skip
        kept = masks.keep_fraction(start.params, shares)
        recipe = admm.quantize_recipe("uniform", point["bits"], masks=kept)
        return sweep.Lane(compress.quantized(adam(c.tune_epochs), recipe), start, task, seed)

    return one


def load(config: Config) -> common.Problem:
    """Read the data and build the network; every mistake of the user's shows here."""
    config.check()
    if config.search.search is not None:
        search.check(config)
    c = config.sweep
    problem = common.load(config, seed=c.seed, batch_size=c.batch_size)
    if not len(problem.data.validation.labels):
        raise UserError(f"--validation {config.data.validation} holds no image out to choose by")
    if "timesteps" in c.grid() and problem.net.has_norms:
        raise UserError(
            "--axis timesteps=... needs a network without batch normalisation: its averages would "
            "include the steps that do not count"
        )
    admm.sparsities(problem.net, max(c.sparsity), c.allocation)  # refuses to empty a layer
    return problem


def swept(
    config: Config, problem: common.Problem, there: common.Run, dense: Network, lane: Any
) -> choice.Tried:
    """Train the grid; finished chunks are read back."""
    c = config.sweep
    found = sweep.run(
        lane, c.grid(), problem.task, dense,
        {"train": problem.data.train, "validation": problem.data.validation},
        epochs=c.tune_epochs, batch_size=c.batch_size, axes=c.axes(config.task.timesteps),
        lanes=c.lanes, chunk=c.chunk, directory=there.directory / "sweep",
        budget=None if c.memory_mb is None else 1e6 * c.memory_mb,
    )  # fmt: skip
    networks, accuracies = {}, {}
    for number, row in enumerate(found.rows):
        point = {name: row[name] for name in found.points}
        if not row["diverged"]:
            net = jax.tree.map(jnp.asarray, found.lane(number)[1])
            task = problem.task.at(int(point.get("timesteps", config.task.timesteps)))
            networks[point_name(point)] = Trained(net, task)
            accuracies[point_name(point)] = float(row["validation_accuracy"])
    if not networks:
        raise UserError("every lane diverged: lower --learning-rate, or the values of --axis")
    return choice.Tried(networks, accuracies, choice.pictures(found), {"lanes": found.rows})


def run(config: Config) -> None:
    """Run the experiment."""
    problem, c = load(config), config.sweep
    there = common.Run("sweep", config)
    trainer = Trainer(there.fit, problem.data, c.batch_size, c.seed)
    adam = optax.adam(trainer.cosine(c.learning_rate, c.dense_epochs))
    dense = trainer("dense", problem.task, adam, problem.net, c.dense_epochs)
    way = swept if config.search.search is None else search.searched
    tried = way(config, problem, there, dense, lane(config, problem, trainer))
    first = {"dense": Trained(dense, problem.task)}
    if c.control:
        epochs = c.pull_epochs + c.tune_epochs
        adam = optax.adam(trainer.cosine(c.learning_rate, epochs))
        longer = trainer(CONTROL, problem.task, adam, dense, epochs)
        first[CONTROL] = Trained(longer, problem.task)
    whole = Result.of(first | tried.networks, problem.data, seed=c.seed)
    chosen = choice.choose(config, problem, whole, tried.accuracies)
    there.say(f"chosen: {chosen.name}")
    there.finish(
        choice.with_product(whole, chosen),
        title=f"A sweep on {problem.data.name}",
        summary=choice.summary(config, problem, chosen),
        samples=problem.data.test,
        more=tried.pictures(whole, chosen),
        fronts=chosen.fronts,
        **tried.extra,
    )
    print(f"chosen   {chosen.name}\nfronts   {choice.said(chosen.fronts)}")


EXPERIMENT = common.Experiment("sweep", about, Config, PRESETS, run)
