"""The benchmark gives everybody the same problem and compares only what computes the same."""

import json
import sys
from pathlib import Path

import numpy as np
import pytest

from experiments import bench
from jaxsnn.errors import UserError


def measured(median_ms, loss):
    """Return what one process reports."""
    return {"median_ms": median_ms, "loss": loss, "gradient_norm": 1.0}


def test_a_problem_depends_on_its_seed_alone():
    first, again = (bench.make_problem("mnist_conv", 3, "spikes", 5) for _ in range(2))
    other = bench.make_problem("mnist_conv", 3, "spikes", 6)
    assert all(np.array_equal(first[name], again[name]) for name in first)
    assert not np.array_equal(first["x"], other["x"])


@pytest.mark.parametrize(
    "inputs, shape", [("spikes", (3, 64, 28, 28, 1)), ("images", (64, 28, 28, 1))]
)
def test_a_problem_holds_one_batch_and_the_weights_of_the_network(inputs, shape):
    problem = bench.make_problem("mnist_conv", 3, inputs, 0)
    assert problem["x"].shape == shape and problem["x"].dtype == np.uint8
    assert problem["conv2/kernel"].shape == (3, 3, 32, 32)
    assert problem["dense1/kernel"].shape == (7 * 7 * 32, 128)
    assert json.loads(str(problem["spec"]))["timesteps"] == 3


def test_ratios_are_of_medians_over_rounds():
    rounds = {
        "jaxsnn step": [measured(ms, 0.5) for ms in (2.0, 4.0, 90.0)],
        "jaxsnn epoch": [measured(ms, 0.5) for ms in (2.0, 2.0, 1.0)],
        "torch": [measured(ms, 0.5) for ms in (10.0, 7.0, 8.0)],
    }
    row = bench.summarize(rounds)[-1]
    assert row["median_ms"] == 8 and row["least_ms"] == 7 and row["greatest_ms"] == 10
    assert row["ratio_to_jaxsnn_step"] == 2 and row["ratio_to_jaxsnn_epoch"] == 4


def test_no_ratio_to_who_computes_another_loss():
    rounds = {name: [measured(1.0, 0.5)] for name in bench.OURS}
    rounds["close"] = [measured(1.0, 0.5 * (1 + 0.9e-4))]
    rounds["far"] = [measured(1.0, 0.5 * (1 + 1.1e-4))]
    *_, close, far = bench.summarize(rounds)
    assert close["same_loss"] and close["ratio_to_jaxsnn_step"] == 1
    assert not far["same_loss"] and far["ratio_to_jaxsnn_step"] is None


@pytest.mark.parametrize(
    "wrong",
    [{"rounds": 0}, {"seconds": 0.0}, {"timesteps": (0,)}],
)
def test_a_wrong_option_is_named(wrong):
    with pytest.raises(UserError, match=f"--{next(iter(wrong))}"):
        bench.run(bench.Config(**wrong))


@pytest.mark.parametrize(
    "python, module, words",
    [
        ("no/such/python", "torch_step", "--peer-python no/such/python: cannot be started"),
        (sys.executable, "no_such_step", "No module named 'no_such_step'; --peer-python names"),
    ],
)
def test_a_peer_that_cannot_run_is_one_clear_line(python, module, words, tmp_path):
    config = bench.Config(peer_python=Path(python))
    with pytest.raises(UserError, match=words):
        bench.run_once(bench.Contender(module), tmp_path / "problem.npz", config)


def test_our_rows_are_measured_and_share_one_loss(tmp_path):
    out = tmp_path / "bench.json"
    config = bench.Config(
        peers=(), workloads=("mlp",), timesteps=(2,), rounds=1, seconds=0.01, out=out
    )
    bench.write(config, bench.run(config))
    rows = json.loads(out.read_text())["rows"]
    assert [row["contender"] for row in rows] == list(bench.OURS)
    assert all(row["same_loss"] and row["median_ms"] > 0 for row in rows)
    assert rows[0]["loss"] == rows[1]["loss"]
