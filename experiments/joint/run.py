"""Train a dense network, compress it stage by stage, draw what each stage cost and gained."""

from collections.abc import Mapping
from functools import partial
from typing import Any

import numpy as np

from experiments import common
from experiments.joint import __doc__ as about
from experiments.joint.config import PRESETS, Config
from jaxsnn import compile as compiling
from jaxsnn import train
from jaxsnn.data import Dataset
from jaxsnn.errors import UserError
from jaxsnn.methods import Result, joint
from jaxsnn.report import plots


def run(config: Config) -> None:
    """Run the experiment."""
    m = config.method
    problem = common.load(config, seed=m.seed, batch_size=m.batch_size, **common.QP_SNN)
    joint.check(problem.net, problem.task, problem.data, m)
    there = common.Run("joint", config)
    dense = common.train_dense(there.fit, problem, config.dense, m)
    result = joint.compress(
        dense, problem.task, problem.data, m, fit=there.fit, keep=there.arrays,
        dense_epochs=config.dense.dense_epochs,
    )  # fmt: skip
    stages = [row.to_row() for row in result.report.rows if "stage" in row.extra]
    found, names = problem.data, ", ".join(row["stage"] for row in stages)
    facts = dict(result.found)
    if m.constant_bits is not None:
        facts["compiled"] = compiled(result, found)
    there.finish(
        result,
        title=f"A spiking network for {found.name}, compressed in every way",
        summary=f"{common.summary_of(problem, config.network)} Stages in order: {names}; the last "
        f"one's network is the row compressed.{of_budget(result.found)}",
        samples=found.test,
        more=[("stages", partial(plots.plot_stages, stages))],
        **facts,
    )


def compiled(result: Result, data: Dataset) -> dict[str, Any]:
    """Return on how many test images the product's C file decides as the product does.

    That is at its last time step, without an early exit. Where there is no compiler, or integers
    are not the product's own numbers, the reason is returned.
    """
    net, task = result.network, result.task
    try:
        function = compiling.build(net, task.inputs)
    except UserError as error:
        return {"reason": str(error)}
    images = data.test.images
    decided = np.asarray(function(images)).argmax(-1)
    expected = np.asarray(train.predict(task, net, images)).argmax(-1)
    return {"images": len(images), "equal": int((decided == expected).sum())}


def of_budget(found: Mapping[str, Any]) -> str:
    """Return what a budget chose, and what became of it, in a sentence; nothing without one."""
    if "budget" not in found:
        return ""
    b = found["budget"]
    asked = f"{b['bytes']:,} bytes" if b["bytes"] is not None else f"{b['points']:g} points"
    chosen = b["chosen"]
    return (
        f" For {asked}: {chosen['channels']:.0%} of the channels and {chosen['sparsity']:.1%} of "
        f"the connections go, {chosen['bits']} bits stay; the file takes {b['file_bytes']:,} bytes "
        f"and loses {b['lost_points']:.2f} points on held-out images"
        f"{'' if b['met'] else ', more than asked for'}."
    )


EXPERIMENT = common.Experiment("joint", about, Config, PRESETS, run)
