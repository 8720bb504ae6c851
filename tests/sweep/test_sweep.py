"""A sweep is its single runs, whatever is computed together, where, and after what interruption."""

import csv
import itertools
import json
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from jaxsnn import archive, compress, models, sweep, train
from jaxsnn.arrays import keep_count
from jaxsnn.compress import keep_largest, masks, pull, restrict, uniform_grid
from jaxsnn.data import Split
from jaxsnn.errors import UserError
from jaxsnn.inputs import Inputs
from jaxsnn.neurons import LIF
from jaxsnn.sweep import chunks
from jaxsnn.sweep.grid import points
from jaxsnn.sweep.lane import training
from jaxsnn.sweep.lanes import run_lanes

SIZE, CLASSES, TIMESTEPS, BATCH, EPOCHS = 36, 4, 3, 24, 6


def planted(count, seed):
    """Return images of four classes, each bright in a quarter of its own."""
    draw = np.random.default_rng(seed)
    labels = draw.integers(0, CLASSES, count).astype(np.int32)
    images = draw.integers(0, 120, (count, SIZE))
    for i, label in enumerate(labels):
        images[i, label * 9 : label * 9 + 9] += 80
    return Split(images.astype(np.uint8), labels)


DATA = {"train": planted(BATCH, 0), "test": planted(30, 1)}  # one step is an epoch
NET = models.mlp((SIZE, 16, CLASSES), LIF(0.5, 0.4))
TASK = train.Task(Inputs((SIZE,), TIMESTEPS))


def phase_of(sparsity, bits, params):
    kept = masks.keep_fraction(params, {"*/kernel": sparsity})
    grid = {
        "dense1/kernel": uniform_grid(bits, keep_zeros=True),
        "dense2/kernel": uniform_grid(bits, keep_zeros=True, per="channel"),
    }
    return compress.quantized(optax.adam(0.01), restrict(grid, kept))


def lane(point, start):
    phase = phase_of(point["sparsity"], point["bits"], start.params)
    task = replace(TASK, spike_weight=point["spike_weight"])
    return sweep.Lane(phase, start, task, point["seed"])


POINTS = [
    {"sparsity": sparsity, "bits": bits, "spike_weight": 0.1 * i, "seed": i}
    for i, (sparsity, bits) in enumerate(itertools.product([0.0, 0.3, 0.5, 0.7], [2, 5]))
]


def go(function=None, grid=POINTS, data=DATA, **options):
    if function is not None:
        return run_lanes(function, grid, data, show=False, **options)
    training = {"epochs": EPOCHS, "batch_size": BATCH, "show": False}
    return sweep.run(lane, grid, TASK, NET, data, **training, **options)


@pytest.fixture(scope="module")
def swept(tmp_path_factory):
    """Return a sweep of 8 lanes, mapped and spread over two devices, and its folder."""
    folder = tmp_path_factory.mktemp("sweep") / "mlp"
    return go(axes=sweep.AXES, lanes="vmap", directory=folder), folder


@pytest.mark.long
def test_every_lane_is_its_single_run_step_by_step(swept):
    single = jax.jit(training(lane, TASK, epochs=EPOCHS, batch_size=BATCH))
    data = jax.tree.map(jnp.asarray, {"start": NET, "splits": DATA})
    for i, point in enumerate(POINTS):
        numbers = {
            k: jnp.asarray(v, np.asarray(swept[0].points[k]).dtype) for k, v in point.items()
        }
        _, alone = single(numbers, data)
        _, net, metrics = swept[0].lane(i)
        np.testing.assert_allclose(
            metrics["epochs"]["loss"], alone["epochs"]["loss"], rtol=1e-5, atol=1e-6
        )
        sample = 1 / len(DATA["test"].labels)
        assert abs(metrics["test_accuracy"] - alone["test_accuracy"]) <= sample + 1e-6
        kernel = net.params["dense1"]["kernel"]
        assert np.count_nonzero(kernel) <= keep_count(point["sparsity"], kernel.size)
        assert len(np.unique(np.abs(kernel))) <= 2 ** (point["bits"] - 1)
        found = net.quantized["dense1/kernel"]
        np.testing.assert_array_equal(found.decode(), kernel)
        assert float(found.bits) == point["bits"]
        channels = net.quantized["dense2/kernel"]
        np.testing.assert_array_equal(channels.decode(), net.params["dense2"]["kernel"])
        assert channels.scale.shape == (1, CLASSES) and float(channels.bits) == point["bits"]
    assert len(set(swept[0].metrics["loss"].tolist())) == len(POINTS)


@pytest.mark.long
def test_a_lane_is_the_training_with_python_numbers(swept):
    point, found = POINTS[5], swept[0].lane(5)[2]["epochs"]["loss"]
    log = []
    train.fit(
        replace(TASK, spike_weight=point["spike_weight"]),
        phase_of(point["sparsity"], point["bits"], NET.params), NET, DATA["train"],
        epochs=EPOCHS, batch_size=BATCH, seed=point["seed"], log=log.append, show=False,
    )  # fmt: skip
    np.testing.assert_allclose(found, [row["loss"] for row in log], rtol=1e-5, atol=1e-6)
    assert found[-1] < 0.95 * found[0]


@pytest.mark.thorough
@pytest.mark.long
def test_lanes_in_turn_and_in_chunks_are_the_mapped_ones(swept):
    turns = go(lanes="loop", devices=1, chunk=3)
    assert (turns.mode, turns.chunk) == ("loop", 3)
    for name, values in turns.metrics["epochs"].items():
        np.testing.assert_allclose(values, swept[0].metrics["epochs"][name], rtol=1e-5, atol=1e-6)


@pytest.mark.slow  # compiles in a process of its own
def test_four_devices_give_the_same_results(swept, tmp_path):
    code = (
        "import jax, numpy as np, sys; assert jax.local_device_count() == 4\n"
        f"sys.path.insert(0, {str(Path(__file__).parent)!r})\n"
        "import test_sweep\n"
        "found = test_sweep.go(lanes='vmap')\n"
        "assert found.chunk == 8\n"
        f"np.savez({str(tmp_path / 'found.npz')!r}, **found.metrics['epochs'])\n"
    )
    flags = os.environ.get("XLA_FLAGS", "") + " --xla_force_host_platform_device_count=4"
    environment = os.environ | {"XLA_FLAGS": flags}
    environment.pop("JAX_NUM_CPU_DEVICES", None)
    subprocess.run([sys.executable, "-c", code], env=environment, check=True)
    with np.load(tmp_path / "found.npz") as found:
        for name, values in swept[0].metrics["epochs"].items():
            np.testing.assert_allclose(found[name], values, rtol=1e-5, atol=1e-6)


@pytest.mark.long
def test_rows_are_written_for_everybody(swept):
    result, folder = swept
    lines = [json.loads(line) for line in (folder / "rows.jsonl").read_text().splitlines()]
    assert lines == result.rows
    for row, point in zip(lines, POINTS, strict=True):
        assert {k: row[k] for k in point} == pytest.approx(point)
    table = list(csv.DictReader((folder / "rows.csv").read_text().splitlines()))
    assert [float(row["test_accuracy"]) for row in table] == result.metrics[
        "test_accuracy"
    ].tolist()


@pytest.mark.long
def test_a_finished_sweep_is_read_back_and_compiles_nothing(swept, monkeypatch):
    monkeypatch.setattr(chunks, "build_program", None)
    again = go(directory=swept[1])
    jax.tree.map(np.testing.assert_array_equal, again.products, swept[0].products)
    assert again.rows == swept[0].rows and again.chunk is None


@pytest.mark.long
def test_another_run_or_grid_in_the_folder_is_refused(swept):
    with pytest.raises(UserError, match="another grid"):
        go(grid=POINTS[:3], directory=swept[1])
    other = {**DATA, "test": planted(30, 2)}
    with pytest.raises(UserError, match="another run, other data"):
        go(data=other, directory=swept[1])


# --- Small runs, which say what they do ----------------------------------------------------------


def square(point, data):
    """Return the squares of some numbers, the root of a number that may be negative."""
    return {"root": jnp.sqrt(point["x"]) * data}, {"square": point["x"] ** 2, "whole": data}


def test_a_killed_sweep_goes_on_without_repeating_a_chunk(tmp_path, monkeypatch):
    grid, data = {"x": [float(i) for i in range(7)]}, jnp.arange(3.0)
    calls, build = [], chunks.build_program

    def counting(*arguments, **options):
        program = build(*arguments, **options)

        def call(points, data):
            calls.append(points["x"].tolist())
            if len(calls) == 3:
                raise KeyboardInterrupt
            return program.call(points, data)

        return program._replace(call=call)

    monkeypatch.setattr(chunks, "build_program", counting)
    whole = {"directory": tmp_path, "batch_size": 2, "lanes": "vmap"}
    with pytest.raises(KeyboardInterrupt):
        go(square, grid, data, **whole)
    assert len((tmp_path / "rows.jsonl").read_text().splitlines()) == 4
    found = go(square, grid, data, **whole)
    assert calls == [[0, 1], [2, 3], [4, 5], [4, 5], [6, 6]]
    np.testing.assert_allclose(found.metrics["square"], np.arange(7.0) ** 2)
    np.testing.assert_allclose(found.products["root"][6], np.sqrt(6) * np.arange(3), rtol=1e-6)


def test_a_damaged_chunk_is_named(tmp_path):
    go(square, {"x": [1.0]}, jnp.ones(2), directory=tmp_path)
    (file,) = (tmp_path / "chunks").iterdir()
    file.write_bytes(file.read_bytes()[:-40])
    with pytest.raises(UserError, match=f"{file.name}: damaged"):
        go(square, {"x": [1.0]}, jnp.ones(2), directory=tmp_path)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"lanes": np.array([1])}, "'lanes' are none of the 1"),
        ({"lanes": np.array([0, 0])}, "'lanes' are none of the 1"),
        ({"product/root": np.ones(1, np.float32)}, r"float32\[1\], expected float32\[1, 2\]"),
        ({"product/root": np.ones((1, 2))}, r"float64\[1, 2\], expected float32\[1, 2\]"),
        ({"product/more": np.ones(1)}, "not the arrays of this sweep"),
    ],
)
def test_a_chunk_of_other_arrays_is_named(tmp_path, change, message):
    go(square, {"x": [1.0]}, jnp.ones(2), directory=tmp_path)
    (file,) = (tmp_path / "chunks").iterdir()
    file.write_bytes(archive.pack(archive.read(file) | change))
    with pytest.raises(UserError, match=f"{file.name}: .*{message}.*; delete it to go on"):
        go(square, {"x": [1.0]}, jnp.ones(2), directory=tmp_path)


def test_half_floats_are_read_back(tmp_path):
    def half(point, data):
        return {"half": (point["x"] * data).astype(jnp.bfloat16)}, {"x": point["x"]}

    found = [go(half, {"x": [1.0, 3.0]}, jnp.arange(3.0), directory=tmp_path) for _ in range(2)]
    assert found[1].chunk is None and found[1].products["half"].dtype == jnp.bfloat16
    np.testing.assert_array_equal(*(each.products["half"] for each in found))


def test_a_lane_that_diverges_is_marked_and_hurts_nobody(tmp_path, capsys):
    found = run_lanes(square, {"x": [4.0, -1.0, 9.0]}, jnp.ones(2), directory=tmp_path)
    assert found.diverged.tolist() == [False, True, False]
    np.testing.assert_allclose(found.products["root"][[0, 2]], [[2, 2], [3, 3]])
    rows = [json.loads(x) for x in (tmp_path / "rows.jsonl").read_text().splitlines()]
    assert [row["diverged"] for row in rows] == [False, True, False]
    assert "1 of 3 lanes diverged" in capsys.readouterr().err


def wide(point, data):
    return {}, {"sum": jnp.cumsum(jnp.sort(data * point["x"]))[-1]}


@pytest.mark.long
def test_lanes_are_chunked_by_what_the_program_needs(capsys):
    data, grid = jnp.arange(10_000.0), {"x": [float(i) for i in range(8)]}
    whole = go(wide, grid, data, lanes="vmap", devices=1)
    assert whole.chunk == 8
    point = {"x": jnp.float32(0)}
    options = {"count": 8, "mode": "vmap", "batch_size": None, "devices": 1}
    needs = chunks.build_program(wide, point, data, budget=None, **options).needs
    found = run_lanes(wide, grid, data, lanes="vmap", devices=1, budget=0.6 * needs)
    assert found.chunk == 4
    np.testing.assert_array_equal(found.metrics["sum"], whole.metrics["sum"])
    said = capsys.readouterr().err
    assert "8 lanes in 2 chunks, 4 lanes mapped on one device at a time; about" in said
    assert "chunk 2/2  lanes done 8" in said
    with pytest.raises(UserError, match="one lane needs about"):
        go(wide, grid, data, budget=1000.0)


def test_one_program_serves_all_chunks(monkeypatch):
    compiled, compile_chunk = [], chunks._compile

    def counting(*arguments):
        compiled.append(1)
        return compile_chunk(*arguments)

    monkeypatch.setattr(chunks, "_compile", counting)
    go(square, {"x": [float(i) for i in range(5)]}, jnp.ones(2), batch_size=2)
    assert len(compiled) == 1


def test_a_periodic_step_stays_a_branch():
    def run(point, data):
        optimizer = pull({"w": keep_largest(point["sparsity"])}, point["penalty"], every=5)
        state = optimizer.init({"w": data})

        def step(_, state):
            return optimizer.update({"w": data}, state, {"w": data})[1]

        return {}, {"movement": jax.lax.fori_loop(0, 7, step, state).movement[0]}

    points = {"sparsity": jnp.array([0.2, 0.8]), "penalty": jnp.array([0.1, 0.2])}
    mapped = jax.vmap(lambda point: run(point, jnp.arange(4.0)))
    assert " cond[" in str(jax.make_jaxpr(mapped)(points))


def test_the_mode_follows_the_size_of_a_lane():
    lane = jax.jit(square).lower({"x": jnp.float32(1)}, jnp.ones(2))
    large = jax.jit(square).lower({"x": jnp.float32(1)}, jnp.ones(10_000_000))
    assert chunks.mode_of(lane, "auto") == "vmap" and chunks.mode_of(large, "auto") == "loop"
    assert chunks.mode_of(large, "vmap") == "vmap"
    with pytest.raises(UserError, match="'auto', 'vmap' or 'loop'"):
        chunks.mode_of(lane, "map")


# --- Constants and time ---------------------------------------------------------------------------


def test_constants_of_all_neurons_are_replaced():
    stats = sweep.with_constants(NET, decay=0.25).stats
    assert float(stats["dense2"]["neurons"]["decay"]) == 0.25
    assert float(stats["dense1"]["neurons"]["threshold"]) == pytest.approx(0.4)
    with pytest.raises(UserError, match="decay must be in"):
        sweep.with_constants(NET, decay=1.5)
    with pytest.raises(UserError, match="neurons/threshold"):
        sweep.with_constants(NET.replace(stats={"dense1": {}}), threshold=1.0)


@pytest.mark.long
def test_a_lane_of_fewer_steps_is_the_single_run_of_so_many():
    """With the price of spikes and without: weights, spike rate, accuracy."""

    def short(point, start):
        task = replace(TASK, active=point["timesteps"], spike_weight=point["spike_weight"])
        return sweep.Lane(optax.sgd(0.1), start, task)

    grid = [{"timesteps": 2, "spike_weight": weight} for weight in (0.0, 0.5)]
    options = {"epochs": 3, "batch_size": BATCH, "show": False}
    found = sweep.run(short, grid, TASK, NET, DATA, **options)
    for i, point in enumerate(grid):
        log = []
        task = replace(TASK.at(2), spike_weight=point["spike_weight"])
        single = train.fit(
            task, optax.sgd(0.1), NET, DATA["train"], **options, name="train", log=log.append
        )
        moved = max(np.abs(a - b).max() for a, b in zip(
            jax.tree.leaves(single.params), jax.tree.leaves(NET.params), strict=True))  # fmt: skip
        assert moved > 1e-3
        _, net, metrics = found.lane(i)
        jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-6), net.params,
                     single.params)  # fmt: skip
        for name in ("loss", "spike_rate"):
            np.testing.assert_allclose(metrics[name], log[-1][name], rtol=1e-5)
        assert metrics["test_accuracy"] == train.evaluate(task, single, DATA["test"]).accuracy
    assert found.rows[0]["spike_rate"] > found.rows[1]["spike_rate"] > 0


# --- Fronts ---------------------------------------------------------------------------------------

FEW = st.lists(st.tuples(st.integers(0, 6), st.integers(0, 6)), min_size=1, max_size=9)


@settings(deadline=None, max_examples=60)
@given(FEW)
def test_the_front_is_what_nobody_beats(found):
    def is_beaten(i):
        return any(c <= found[i][0] and v >= found[i][1] and (c, v) != found[i] for c, v in found)

    front = sweep.pareto(*zip(*found, strict=True)).tolist()
    assert sorted(front) == [i for i in range(len(found)) if not is_beaten(i)]
    costs = [found[i][0] for i in front]
    assert costs == sorted(costs)


@settings(deadline=None, max_examples=60)
@given(FEW)
def test_the_hypervolume_counts_the_cells_that_are_dominated(found):
    cells = itertools.product(range(5), range(1, 6))  # [x, x+1] x [y, y+1] beyond (5, 1)
    covered = sum(any(c <= x and v >= y + 1 for c, v in found) for x, y in cells)
    assert sweep.hypervolume(*zip(*found, strict=True), (5, 1)) == covered


def test_what_is_not_finite_is_on_no_front():
    assert sweep.pareto([1.0, np.nan, 2.0], [np.nan, 1.0, 0.5]).tolist() == [2]
    assert sweep.hypervolume([], [], (1.0, 0.0)) == 0


# --- Refusals -------------------------------------------------------------------------------------

BAD = {
    "empty grid": ({}, "grid is empty"),
    "empty list": ([], "grid is empty"),
    "empty axis": ({"bits": []}, "axis 'bits' needs a list"),
    "text": ({"bits": "4"}, "axis 'bits' needs a list"),
    "unknown axis": ({"batch_size": [32, 64]}, "'batch_size' is no traced number.*sparsity, bits"),
    "sparsity": ({"sparsity": [0.5, 1.0]}, r"axis 'sparsity' must be in \[0, 1\), found 1.0"),
    "half a bit": ({"bits": [2.5]}, "axis 'bits' must be a whole number"),
    "no number": ({"decay": ["high"]}, "axis 'decay' takes numbers, found 'high'"),
    "truth": ({"decay": [True]}, "axis 'decay' takes numbers"),
    "nan": ({"decay": [float("nan")]}, "axis 'decay' must be in"),
    "duplicates": ({"bits": [2, 4, 2]}, "points 1 and 3 of the grid are the same: bits=2"),
    "equal in float32": ({"decay": [0.1, 0.1 + 1e-12]}, "are the same: decay=0.1"),
    "other axes": ([{"bits": 2}, {"decay": 0.5}], "need the same axes, found bits and decay"),
}


@pytest.mark.parametrize("mistake", BAD)
def test_a_bad_grid_is_one_line(mistake):
    grid, message = BAD[mistake]
    with pytest.raises(UserError, match=message) as caught:
        points(grid, sweep.AXES)
    assert "\n" not in str(caught.value)


def test_a_run_that_returns_one_tree_is_refused():
    with pytest.raises(UserError, match=r"two trees: \(product, metrics\)"):
        go(lambda point, data: point["x"], {"x": [1.0]}, jnp.ones(1))


def test_more_devices_than_there_are_are_refused():
    with pytest.raises(UserError, match="devices"):
        go(square, {"x": [1.0, 2.0, 3.0, 4.0]}, jnp.ones(1), devices=3)


def test_active_steps_need_a_network_without_batch_norm():
    normed = models.mlp((SIZE, 16, CLASSES), LIF(0.5, 0.4), norm=True)

    def short(point, start):
        return sweep.Lane(optax.sgd(0.1), start, replace(TASK, active=point["timesteps"]))

    with pytest.raises(UserError, match="without batch normalisation"):
        sweep.run(short, {"timesteps": [2]}, TASK, normed, DATA, epochs=1, batch_size=BATCH)


def test_a_lane_that_returns_something_else_is_refused():
    with pytest.raises(UserError, match=r"a lane must return \(phase, network\)"):
        sweep.run(
            lambda point, start: start, {"x": [1.0]}, TASK, NET, DATA, epochs=1, batch_size=BATCH
        )
