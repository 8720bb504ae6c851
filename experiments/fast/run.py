"""What `experiments.fast` does: a network for each way, trained fast, measured on two sets."""

import math
import time
from typing import Any

import experiments.fast
from experiments import common
from experiments.common import changed, flat
from experiments.fast.config import PRESETS, WAYS, Config
from jaxsnn.data import Dataset
from jaxsnn.methods import Result, Trained, fast
from jaxsnn.train.mirroring import mirrored_accuracy

MIRRORED = ("alternate", "crop-flip", "autoaugment")  # trained on mirror images


def run(config: Config) -> None:
    """Train the network in every way, report."""
    configs = {way: changed(config, changes_of(way, config)) for way in config.ablation.ways}
    problems = {way: load(each) for way, each in configs.items()}
    there, first = common.Run("fast", config), next(iter(problems.values()))
    networks, extra = dict[str, Trained](), dict[str, dict[str, Any]]()
    for way, problem in problems.items():
        began, method = time.process_time(), configs[way].method
        fit = there.fit if len(problems) == 1 else there.within(way)
        net = fast.train_fast(problem.net, problem.task, problem.data, method, fit=fit)
        core_seconds = round(time.process_time() - began, 1)
        networks[way] = Trained(net, problem.task)
        extra[way] = mirrored(networks[way], problem.data)
        if not config.run.resume:  # the processes before are gone, and what they took
            extra[way]["core_seconds"] = core_seconds
    seed = config.method.seed
    result = Result.of(networks, first.data, seed=seed, extra=extra, held_out=True)
    text = " ".join(f"{row.name}: {said(row.to_row())}." for row in result.report.rows)
    there.finish(
        result,
        title=f"A spiking network of {config.run.dataset} in little time",
        summary=f"{common.summary_of(first, config.network)} {text}",
        samples=first.data.test,
    )
    print(f"\n{text}")


def load(config: Config) -> common.Problem:
    """Return the problem of a way; every mistake of the user's shows here."""
    method = config.method
    problem = common.load(config, seed=method.seed, batch_size=method.batch_size, **common.QP_SNN)
    fast.check(problem.net, problem.task, method)
    return problem


def changes_of(way: str, config: Config) -> dict[str, Any]:
    """Return the options that a way changes: another part, or all epochs of one length."""
    o = flat(config)
    short, steps = o["short_epochs"], o["timesteps"]
    more = {
        "spikes only": {"ann_epochs": 0, "short_epochs": o["ann_epochs"] + short},
        # As many steps of time: as long a training.
        "one step": {"timesteps": 1, "short_epochs": short + steps * o["epochs"], "epochs": 0},
        "all steps": {"short_epochs": 0, "epochs": max(1, round(short / steps + o["epochs"]))},
    }
    return WAYS[way] | more.get(way, {})


def mirrored(trained: Trained, dataset: Dataset) -> dict[str, float]:
    """Return accuracies with mirror images, on both sets, of a network that was trained on them."""
    if trained.task.augment not in MIRRORED:
        return {}
    sets = {"mirrored_accuracy": dataset.test, "held_out_mirrored_accuracy": dataset.validation}
    return {
        name: mirrored_accuracy(trained.task, trained.network, split)
        for name, split in sets.items()
        if len(split.labels)
    }


def said(row: dict[str, Any]) -> str:
    """Return a line about a row, with the binomial error of one deviation."""
    parts = []
    if "held_out_accuracy" in row:
        accuracy, samples = row["held_out_accuracy"], row["held_out_samples"]
        error = math.sqrt(accuracy * (1 - accuracy) / samples)
        parts.append(f"{100 * accuracy:.2f} +- {100 * error:.2f} % of {samples:,} held-out images")
    if "held_out_mirrored_accuracy" in row:
        parts.append(f"{100 * row['held_out_mirrored_accuracy']:.2f} % with mirror images")
    if "core_seconds" in row:
        parts.append(f"{row['core_seconds'] / 60:.1f} core-minutes")
    return ", ".join(parts)


EXPERIMENT = common.Experiment("fast", experiments.fast.__doc__, Config, PRESETS, run)
