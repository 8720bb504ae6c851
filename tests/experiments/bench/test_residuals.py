"""What a step keeps for its backward pass, counted: against the least that it must keep."""

from dataclasses import replace

import jax
import jax.numpy as jnp
import pytest
from rich.console import Console

from experiments.bench import contenders, limits
from experiments.bench.peers import jaxsnn_step
from experiments.bench.problems import Workload
from experiments.bench.rounds import Effort
from experiments.bench.studies import residuals

# Direct coding: the input, an argument, is kept as floats once; T is long enough to show the rest.
TINY = Workload("8C3-8C3-AP2-8C3-MP2-16-3", (8, 8, 3), 4, 16, gain=4.0, steps=1)
SMALL = 0.08  # of the least: who was the largest in a window, and what has no time axis


def found(workload, dtype):
    """Return what a step of a workload keeps."""
    problem, options = residuals.problem_of(workload, 0, dtype)
    task, net = jaxsnn_step.make_task(problem, options)
    return residuals.kept_of(task, net, workload.batch, net.order)


def test_a_residual_is_counted_once_and_named_by_its_layer():
    def loss(params, x):
        with jax.named_scope("first"):
            hidden = jnp.sin(x @ params)
        with jax.named_scope("second"):
            return (hidden.reshape(-1) ** 2).sum() + hidden.sum()

    shapes = jax.ShapeDtypeStruct((4, 5), jnp.float32), jax.ShapeDtypeStruct((3, 4), jnp.float32)
    kept = residuals.kept(loss, ("first", "second"), *shapes)
    # The cosine, and twice the hidden value; the arguments are there anyway.
    assert sorted(each.layer for each in kept) == ["first", "second"]
    assert all(each.bytes == 4 * 15 for each in kept)


def test_on_a_gpu_a_step_keeps_the_least(monkeypatch):
    monkeypatch.setattr(jax, "default_backend", lambda: "gpu")
    kept, least = found(TINY, "float32"), limits.kept(TINY)
    assert least <= sum(each.bytes for each in kept) <= least * (1 + SMALL)
    by_layer = {each.layer for each in kept}
    assert {"conv1", "conv2", "conv3", "dense1", "dense2"} <= by_layer


@pytest.mark.slow  # compiles steps
def test_the_study_shows_layers_and_what_xla_makes_of_them(monkeypatch):
    monkeypatch.setattr(residuals, "SHOWN", ("tiny",))
    monkeypatch.setattr(residuals, "WORKLOADS", {"tiny": replace(TINY, batch=2)})
    console = Console(record=True, width=160)
    effort = Effort(1, 0.01, contenders.Interpreters())
    rows = residuals.residuals(console, {}, effort, 0)
    assert [row["dtype"] for row in rows] == ["float32", "bfloat16"]
    wide, short = rows
    assert short["least"] < wide["least"] <= wide["kept_gpu"] < wide["kept"]
    assert wide["temporaries"] > 0 and wide["moved"] > wide["traffic"] > 0
    assert "conv1" in console.export_text()
