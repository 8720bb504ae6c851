"""The runner of integer networks that needs only numpy gives the read-out of the reference."""

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from jaxsnn.export import save_integer
from tests.compile.random_networks import draw
from tests.export.integer.integer_cases import reference
from tools import run_integer_numpy

pytestmark = pytest.mark.long


@pytest.mark.parametrize("seed", [2, 5, 9, 11, 28])
def test_it_gives_the_read_out_of_the_reference(seed, tmp_path):
    case = draw(seed, samples=3)
    save_integer(tmp_path / "net.npz", case.integers)
    found = run_integer_numpy.run(tmp_path / "net.npz", case.over_time)
    right = reference(case.integers, case.over_time)[0]
    np.testing.assert_array_equal(found, right)
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
