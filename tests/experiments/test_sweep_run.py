"""A run of `experiments.sweep`, end to end on small networks, and what it refuses."""

import itertools

import numpy as np
import pytest

from experiments import sweep as experiment
from experiments.common import skeleton
from experiments.sweep_problem import lane, load
from jaxsnn import export, sweep
from jaxsnn.sweep import chunks

TINY = ("--preset=smoke", "--network=24-10", "--limit=400", "--dense-epochs=6", "--chunk=2")
GRID = ("--sparsity", "0.3", "0.7", "--bits", "2", "4", "--axis", "timesteps=2,4")
NAMES = [
    f"sparsity={sparsity} bits={bits} timesteps={timesteps}"
    for sparsity, bits, timesteps in itertools.product((0.3, 0.7), (2, 4), (2, 4))
]


def config_of(*options):
    return skeleton.parse(experiment.defaults, "sweep", ["--preset=smoke", *options])


@pytest.fixture(scope="module")
def folder(tmp_path_factory, run_in_process):
    """Return the directory of a run that was killed in its second chunk and resumed."""
    folder = tmp_path_factory.mktemp("sweep") / "run"
    arguments = ["--out", str(folder), *TINY, *GRID]
    build, calls = chunks.build, []

    def counting(*arguments, **options):
        program = build(*arguments, **options)

        def call(points, data):
            calls.append(points["sparsity"].tolist())
            if len(calls) == 2:
                raise KeyboardInterrupt
            return program.call(points, data)

        return program._replace(call=call)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(chunks, "build", counting)
        with pytest.raises(SystemExit) as stop:
            run_in_process(experiment, arguments)
        assert stop.value.code == 130
        run_in_process(experiment, [*arguments, "--resume"])
    assert len(calls) == 5  # four chunks, one of them begun twice
    return folder


def test_the_dense_network_comes_first_and_the_product_last(results):
    assert [row["name"] for row in results["rows"]] == ["dense", *NAMES, "compressed"]


def test_every_lane_is_as_sparse_and_as_coarse_as_its_point_says(folder, rows):
    for number, name in enumerate(NAMES):
        params, _, _ = export.load(folder / "models" / f"lane-{number:03d}.safetensors")
        kernels = [params[layer]["kernel"] for layer in ("dense1", "dense2")]
        size, point = sum(kernel.size for kernel in kernels), rows[name]["point"]
        left = sum(np.count_nonzero(kernel) for kernel in kernels)
        assert left <= round((1 - point["sparsity"]) * size)  # the grid's own zero may add some
        for kernel in kernels:
            assert len(np.unique(np.abs(kernel))) <= 2 ** (point["bits"] - 1)
        assert rows[name]["timesteps"] == point["timesteps"]


def test_bytes_fall_with_sparsity_and_with_bits(rows):
    size = {tuple(row["point"].values()): row["weight_bytes"] for row in rows.values()
            if "lane" in row and row["name"] != "compressed"}  # fmt: skip
    assert all(size[0.7, b, t] < size[0.3, b, t] for b in (2, 4) for t in (2, 4))
    assert all(size[s, 2, t] < size[s, 4, t] for s in (0.3, 0.7) for t in (2, 4))


@pytest.mark.parametrize("number", [0, 7])
def test_a_packed_lane_is_as_accurate_as_its_sweep_said(folder, rows, number):
    """The sweep stops four steps after two by weights on the read-out, the file really runs two."""
    row = rows[NAMES[number]]
    split = load(config_of("--limit=400")).data.validation
    model = export.load_model(folder / "models" / f"lane-{number:03d}.safetensors")
    assert model.inputs.timesteps == row["point"]["timesteps"]
    found = np.mean(np.argmax(model.scores(split.images), -1) == split.labels)
    assert abs(found - row["validation_accuracy"]) <= 1 / len(split.labels) + 1e-6


def test_the_smallest_network_within_the_tolerance_is_chosen(rows):
    whole = rows["dense"]["validation_accuracy"]
    near = [n for n in NAMES if whole - rows[n]["validation_accuracy"] <= 0.03 + 1e-9]
    product = rows["compressed"]
    assert product["within_tolerance"] == bool(near)
    if near:
        assert product["weight_bytes"] == min(rows[n]["weight_bytes"] for n in near)
    chosen = rows[product["chosen"]]
    assert chosen["accuracy"] == product["accuracy"] and chosen["synops"] == product["synops"]


def test_fronts_and_pictures_are_there(folder, results, rows):
    for cost, found in results["fronts"].items():
        order = [rows[name][cost] for name in found["front"]]
        assert order == sorted(order) and 0 < found["hypervolume"] < 1
        best = max(NAMES, key=lambda name: rows[name]["accuracy"])
        assert rows[best]["accuracy"] == rows[found["front"][-1]]["accuracy"]
    drawn = {path.stem for path in (folder / "plots").glob("*.png")}
    assert {"front", "heat", "curves", "layers"} <= drawn
    assert len((folder / "sweep" / "rows.csv").read_text().splitlines()) == 1 + len(NAMES)


def test_the_penalty_of_the_pull_phase_is_an_axis():
    config = config_of("--pull-epochs=1", "--limit=100", "--network=12-10", "--sparsity", "0.8",
                       "--bits", "8", "--axis", "penalty=0.001,10")  # fmt: skip
    problem = load(config)
    data = {"params": problem.net.params, "stats": problem.net.stats,
            "train": problem.data.train, "validation": problem.data.validation}  # fmt: skip
    found = sweep.run(lane(problem), config.grid(), data, axes=config.axes(), show=False)
    weak, strong = found.params["params"]["dense1"]["kernel"]
    assert found.points["penalty"].tolist() == pytest.approx([0.001, 10])
    assert 0 < np.count_nonzero(weak) < 0.4 * weak.size
    assert not np.array_equal(weak, strong)


@pytest.mark.parametrize("preset", skeleton.PRESETS)
@pytest.mark.parametrize("dataset", ["digits", "mnist", "fashion_mnist"])
def test_every_preset_is_in_range(preset, dataset):
    config = experiment.defaults(preset, dataset)
    config.check()  # raises if one is not
    assert (config.preset, config.dataset) == (preset, dataset)
    assert preset != "cpu" or len(config.sparsity) >= 5 and len(config.bits) >= 4


MISTAKES = {
    "shape": (["--axis", "batch_size=16,32"], "'batch_size' is no traced number"),
    "width": (["--axis", "widths=16,32"], "'widths' is no traced number"),
    "dataset": (["--axis", "dataset=1"], "sparsity, bits"),
    "form": (["--axis", "decay"], "name=v1,v2"),
    "word": (["--axis", "decay=low"], "name=v1,v2"),
    "range": (["--axis", "decay=0.5,1.5"], "axis 'decay' must be in"),
    "steps": (["--axis", "timesteps=2,5"], "axis 'timesteps' must be in [1, 4]"),
    "twice": (["--axis", "bits=2,3"], "--bits"),
    "penalty": (["--axis", "penalty=0.1"], "--pull-epochs"),
    "sparsity": (["--sparsity", "1.0"], "axis 'sparsity' must be in"),
    "same": (["--bits", "2", "2"], "are the same"),
    "many bits": (["--bits", "9"], "axis 'bits' must be in [2, 8]"),
    "no choice": (["--validation=0"], "--validation"),
    "emptied": (["--sparsity", "0.9999", "--allocation=uniform"], "would empty"),
}


@pytest.mark.parametrize("mistake", MISTAKES)
def test_a_mistake_is_one_line_and_writes_nothing(mistake, mistake_of):
    options, culprit = MISTAKES[mistake]
    assert culprit in mistake_of(experiment, ["--preset=smoke", *options])


def test_a_network_with_batch_norm_has_no_axis_of_timesteps():
    config = config_of("--network=resnet20", "--axis", "timesteps=1,2", "--limit=100")
    with pytest.raises(Exception, match="without batch normalisation"):
        load(config)
