"""One C file for all targets: threads, other compilers and word sizes, sanitizers."""

import os
import shutil
import subprocess
from dataclasses import replace

import numpy as np
import pytest

from jaxsnn.compile import call, source
from jaxsnn.native.builder import find_compiler
from tests.compile.random_networks import STRICT, draw, expected, run_program

pytestmark = pytest.mark.skipif(shutil.which("cc") is None, reason="there is no C compiler")

MANY = """
#include <stdio.h>
static SAMPLE samples[MANY * SAMPLE_SIZE];
static int32_t scores[MANY * CLASSES], counts[MANY * COUNTS + 1];
int main(void) {
  if (fread(samples, sizeof samples, 1, stdin) != 1) return 1;
  net_trace_batch(samples, scores, counts, MANY);
  fwrite(scores, sizeof scores, 1, stdout);
  fwrite(counts, sizeof(int32_t), MANY * COUNTS, stdout);
  return 0;
}
"""


@pytest.mark.parametrize("seed", [3, 10], ids=["recurrent", "convolution"])
def test_the_number_of_threads_changes_nothing(seed, tmp_path):
    count = 300  # of which a word takes 64
    case = draw(seed, samples=count)
    code = source.assemble(case.plan, "net", {}, target="cpu").code
    (tmp_path / "net.c").write_text(code + MANY)
    flags = [*STRICT, "-O1", "-DNET_TRACE", "-DONE_WORD", f"-DMANY={count}"]
    values = call.checked(case.samples, case.plan).tobytes()
    right = np.concatenate([x.astype(np.int32).ravel() for x in expected(case)])

    def build(*more):
        command = [find_compiler(), *flags, *more, "net.c", "-o", "net"]
        return subprocess.run(command, cwd=tmp_path, capture_output=True, check=False).returncode

    def run(threads):
        done = subprocess.run(
            [tmp_path / "net"], input=values, capture_output=True, check=True,
            env=os.environ | {"OMP_NUM_THREADS": str(threads)},
        )  # fmt: skip
        np.testing.assert_array_equal(np.frombuffer(done.stdout, np.int32), right)

    assert build() == 0
    run(3)
    if build("-fopenmp", "-DNET_THREADS=2"):
        pytest.skip(f"{find_compiler()} has no OpenMP")
    for threads in (1, 2, 3):
        run(threads)


@pytest.mark.parametrize("seed", [2, 4, 8, 12], ids=["recurrent", "alone", "steps", "blocks"])
def test_the_code_for_a_microcontroller_is_equal(seed, tmp_path):
    case = draw(seed)
    found = run_program(case, tmp_path, ("-O1",), [find_compiler()])
    np.testing.assert_array_equal(found, np.concatenate(expected(case), 1))


@pytest.mark.slow
@pytest.mark.parametrize("first", range(0, 200, 25))
def test_many_networks_for_a_microcontroller_are_equal(first, tmp_path):
    flags = ("-O1", "-fsanitize=address,undefined", "-fno-sanitize-recover")
    for seed in range(first, first + 25):
        case = draw(seed)
        found = run_program(case, tmp_path, flags, [find_compiler()])
        np.testing.assert_array_equal(found, np.concatenate(expected(case), 1), str(seed))


@pytest.mark.slow
@pytest.mark.parametrize("target", ["cpu", "mcu"])
def test_nothing_overflows_whatever_the_bytes(target, tmp_path):
    """Samples of random bytes count as the nearest values in range, clean under sanitizers."""
    flags = ("-O1", "-fsanitize=address,undefined", "-fno-sanitize-recover")
    for seed in range(5, 5 + 3 * 16, 3):
        case = draw(seed, samples=8)
        grid = case.integers.inputs
        type_ = np.dtype(source.sample_type(case.plan).removesuffix("_t"))
        noise = np.random.default_rng(seed).bytes(case.samples.size * type_.itemsize)
        values = np.frombuffer(noise, type_).reshape(case.samples.shape)
        near = replace(case, samples=values.astype(np.int64).clip(min(grid.low, 0), grid.high))
        right = np.concatenate(expected(near), 1)
        batch = ("-DNET_BATCH",) if target == "cpu" else ()
        found = run_program(case, tmp_path, (*flags, *batch), [find_compiler()], noise)
        np.testing.assert_array_equal(found, np.tile(right, 1 + len(batch)), str(seed))
