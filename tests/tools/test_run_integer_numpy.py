"""The runner of integer networks that needs only numpy gives the read-out of the reference."""

import ast
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from jaxsnn.export import save_integer
from tests.compile.random_networks import draw
from tests.export.integer.integer_cases import reference
from tools import run_integer_numpy

LINES = 42  # of code, so that it can be read in a minute


def assert_equal(seed, path):
    """Assert that the runner gives the read-out of a random network, and return both."""
    case = draw(seed, samples=3)
    save_integer(path, case.integers)
    found = run_integer_numpy.run(path, case.over_time)
    right = reference(case.integers, case.over_time)[0]
    np.testing.assert_array_equal(found, right, err_msg=case.layout)
    return case, right


@pytest.mark.long
@pytest.mark.parametrize("seed", [2, 5, 9, 11, 28])
def test_it_gives_the_read_out_of_the_reference(seed, tmp_path):
    case, right = assert_equal(seed, tmp_path / "net.npz")
    before = (tmp_path / "net.npz").read_bytes()
    save_integer(tmp_path / "net.npz", case.integers)
    assert (tmp_path / "net.npz").read_bytes() == before
    if seed == 2:
        np.save(tmp_path / "x.npy", case.over_time)
        done = subprocess.run(
            [sys.executable, Path(run_integer_numpy.__file__), "net.npz", "x.npy"],
            cwd=tmp_path, capture_output=True, text=True, check=True,
        )  # fmt: skip
        assert done.stdout == f"{right.sum(0)}\n"


@pytest.mark.slow
@pytest.mark.parametrize("first", range(0, 200, 25))
def test_many_random_networks(first, tmp_path):
    for seed in range(first, first + 25):
        assert_equal(seed, tmp_path / "net.npz")


def test_it_is_some_forty_lines_of_code():
    text = Path(run_integer_numpy.__file__).read_text(encoding="utf-8")
    told = [
        number
        for node in ast.walk(ast.parse(text))
        if isinstance(node, ast.Module | ast.FunctionDef) and ast.get_docstring(node)
        for number in range(node.body[0].lineno, node.body[0].end_lineno + 1)
    ]
    lines = enumerate(text.splitlines(), 1)
    code = [line for number, line in lines if line.strip() and number not in told]
    assert len(code) <= LINES
