"""The decoder that needs only numpy and safetensors returns the very bits of `export.load`."""

import ast
import subprocess
import sys
from pathlib import Path

import numpy as np

from jaxsnn import coding, tree
from jaxsnn.compress.rescaling import rescaled
from jaxsnn.export.pack import load, save
from tools import decode_numpy

SOURCE = Path(decode_numpy.__file__)


def leaves():
    """Return one leaf, or more, for each form of the packed file."""
    draw = np.random.default_rng(0)
    floats = draw.normal(size=(40, 30)).astype(np.float32)
    grid = np.round(floats * 2).clip(-3, 3) / 2 + np.float32(0)
    found = {"number": np.float32(3.0), "empty": np.zeros((0, 4), np.float32)}
    for density in (0.0, 0.05, 0.6, 1.0):
        kept = draw.random(floats.shape) < density
        found |= {
            f"floats{density}": np.where(kept, floats, 0),
            f"codes{density}": np.where(kept, grid + np.float32(0.25), 0),
            f"scaled{density}": np.asarray(rescaled(5, kept=kept)(floats)),
        }
    return {"all": {name: leaf.astype(np.float32) for name, leaf in found.items()}}


STATS = {"all": {"mean": np.arange(4, dtype=np.float32), "decay": np.float32(0.1)}}


def test_the_leaves_take_every_form():
    forms = {coding.encode(leaf)[0] for leaf in leaves()["all"].values()}
    assert forms == set(coding.PARTS)


def test_every_leaf_is_that_of_load(tmp_path):
    save(tmp_path / "net", leaves(), STATS)
    params, stats, _ = load(tmp_path / "net")
    expected = tree.named_leaves({"params": params, "stats": stats})
    _, found = decode_numpy.read(tmp_path / "net")
    assert found.keys() == expected.keys()
    for name, leaf in expected.items():
        assert found[name].dtype == leaf.dtype and found[name].shape == leaf.shape
        assert found[name].tobytes() == leaf.tobytes(), name


def test_it_is_short_and_imports_numpy_and_the_container_only():
    text = SOURCE.read_text(encoding="utf-8")
    assert len(text.splitlines()) < 80
    imported = set()
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.Import):
            imported |= {alias.name.partition(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            imported.add(node.module.partition(".")[0])
    assert imported - sys.stdlib_module_names == {"numpy", "safetensors"}


def test_it_runs_by_itself_from_anywhere(tmp_path):
    save(tmp_path / "net", leaves(), STATS)
    line = [sys.executable, SOURCE, "net", "out.npz"]
    done = subprocess.run(line, cwd=tmp_path, check=True, capture_output=True, text=True)
    assert "params/all/codes0.6" in done.stdout and "stats/all/decay" in done.stdout
    with np.load(tmp_path / "out.npz") as file:
        np.testing.assert_array_equal(file["params/all/scaled0.6"], leaves()["all"]["scaled0.6"])
