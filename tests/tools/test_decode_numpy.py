"""The decoder that needs only numpy returns the very bits of `export.load`."""

import ast
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import jax.numpy as jnp
import numpy as np
import pytest

from jaxsnn import coding, tree
from jaxsnn.coding.forms import WRITTEN
from jaxsnn.compress import n_of_m, rescaled, uniform_grid
from jaxsnn.export import compact, load, save
from jaxsnn.network import Network
from tools import decode_numpy, decode_parts

pytestmark = pytest.mark.long

SOURCE = Path(decode_numpy.__file__)
PARTS = Path(decode_parts.__file__)


def network():
    """Return a network with one leaf, or more, for each form of the packed file."""
    draw = np.random.default_rng(0)
    floats = draw.normal(size=(40, 30)).astype(np.float32)
    grid = np.round(floats * 2).clip(-3, 3) / 2 + np.float32(0)
    scales = draw.uniform(0.1, 1, 30)  # in double precision: more than one rounding
    steps = {}
    found = {"number": np.float32(3.0), "empty": np.zeros((0, 4), np.float32)}
    found["short"] = np.ldexp(np.float32(-0.75), np.arange(40))
    found["points"] = draw.integers(-100, 100, 40) * np.float32(0.125)
    for density in (0.0, 0.05, 0.6, 1.0, "1:8"):
        some = np.asarray(n_of_m(1, 8)(floats)) != 0
        kept = some if density == "1:8" else draw.random(floats.shape) < density
        found |= {
            f"floats{density}": np.where(kept, floats, 0),
            f"codes{density}": np.where(kept, np.sin(grid + 5), 0),
            f"near{density}": np.where(kept, np.round(floats * 3) * scales, 0),
            f"scaled{density}": np.asarray(rescaled(5, kept=kept)(floats)),
        }
        known = uniform_grid(4).quantize(jnp.where(kept, floats, 0))
        channels = known.step.scale * jnp.arange(1.0, 31).reshape(1, -1)
        for name, scale in (("layer", known.step.scale), ("channels", channels)):
            step = steps[f"all/{name}{density}"] = replace(known.step, scale=scale)
            found[f"{name}{density}"] = np.asarray(step.with_codes(known.codes).decode())
        step = replace(step, bits=jnp.full(channels.shape, 4.0).at[0, :3].set(5.0))
        steps[f"all/widths{density}"] = step
        found[f"widths{density}"] = np.asarray(step.with_codes(known.codes).decode())
    params = {"all": {name: leaf.astype(np.float32) for name, leaf in found.items()}}
    stats = {"all": {"mean": np.arange(4, dtype=np.float32), "decay": np.float32(0.1)}}
    return Network.wrap(params, unused, stats).replace(steps=steps)


def unused(params, stats, x):
    """Stand for a function that never runs here."""


def test_the_leaves_take_every_form():
    net = network()
    known = {name.removeprefix("all/"): found for name, found in net.quantized.items()}
    forms = {coding.encode(leaf, known.get(n))[0] for n, leaf in net.params["all"].items()}
    assert forms == set(WRITTEN)


def test_every_leaf_is_that_of_load(tmp_path):
    save(tmp_path / "net", network())
    net = load(tmp_path / "net", like=network()).network
    expected = tree.named_leaves({"params": net.params, "stats": net.stats})
    _, found = decode_numpy.read(tmp_path / "net")
    assert found.keys() == expected.keys()
    for name, leaf in expected.items():
        assert found[name].dtype == leaf.dtype and found[name].shape == leaf.shape
        assert found[name].tobytes() == np.asarray(leaf).tobytes(), name


def test_both_files_are_short_and_import_numpy_only():
    for path in (SOURCE, PARTS):
        text = path.read_text(encoding="utf-8")
        assert len(text.splitlines()) < 120
        imported = set()
        for node in ast.walk(ast.parse(text)):
            if isinstance(node, ast.Import):
                imported |= {alias.name.partition(".")[0] for alias in node.names}
            elif isinstance(node, ast.ImportFrom):
                imported.add(node.module.partition(".")[0])
        assert imported - sys.stdlib_module_names <= {"numpy", PARTS.stem}
    assert f"python {SOURCE.name} FILE" in SOURCE.read_text(encoding="utf-8")
    assert decode_parts.WORDS == compact.WORDS


def test_it_runs_by_itself_from_anywhere(tmp_path):
    net = network()
    save(tmp_path / "net", net)
    line = [sys.executable, SOURCE, "net", "out.npz"]
    done = subprocess.run(line, cwd=tmp_path, check=True, capture_output=True, text=True)
    assert "params/all/codes0.6" in done.stdout and "stats/all/decay" in done.stdout
    with np.load(tmp_path / "out.npz") as file:
        np.testing.assert_array_equal(file["params/all/scaled0.6"], net.params["all"]["scaled0.6"])
