"""The benchmark gives everybody the same problem and compares only what computes the same."""

import importlib.util
import json
import sys
import time
from dataclasses import replace
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from rich.console import Console

from experiments.bench import command, comparison, contenders, limits, problems, tables
from experiments.bench.peers import jaxsnn_step, jaxsnn_sweep, measure
from experiments.bench.problems import WORKLOADS, Workload
from experiments.bench.rounds import Effort, measure_all
from experiments.bench.studies import channels
from experiments.bench.studies import registry as studies
from jaxsnn.errors import UserError

# As small as networks with every kind of layer can be, and firing.
CONVOLUTIONAL = Workload("4C3V-AP2-6C3-MP2-8-3", (10, 10, 2), 6, 4, rate=0.5, gain=4.0, steps=2)
RECURRENT = Workload("8R-3", (12,), 12, 4, rate=0.5, gain=3.0)
DIRECT = replace(CONVOLUTIONAL, rate=None)
TINY = {"convolutional": CONVOLUTIONAL, "recurrent": RECURRENT, "direct": DIRECT}


def read(workload, seed=0, **options):
    """Return a problem as the contenders read it."""
    problem = problems.make_problem(workload, seed, **options)
    return problem | {"spec": json.loads(str(problem["spec"]))}


# --- The problem ----------------------------------------------------------------------------------


@pytest.mark.parametrize("lanes", [0, 2])
def test_a_problem_depends_on_its_seed_alone(lanes):
    first, again = (problems.make_problem(RECURRENT, 5, lanes=lanes) for _ in range(2))
    other = problems.make_problem(RECURRENT, 6, lanes=lanes)
    assert all(np.array_equal(first[name], again[name]) for name in first)
    assert not np.array_equal(first["x"], other["x"])
    assert not np.array_equal(first["dense1/kernel"], other["dense1/kernel"])


def test_a_problem_holds_one_batch_and_the_weights_of_the_network():
    problem = read(WORKLOADS["W1"])
    assert problem["x"].shape == (10, 64, 28, 28, 1) and problem["x"].dtype == np.uint8
    assert 0.19 < problem["x"].mean() < 0.21
    assert problem["conv2/kernel"].shape == (5, 5, 15, 40)
    assert problem["dense1/kernel"].shape == (4 * 4 * 40, 300)
    assert read(WORKLOADS["W3"])["dense1/recurrent"].shape == (128, 128)
    assert read(WORKLOADS["W4"])["x"].shape == (16, 32, 32, 3)
    assert [layer["kind"] for layer in problem["spec"]["layers"]] == [
        "conv", "average", "conv", "average", "dense", "dense",
    ]  # fmt: skip


def test_each_lane_has_weights_of_its_own_and_all_have_one_batch():
    problem = problems.make_problem(studies.LANE_NETWORKS[0], 0, lanes=3)
    assert problem["dense1/kernel"].shape == (3, 784, 256)
    assert not np.array_equal(*problem["dense1/kernel"][:2])
    assert problem["x"].shape == (25, 64, 784)


def test_a_layer_that_peers_cannot_be_given_is_named():
    with pytest.raises(UserError, match="'D0.5' is not a layer of the benchmark"):
        list(problems.layers_of("8-D0.5-3", (4,)))


# --- Limits ---------------------------------------------------------------------------------------


def test_operations_are_those_of_the_products():
    w2, w3 = WORKLOADS["W2"], WORKLOADS["W3"]
    assert limits.operations(w2) == 2 * (2 * 784 * 800 + 3 * 800 * 10) * 25 * 128
    assert limits.operations(replace(w2, train=False)) == 2 * (784 * 800 + 800 * 10) * 25 * 128
    assert limits.multiply_adds(w3) == [700 * 128 + 128 * 128, 128 * 20]
    assert limits.multiply_adds(WORKLOADS["W1"])[:2] == [24 * 24 * 25 * 15, 8 * 8 * 25 * 15 * 40]


def test_the_estimate_is_the_larger_of_both_times():
    rates = {"float32": 1e9, "bytes": 1e12}
    limit = limits.estimate(WORKLOADS["W2"], rates, "float32")
    assert limit["limit_ms"] == limit["products_ms"] == limits.operations(WORKLOADS["W2"]) / 1e6
    slow = limits.estimate(WORKLOADS["W2"], rates | {"bytes": 1e6}, "float32")
    assert slow["limit_ms"] == slow["memory_ms"] == limits.traffic(WORKLOADS["W2"]) / 1e3
    assert limits.traffic(replace(WORKLOADS["W2"], train=False)) < limits.traffic(WORKLOADS["W2"])


# --- Rows -----------------------------------------------------------------------------------------


LIMIT = {"products_ms": 2.0}


def measured(median_ms, loss=0.5, rate=0.1):
    """Return what one process reports."""
    figures = {"cores_busy": 1.0, "others_busy": 0.0, "peak_mib": 1.0, "start_seconds": 1.0}
    return {"median_ms": median_ms, "loss": loss, "rate": rate, **figures}


def test_ratios_are_of_medians_over_rounds():
    rounds = {
        "jaxsnn": [measured(ms) for ms in (2.0, 4.0, 90.0)],
        "torch": [measured(ms) for ms in (10.0, 7.0, 8.0)],
    }
    references = dict.fromkeys(rounds, "jaxsnn")
    row = tables.summarize(rounds, references, LIMIT)[-1]
    assert row["median_ms"] == 8 and row["least_ms"] == 7 and row["greatest_ms"] == 10
    assert row["reference_ms"] == 4 and row["ratio"] == 2 and row["of_product_rate"] == 0.25


@pytest.mark.parametrize(
    "other, same",
    [
        ({"loss": 0.5 * (1 + 0.9e-4)}, True),
        ({"loss": 0.5 * (1 + 1.1e-4)}, False),
        ({"rate": 0.1 * 1.009}, True),
        ({"rate": 0.1 * 1.011}, False),
    ],
)
def test_no_ratio_to_who_computes_another_network(other, same):
    rounds = {"jaxsnn": [measured(1.0)], "other": [measured(1.0, **other)]}
    row = tables.summarize(rounds, dict.fromkeys(rounds, "jaxsnn"), LIMIT)[-1]
    assert row["same"] == same and row["ratio"] == (1.0 if same else None)
    assert tables.judge(row) == ("1.00x" if same else "other loss")


def test_no_ratio_between_silent_networks():
    assert not tables.is_same(measured(1.0, rate=0.0), measured(1.0, rate=0.0))


def test_who_cannot_be_compared_has_a_time_and_no_ratio():
    rounds = {"jaxsnn": [measured(1.0)], "snnax": [measured(3.0)]}
    row = tables.summarize(rounds, {"jaxsnn": "jaxsnn", "snnax": None}, LIMIT)[-1]
    assert row["median_ms"] == 3 and row["ratio"] is None and tables.judge(row) == "other net"


def test_each_peer_meets_ours_in_its_own_flavour(monkeypatch):
    peers = contenders.PEERS
    rows, references = comparison.line_up(WORKLOADS["W1"], peers, plain=True)
    assert references["snntorch"] == "jaxsnn" and references["snnax"] is None
    assert references["norse"] == "jaxsnn/zero" and references["spyx"] == "jaxsnn/late"
    assert rows["jaxsnn/zero"].variant == "epoch flavour=zero"
    assert rows["jaxsnn plain"].variant == "epoch plain" and "jaxsnn direct" not in rows
    rows, references = comparison.line_up(WORKLOADS["W3"], peers, plain=False)
    assert references["spyx"] == "jaxsnn/through" and "jaxsnn/late" not in rows
    _, references = comparison.line_up(WORKLOADS["W4"], peers, plain=False)
    assert references["spyx"] == "jaxsnn/through"  # late, eight layers are silent for T = 4
    monkeypatch.setattr(comparison.onednn, "missing", lambda: "oneDNN is not installed")
    rows, _ = comparison.line_up(WORKLOADS["W4-inference"], {}, plain=False)
    assert {name: row.variant for name, row in rows.items()} == {
        "jaxsnn": "predict", "jaxsnn evaluate": "evaluate", "jaxsnn call": "call",
        "jaxsnn direct": "predict direct",
    }  # fmt: skip


# --- Options --------------------------------------------------------------------------------------


@pytest.mark.parametrize("wrong", [{"rounds": 0}, {"seconds": 0.0}, {"out": Path(__file__)}])
def test_a_wrong_option_is_named(wrong):
    with pytest.raises(UserError, match=f"--{next(iter(wrong))}"):
        command.run(command.Config(**wrong))


def test_nothing_to_measure_is_said():
    with pytest.raises(UserError, match="nothing to measure"):
        command.run(command.Config(workloads=()))


def test_an_interpreter_that_cannot_be_started_is_named():
    nobody = contenders.Interpreters(torch=Path("no/such/python"))
    with pytest.raises(UserError, match="--peer-python no/such/python: cannot be started"):
        contenders.choose(("torch",), nobody)


def test_a_peer_that_is_not_installed_is_said_with_how_to_install_it(monkeypatch):
    absent = replace(contenders.PEERS["spyx"], package="no_such_package")
    monkeypatch.setitem(contenders.PEERS, "spyx", absent)
    here = contenders.Interpreters()
    with pytest.raises(
        UserError, match="spyx: not installed there.*--jax-peer-python.*pip install"
    ):
        contenders.choose(("spyx",), here)
    assert "spyx" not in contenders.choose(("installed",), here)
    assert contenders.choose((), here) == {}


def test_a_contender_that_fails_is_one_clear_line(tmp_path):
    problem = tmp_path / "problem.npz"
    np.savez(problem, **problems.make_problem(RECURRENT, 0))
    with pytest.raises(UserError, match="failed: .*No module named 'no_such_step'"):
        contenders.measure(
            contenders.Contender("no_such_step"), problem, 0.01, contenders.Interpreters()
        )


@pytest.mark.long
def test_a_peer_that_fails_is_left_out_and_ours_may_not():
    broken = contenders.Contender("no_such_step", package="somewhere")
    warnings = []
    effort = Effort(2, 0.01, contenders.Interpreters(), warn=warnings.append)
    problem = problems.make_problem(RECURRENT, 0)
    assert measure_all("tiny", {"broken": (broken, problem)}, effort) == {}
    assert len(warnings) == 1 and warnings[0].startswith("tiny: broken is left out: ")
    with pytest.raises(UserError, match="no_such_step"):
        measure_all("tiny", {"ours": (replace(broken, package=""), problem)}, effort)


def test_peers_are_refused_a_network_that_only_ours_can_build():
    workload = replace(CONVOLUTIONAL, builder="mnist_conv")
    with pytest.raises(UserError, match="only jaxsnn has it"):
        comparison.compare(
            "x", workload, contenders.PEERS, Effort(1, 0.01, contenders.Interpreters()),
            seed=0, dtype="float32", plain=False, limit={},
        )  # fmt: skip


# --- What is computed -----------------------------------------------------------------------------


def weighted_by_hand(layer, problem, x):
    """Return a layer's currents for inputs `[N, ...]`: sums over windows, written as loops."""
    kernel, bias = problem[f"{layer['name']}/kernel"], problem[f"{layer['name']}/bias"]
    if layer["kind"] == "dense":
        return x.reshape(len(x), -1) @ kernel + bias
    size = layer["size"]
    if not layer["valid"]:
        border = size // 2
        x = np.pad(x, ((0, 0), (border, border), (border, border), (0, 0)))
    height, width, channels = layer["outputs"]
    current = np.zeros((len(x), height, width, channels)) + bias
    for i in range(size):
        for j in range(size):
            current += x[:, i : i + height, j : j + width] @ kernel[i, j]
    return current


def pooled_by_hand(layer, x):
    """Return the mean or the largest of each window of 2 x 2."""
    corners = np.stack([x[:, i::2, j::2] for i in (0, 1) for j in (0, 1)])
    return corners.mean(0) if layer["kind"] == "average" else corners.max(0)


def neurons_by_hand(flavour, current, feedback):
    """Return the spikes of `[T, ...]` currents, step by step."""
    options = contenders.FLAVOURS[flavour]
    potential, fired = np.zeros_like(current[0]), np.zeros_like(current[0])
    spikes = []
    for now in current:
        kept = {
            "soft_undecayed": 0.9 * potential - fired,
            "soft": 0.9 * (potential - fired),
            "hard": 0.9 * potential * (1 - fired),
        }[options["reset"]]
        before, potential = fired, kept + now + (fired @ feedback if feedback is not None else 0)
        fired = (potential > 1.0).astype(float)
        late = options.get("order") == "fire_then_integrate"
        spikes.append(before if late else fired)
    return np.stack(spikes)


def rates_by_hand(problem, flavour):
    """Return the output rates `[B, classes]` of a problem, in double precision."""
    spec, x = problem["spec"], problem["x"].astype(float)
    if spec["direct"]:
        x = np.stack([x / 255] * spec["timesteps"])
    for layer in spec["layers"]:
        shape = x.shape[:2]
        x = x.reshape(-1, *x.shape[2:])
        if layer["kind"] in ("average", "maximum"):
            x = pooled_by_hand(layer, x)
            x = x.reshape(*shape, *x.shape[1:])
        else:
            x = weighted_by_hand(layer, problem, x)
            feedback = problem.get(f"{layer['name']}/recurrent")
            x = neurons_by_hand(flavour, x.reshape(*shape, *x.shape[1:]), feedback)
    return x.mean(0)


def loss_by_hand(problem, rates):
    """Return the mean cross-entropy of the rates."""
    chances = np.exp(rates) / np.exp(rates).sum(1, keepdims=True)
    return -np.log(chances[np.arange(len(rates)), problem["labels"]]).mean()


CASES = [
    pytest.param(name, flavour, marks=[pytest.mark.slow] * (flavour != "subtract"))
    for name in TINY
    for flavour in contenders.FLAVOURS
    if (name, flavour) != ("recurrent", "late")  # no neuron of ours
]


@pytest.mark.long
@pytest.mark.parametrize("name, flavour", CASES)
def test_our_loss_in_each_flavour_is_that_of_its_recurrence(name, flavour):
    problem = read(TINY[name])
    rates = rates_by_hand(problem, flavour)
    assert rates.mean() > 0.01, "a network that never fires shows nothing"
    task, net = jaxsnn_step.make_task(problem, {"flavour": flavour, "plain": ""})
    x, labels = jaxsnn_step.batch_of(problem)
    output = net(task.prepare(jax.random.key(0), x, True), train=True)
    assert float(output.readout.mean()) == pytest.approx(rates.mean(), rel=1e-5)
    loss = loss_by_hand(problem, rates)
    assert float(task.objective(output, labels, x)) == pytest.approx(loss, rel=1e-5)


@pytest.mark.long
def test_a_direct_image_may_be_handed_over_once():
    problem = read(DIRECT)
    found = []
    for options in ({"plain": ""}, {"plain": "", "direct": ""}):
        task, net = jaxsnn_step.make_task(problem, options)
        x = task.prepare(jax.random.key(0), jaxsnn_step.batch_of(problem)[0], True)
        found.append((x, net(x).readout))
    assert found[1][0].constant and found[0][0].shape == (6, 4, 10, 10, 2)
    assert jnp.array_equal(found[0][1], found[1][1])


def test_the_data_set_is_the_batch_repeated():
    problem = read(CONVOLUTIONAL)
    images, labels = jaxsnn_step.repeat(problem)
    assert images.shape == (8, 6, 10, 10, 2) and images.dtype == jnp.uint8
    assert jnp.array_equal(images[:4], images[4:]) and jnp.array_equal(labels[:4], labels[4:])


@pytest.mark.long
@pytest.mark.parametrize("peer", [name for name, who in contenders.PEERS.items() if who.flavour])
@pytest.mark.parametrize("name", ["convolutional", "recurrent"])
def test_a_peer_computes_our_network(name, peer, tmp_path):
    contender = contenders.PEERS[peer]
    if importlib.util.find_spec(contender.package) is None:
        pytest.skip(f"{contender.package} is not installed")
    workload = TINY[name]
    problem = tmp_path / "problem.npz"
    np.savez(problem, **problems.make_problem(workload, 0))
    found = contenders.measure(contender, problem, 0.01, contenders.Interpreters())
    flavour = contender.flavour_on(problems.delays_count(workload))
    rates = rates_by_hand(read(workload), flavour)
    assert found["rate"] == pytest.approx(rates.mean(), rel=1e-5)
    assert found["loss"] == pytest.approx(loss_by_hand(read(workload), rates), rel=1e-5)


# --- What is measured -----------------------------------------------------------------------------


def test_steps_are_timed_in_groups_that_last_alike():
    counts = []

    def run(steps):
        counts.append(steps)
        time.sleep(0.002 * steps)

    times, size, *_ = measure.time_groups(run, 2, 0.12)
    assert counts[0] == 2 and size % 2 == 0 and 4 <= size <= 10
    assert set(counts[1:]) == {size} and 2 <= len(times) < len(counts) - 1  # the rest warms up
    assert all(seconds >= 0.002 for seconds in times)


def test_a_slow_contender_takes_few_steps(monkeypatch):
    monkeypatch.setattr(measure, "SLOW", 0.0)
    counts = []
    times, *_ = measure.time_groups(counts.append, 1, 0.0)
    assert len(counts) == len(times) == 2


def test_a_sweep_of_a_peer_is_its_networks_one_after_the_other():
    problem = read(RECURRENT, lanes=3)
    taken = []

    def build(problem, variant):
        weight = float(problem["dense1/kernel"][0, 0])
        assert problem["x"].shape == (12, 4, 12) and variant == "v"
        return {
            "run": lambda steps: taken.append((weight, steps)),
            "check": lambda: {"loss": weight, "rate": 2 * weight},
        }

    subject = measure.build_lanes(build, problem, "v")
    subject["run"](2)
    weights = problem["dense1/kernel"][:, 0, 0].astype(float)
    assert taken == [(weight, 1) for weight in weights] * 2
    assert subject["check"]()["loss"] == pytest.approx(weights.mean())


@pytest.mark.slow  # starts processes that compile
def test_our_rows_are_measured_and_written(tmp_path, monkeypatch):
    monkeypatch.setitem(WORKLOADS, "W2", replace(RECURRENT, steps=2))
    config = command.Config(
        peers=(), workloads=("W2",), rounds=1, seconds=0.01, out=tmp_path / "new"
    )
    command.write(config, tmp_path / "new", command.run(config))
    record = json.loads((tmp_path / "new" / "bench.json").read_text())
    (case,) = record["workloads"]
    rows = {row["contender"]: row for row in case["rows"]}
    assert list(rows) == ["jaxsnn", "jaxsnn step"]
    assert all(row["same"] and row["median_ms"] > 0 for row in rows.values())
    assert rows["jaxsnn"]["ratio"] == 1 and rows["jaxsnn"]["of_product_rate"] > 0
    assert rows["jaxsnn step"]["temporaries_mib"] > 0
    assert record["rates"]["float32"] > 1e9 and record["versions"]["ours"]["jax"]
    assert (tmp_path / "new" / "bench.png").stat().st_size > 1000


@pytest.mark.long
def test_the_lanes_of_a_sweep_learn_what_single_networks_learn():
    problem = read(replace(RECURRENT, layout="8-3", timesteps=3), lanes=2)
    many, stacked = jaxsnn_sweep.make_step(problem, {"vmap": "", "plain": ""})
    single, states = jaxsnn_sweep.make_step(problem, {"loop": "", "plain": ""})
    before = np.asarray(stacked.net.params["dense1"]["kernel"])
    assert np.array_equal(before, problem["dense1/kernel"])
    stacked, states = many(stacked), jaxsnn_sweep.stack(single(states))
    after, wanted = (s.net.params["dense1"]["kernel"] for s in (stacked, states))
    assert not np.allclose(before, after, atol=1e-5)
    np.testing.assert_allclose(after, wanted, atol=1e-6)  # of updates of 1e-3


def test_the_interpreter_of_a_contender_is_its_familys():
    both = contenders.Interpreters(torch=Path("a"), jax=Path("b"))
    assert both.of(contenders.PEERS["norse"]) == Path("a")
    assert both.of(contenders.PEERS["snnax"]) == Path("b")
    assert both.of(contenders.Contender("jaxsnn_step")) == Path(sys.executable)


@pytest.mark.slow  # compiles a VGG-16 five times
def test_qp_snn_is_timed_beside_the_float_step_and_the_dense_network(monkeypatch):
    for name, value in {"WIDTH": 0.04, "BATCH": 2, "STEPS": 1, "CALIBRATION_BATCH": 2}.items():
        monkeypatch.setattr(channels, name, value)
    effort = Effort(rounds=1, seconds=0.01, interpreters=contenders.Interpreters())
    console = Console(record=True, width=100)
    rows = channels.channels(console, {}, effort, 0)
    assert [row["ratio"] is None for row in rows] == [True, False, False, True, False]
    assert all(row["median_ms"] > 0 for row in rows)
    assert "shrunk to 0." in console.export_text()
