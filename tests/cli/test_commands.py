"""The command shows, evaluates, translates and compares files, and says in a line what is wrong."""

import json
import re
import shutil
import subprocess
import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxsnn
from jaxsnn import coding, compress, data, models, tree
from jaxsnn.cli import main
from jaxsnn.export import Model, load_stablehlo, pack, save
from jaxsnn.export.npz import integers
from jaxsnn.inputs import Inputs
from jaxsnn.network import Network
from jaxsnn.neurons import LIF

pytestmark = pytest.mark.long

INPUTS = Inputs((8, 8, 1), 3, "bernoulli")
LAYOUT = "4C3-AP2-6B3-10"


def network(norm=True):
    """Return a network, every second weight zero in the dense layer."""
    net = models.build(LAYOUT, (8, 8, 1), LIF(0.5, 0.25), norm=norm)
    kernel = net.params["dense1"]["kernel"].at[::2].set(0.0)
    return net.replace(params=tree.substitute(net.params, {"dense1/kernel": kernel}))


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Return a folder with some files."""
    folder = tmp_path_factory.mktemp("cli")
    net = network()
    save(folder / "net", net, INPUTS, {"name": "demo", "accuracy": "0.25"})
    few = jax.tree.map(lambda leaf: jnp.sign(leaf) * jnp.abs(leaf).mean() + 0.0, net.params)
    save(folder / "small", net.replace(params=few), INPUTS, {"name": "small"})
    save(folder / "numbers", Network.wrap(net.params, lambda params, x: x))
    save(folder / "no_inputs", net)
    save(folder / "linear", models.build("10", (8, 8, 1), LIF()), Inputs((8, 8, 1), 1))
    for name, dataset in (("stated", "digits"), ("elsewhere", "nowhere")):
        save(folder / name, net, INPUTS, {"dataset": dataset})
    save(folder / "plain", network(norm=False), Inputs((8, 8, 1), 3))
    return folder


def output(capsys, *arguments):
    """Return what a command prints on standard output."""
    assert main([str(argument) for argument in arguments]) == 0
    return capsys.readouterr().out


def test_inspect_counts_every_byte_of_the_file(folder, capsys):
    found = json.loads(output(capsys, "inspect", folder / "net", "--json"))
    size = (folder / "net").stat().st_size
    assert found["file_bytes"] == size
    assert found["header_bytes"] + sum(row["bytes"] for row in found["layers"]) == size
    assert found["metadata"] == {"name": "demo", "accuracy": "0.25"}
    assert found["inputs"]["timesteps"] == 3
    rows = {row["name"]: row for row in found["layers"]}
    assert list(rows) == ["conv1", "block1/conv1", "block1/conv2", "dense1"]  # as they are run
    dense = rows["dense1"]
    assert dense["shape"] == [96, 10] and dense["density"] == 0.5 and dense["bits"] == 32
    assert dense["bytes"] == coding.num_bytes(network().params["dense1"]["kernel"]) + 40
    assert dense["decay"] == 0.5 and dense["threshold"] == 0.25
    assert [row["neurons"] for row in rows.values()] == [8 * 8 * 4, 4 * 4 * 6, 4 * 4 * 6, 10]


def test_inspect_prints_a_line_for_each_layer(folder, capsys):
    lines = output(capsys, "inspect", folder / "net").splitlines()
    dense = next(line.split() for line in lines if "dense1" in line)
    assert dense[1:4] == ["96×10", "50", "32"] and dense[5:] == ["10", "0.5", "0.25"]
    lines = output(capsys, "inspect", folder / "numbers").splitlines()
    dense = next(line.split() for line in lines if "dense1" in line)
    assert dense[1:4] == ["96×10", "50", "32"] and dense[5:] == ["–", "–", "–"]


def test_inspect_shows_what_each_leaf_takes_in_other_forms(folder, capsys):
    lines = output(capsys, "inspect", folder / "net", "--forms").splitlines()
    dense = next(line.split() for line in lines if "dense1/kernel" in line)
    assert dense[1:3] == ["96×10", "50"] and dense[-1] == "coded_floats"
    found = json.loads(output(capsys, "inspect", folder / "net", "--forms", "--json"))["leaves"]
    row = next(row for row in found if row["name"] == "dense1/kernel")
    assert row["forms"][row["form"]] == row["bytes"] and row["forms"]["floats"] == 4 * 960
    assert row["least"] == 960 / 8 + 4 * 480
    both = ["inspect", str(folder / "net"), "--forms", "--chip", "speck"]
    assert main(both) == 2 and "two questions" in capsys.readouterr().err


def test_eval_gives_the_accuracy_of_the_same_scores(folder, capsys):
    test = data.load("digits").test
    scores = Model(network(), INPUTS).scores(test.images)
    right = int((np.asarray(scores).argmax(-1) == test.labels).sum())
    found = json.loads(output(capsys, "eval", folder / "net", "--dataset", "digits", "--json"))
    assert found["accuracy"] == pytest.approx(right / len(test.labels), abs=1e-6)
    assert found["samples"] == len(test.labels) and found["stated_accuracy"] == 0.25
    assert len(found["accuracy_over_time"]) == 3 and found["spikes_per_sample"] > 0
    text = output(capsys, "eval", folder / "linear", "--dataset", "digits")
    assert "% of 359 test samples" in text and "stated           –" in text


def test_compare_shows_both_and_how_far_their_scores_are_apart(folder, capsys):
    both = folder / "net", folder / "small"
    text = output(capsys, "compare", *both, "--dataset", "digits")
    assert "32 → 2" in text and "demo → small" in text
    apart = re.search(r"at most (\S+) apart, (\S+) % of the decisions equal, on 359 test", text)
    assert apart and float(apart[1]) > 0 and 0 < float(apart[2]) <= 100
    assert re.search(r"test accuracy +\S+ % → \S+ %", text)
    same = folder / "linear"
    line = ("compare", same, same, "--dataset", "digits", "--json")
    found = json.loads(output(capsys, *line))
    assert found["first"] == found["second"] and found["first"]["file"] == str(same)
    scores = found["scores"]
    assert scores["samples"] == 359 and scores["accuracy"][0] == scores["accuracy"][1]
    assert scores["largest_difference"] == 0 and scores["same_decisions"] == 1
    # On which samples is for the user or the files to say: on noise any two are far apart.
    assert "not compared: name a data set" in output(capsys, "compare", *both)
    text = output(capsys, "compare", folder / "stated", folder / "stated")
    assert "100 % of the decisions equal, on 359 test samples of digits" in text
    text = output(capsys, "compare", folder / "elsewhere", folder / "elsewhere")
    assert "scores" in text and "not compared: data set 'nowhere'" in " ".join(text.split())
    assert main(["compare", str(same), str(folder / "numbers"), "--dataset", "digits"]) == 2
    assert "numbers: holds no architecture" in capsys.readouterr().err


def test_export_to_npz_gives_floats_and_integers(folder, tmp_path, capsys):
    text = output(capsys, "export", folder / "small", "--to", "npz", "--out", tmp_path / "a.npz")
    assert f"{(tmp_path / 'a.npz').stat().st_size:,} bytes" in text
    with np.load(tmp_path / "a.npz", allow_pickle=False) as file:
        kernel = file["params/dense1/kernel"]
        whole, scale = (file[f"params/dense1/kernel#{part}"] for part in ("integers", "scale"))
        about = json.loads(str(file["jaxsnn"]))
        assert file["stats/dense1/neurons/threshold"] == 0.25
    assert whole.shape == (96, 10) and np.unique(whole).tolist() == [-1, 0, 1]
    np.testing.assert_array_equal(whole * scale, kernel)
    assert about["metadata"] == {"name": "small"} and len(about["architecture"]) == 5


def test_scaled_weights_become_odd_integers_and_a_scale_for_each_channel():
    draw = np.random.default_rng(0)
    odd = draw.choice([-7, -5, -3, -1, 1, 3, 5, 7], size=(3, 3, 40, 8)) * (draw.random(8) < 0.9)
    odd[0, 0, 0] = 7
    gamma = draw.uniform(0.1, 1, 8).astype(np.float32)
    leaf = gamma * (odd.astype(np.float32) * np.float32(1 / 7))
    found = integers(leaf)
    np.testing.assert_array_equal(found["integers"], odd)
    np.testing.assert_allclose(found["scale"], gamma / 7, rtol=1e-6)


def test_every_known_grid_is_written_as_integers():
    leaf = jnp.asarray(np.float32(np.random.default_rng(0).normal(size=(30, 5))))
    channels = compress.Step.of(jnp.arange(1.0, 6).reshape(1, 5) / 10, bits=4)
    for known in (
        compress.uniform_grid(4).quantize(leaf),
        compress.rescaled(3).quantize(leaf),
        channels.with_codes(jnp.round(leaf * 3)),
    ):
        found = integers(known.decode(), known)
        assert found["integers"].dtype == np.int8
        np.testing.assert_array_equal(found["integers"], known.codes)
        back = found["integers"] * found["scale"]
        np.testing.assert_allclose(back, known.decode(), rtol=1e-6)


def test_export_to_stablehlo_gives_the_scores_of_the_network(folder, tmp_path, capsys):
    output(capsys, "export", folder / "plain", "--to", "stablehlo", "--out", tmp_path / "program")
    images = data.load("digits").test.images[:3]
    model = Model(network(norm=False), Inputs((8, 8, 1), 3))
    expected = model.scores(images, batch_size=3)
    np.testing.assert_array_equal(load_stablehlo(tmp_path / "program")[0].call(images), expected)


def test_export_to_nir_folds_norms_and_names_what_a_target_cannot_express(folder, tmp_path, capsys):
    nir = pytest.importorskip("nir")
    out = tmp_path / "net.nir"
    text = output(capsys, "export", folder / "net", "--to", "nir", "--out", out)
    assert "folded" in text and "dense1_neurons" in nir.read(out).nodes
    out.unlink()
    save(tmp_path / "net", models.build("4R-10", (8, 8, 1), LIF()), INPUTS)
    line = ["export", tmp_path / "net", "--to", "nir", "--target", "snntorch", "--out", out]
    assert main([str(word) for word in line]) == 2  # it cannot read its own recurrence
    error = capsys.readouterr().err
    assert "snntorch" in error and "dense1" in error and not out.exists()


@pytest.mark.parametrize(
    "line, message",
    [
        ("", "Expected one of {inspect, eval, export, import, compile, compare}"),
        ("inspect", "Missing from jaxsnn inspect"),
        ("inspect net --colour", "Unrecognized options: --colour"),
        ("inspect none", "none: no such file, expected a jaxsnn network"),
        ("inspect empty", "empty: expected a jaxsnn network, found an empty file"),
        ("inspect foreign", "foreign: damaged or cut short"),
        ("inspect short", "short: damaged or cut short"),
        ("inspect flipped", "flipped: damaged or cut short: the checksum differs"),
        ("inspect newer", "newer: expected version 3 of the format, found '4'"),
        ("compare net none", "none: no such file"),
        ("eval numbers --dataset digits", "numbers: holds no architecture, expected one"),
        ("eval no_inputs --dataset digits", "no_inputs: says nothing about its input, expected"),
        ("eval net --dataset moons", "data set 'moons' is not one of digits"),
        ("eval net --dataset digits --batch-size 0", "batch_size must be in"),
        (
            "eval wide --dataset digits",
            "wide: takes samples of shape 16×16×1 in 10 classes, but digits has 8×8×1 in 10",
        ),
        (
            "eval few --dataset digits",
            "few: takes samples of shape 8×8×1 in 4 classes, but digits has 8×8×1 in 10 classes",
        ),
        ("export net --to onnx --out out", "invalid choice 'onnx'"),
        ("export net --to npz --target norse --out out", "--target and --dataset are for --to nir"),
        ("export numbers --to stablehlo --out out", "numbers: holds no architecture"),
        ("export net --to nir --target onnx --out out", "onnx"),
        ("export net --to npz --out net/out", "cannot write net/out"),
    ],
)
def test_a_mistake_is_one_line_and_exit_code_2(
    folder, tmp_path, monkeypatch, capsys, line, message
):
    for name in ("net", "numbers", "no_inputs"):
        (tmp_path / name).write_bytes((folder / name).read_bytes())
    content = (folder / "net").read_bytes()
    (tmp_path / "empty").touch()
    (tmp_path / "foreign").write_text("hello")
    (tmp_path / "short").write_bytes(content[:-9])
    (tmp_path / "flipped").write_bytes(content[:-9] + bytes([content[-9] ^ 4]) + content[-8:])
    newer = content.replace(b'"jaxsnn3"', b'"jaxsnn4"')
    assert newer != content
    (tmp_path / "newer").write_bytes(newer)
    for name, layout, inputs in [
        ("wide", "AP2-10", Inputs((16, 16, 1), 2)),
        ("few", "4", Inputs((8, 8, 1), 2)),
    ]:
        save(tmp_path / name, models.build(layout, inputs.shape, LIF()), inputs)
    monkeypatch.chdir(tmp_path)
    before = sorted(path.name for path in tmp_path.iterdir())
    assert main(line.split()) == 2
    printed = capsys.readouterr()
    assert printed.out == "" and printed.err.startswith("error: ")
    assert printed.err.count("\n") == 1 and message in printed.err
    assert sorted(path.name for path in tmp_path.iterdir()) == before


@pytest.mark.slow
def test_the_command_is_installed_and_its_output_can_be_piped(folder):
    code = "import sys; from jaxsnn.cli import main; sys.exit(main())"
    line = [sys.executable, "-c", code, "inspect", str(folder / "net"), "--json"]
    done = subprocess.run(line, capture_output=True, text=True, check=True)
    assert json.loads(done.stdout)["file"] == str(folder / "net") and done.stderr == ""
    line = [sys.executable, "-m", "jaxsnn", "--version"]
    done = subprocess.run(line, capture_output=True, text=True, check=True)
    assert done.stdout == f"jaxsnn {jaxsnn.__version__}\n"
    setup = (Path(__file__).parents[2] / "setup.cfg").read_text(encoding="utf-8")
    assert "jaxsnn = jaxsnn.cli:main" in setup


def test_the_bytes_of_a_layer_are_those_of_its_tensors(folder, capsys):
    rows = json.loads(output(capsys, "inspect", folder / "net", "--json"))["layers"]
    written = {name: tensor.nbytes for name, tensor in pack.read(folder / "net").tensors.items()}
    named = tree.named_leaves(network().params)
    assert {f"params/{name}" for name in named} < written.keys()
    for row in rows:
        tensors = [
            size
            for name, size in written.items()
            if name.partition("/")[2].startswith(f"{row['name']}/")
        ]
        assert row["bytes"] == sum(tensors)


def test_compile_writes_c_and_the_compiled_network_predicts(folder, tmp_path, capsys):
    if shutil.which("cc") is None:
        pytest.skip("there is no C compiler")
    assert main(["compile", str(folder / "plain"), "--out", str(tmp_path / "small.c")]) == 2
    refused = capsys.readouterr().err  # weights and biases on no grid
    assert "conv1: bias by" in refused and "allow rounding" in refused
    out = tmp_path / "small.c"
    text = output(capsys, "compile", folder / "plain", "--out", out, "--allow-rounding")
    assert re.search(r"small\.c: [\d,]+ bytes of C; one sample at a time takes", text)
    assert "void small_predict_batch(" in out.with_suffix(".h").read_text()
    found = json.loads(
        output(capsys, "eval", folder / "plain", "--dataset", "digits", "--engine", "c", "--json")
    )
    assert found["samples"] == 359 and 0 <= found["accuracy"] <= 1


def test_compile_names_what_it_cannot_do(folder, tmp_path, capsys):
    for file, out, message in (
        ("plain", "small.txt", "must end in .c"),
        ("no_inputs", "small.c", "nothing is known of the network's input"),
        ("numbers", "small.c", "numbers: "),
    ):
        assert main(["compile", str(folder / file), "--out", str(tmp_path / out)]) == 2
        assert message in capsys.readouterr().err
        assert not list(tmp_path.iterdir())
