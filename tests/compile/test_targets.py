"""One C file for all targets: threads, other compilers and word sizes, sanitizers."""

import os
import shutil
import subprocess

import numpy as np
import pytest

from jaxsnn.compile import call, source
from jaxsnn.native.builder import find_compiler
from tests.compile.random_networks import STRICT, draw, expected

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
