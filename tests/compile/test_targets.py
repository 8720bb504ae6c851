"""One C file for all targets: threads, other compilers and word sizes, sanitizers."""

import os
import re
import shutil
import subprocess
from dataclasses import replace
from pathlib import Path

import jax.numpy as jnp
import numpy as np
import pytest

from jaxsnn import models, tree
from jaxsnn.compile import call, source, trial
from jaxsnn.export import to_integer
from jaxsnn.export.integer.inputs import PIXELS
from jaxsnn.native.builder import find_compiler
from jaxsnn.neurons import LIF
from tests.compile.random_networks import STRICT, Case, draw, expected, run_program
from tests.peers import CROSS, peer_python

pytestmark = pytest.mark.skipif(shutil.which("cc") is None, reason="there is no C compiler")

EMULATOR = Path(__file__).parents[2] / "tools" / "cortex_m4.py"
CORTEX = ("-target", "thumb-freestanding-eabi", "-mcpu=cortex_m4")
CLANG_SEEDS = (1, 3, 7, 9, 12)
CORTEX_SEEDS = (0, 2, 4, 8, 11, 13)
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
@pytest.mark.long
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


@pytest.mark.parametrize("seed", [2, 4, 24, 27], ids=["recurrent", "alone", "steps", "blocks"])
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


@pytest.mark.slow
@pytest.mark.parametrize(
    "flags",
    [
        ("-O0", "-DNET_BATCH"),
        ("-O3", "-march=native", "-DNET_BATCH"),
        ("-O2", "-target", "x86-linux-musl", "-DNET_BATCH"),
        ("-O2", "-target", "x86-linux-musl"),
    ],
    ids=["plain", "fast", "32 bits", "32 bits, mcu"],
)
def test_clang_builds_the_same(flags, tmp_path):
    compiler = [peer_python(*CROSS), "-m", "ziglang", "cc"]
    for seed in CLANG_SEEDS:
        case = draw(seed)
        right = np.concatenate(expected(case), 1)
        found = run_program(case, tmp_path, flags, compiler)
        engines = 2 if "-DNET_BATCH" in flags else 1
        np.testing.assert_array_equal(found, np.tile(right, engines), str(seed))


@pytest.mark.slow
@pytest.mark.parametrize("level", ["-O0", "-O3"])
def test_gcc_builds_the_same_under_sanitizers(level, tmp_path):
    flags = (level, "-fsanitize=address,undefined", "-fno-sanitize-recover", "-DNET_BATCH")
    for seed in CLANG_SEEDS:
        case = draw(seed)
        right = np.concatenate(expected(case), 1)
        found = run_program(case, tmp_path, flags, [find_compiler()])
        np.testing.assert_array_equal(found, np.tile(right, 2), str(seed))


@pytest.mark.slow
def test_an_emulated_cortex_m4_gives_every_score_and_spike(tmp_path):
    python = peer_python(*CROSS)
    for seed in (100, *CORTEX_SEEDS):
        case = digits() if seed == 100 else draw(seed)
        right = np.concatenate(expected(case), 1)
        made = source.assemble(case.plan, "net", {}, target="mcu")
        for file, text in (
            ("net.c", made.code),
            ("net.h", made.header),
            ("net_test.c", trial.program(case.plan, "net", "net.h")),
            ("net_test.ld", trial.linker_script(trial.FLASH, trial.RAM)),
        ):
            (tmp_path / file).write_text(text)
        build = [python, "-m", "ziglang", "cc", *CORTEX, *STRICT, "-DNET_TRACE", "-Os"]
        files = ["-T", "net_test.ld", "net.c", "net_test.c", "-o", "net.elf"]
        subprocess.run([*build, *files], cwd=tmp_path, check=True)
        done = subprocess.run(
            [python, EMULATOR, "net.elf"], cwd=tmp_path, capture_output=True, check=True,
            input=call.checked(case.samples, case.plan).tobytes(),
        )  # fmt: skip
        found = [[int(word) for word in line.split()] for line in done.stdout.splitlines()]
        np.testing.assert_array_equal(found, right, str(seed))
        flash, memory, stack, samples, _ = numbers_in(done.stderr.decode())
        assert made.table_bytes < flash < made.table_bytes + 6000
        traced = 4 * (source.counts_size(case.plan) + 2 * case.plan.classes)
        assert made.state_bytes <= memory < made.state_bytes + traced + 8 * case.plan.input.size * 6
        assert samples == len(case.samples) and 0 < stack < 1000


def digits():
    """Return the quickstart's network, with weights of which nine of ten are zero."""
    net = models.build("16C3-AP2-32C3-AP2-64-10", (8, 8, 1), LIF(0.5, 0.5), seed=3)
    random = np.random.default_rng(0)

    def weights(name, leaf):
        codes = random.integers(-3, 4, leaf.shape) * (random.random(leaf.shape) < 0.2)
        return jnp.asarray(codes * 0.25, jnp.float32)

    integers = to_integer(net.replace(params=tree.map_named(weights, net.params)), PIXELS, 4)
    samples = random.integers(0, 256, (3, 8, 8, 1))
    return Case("digits", integers, (8, 8, 1), samples, constant=True)


def numbers_in(text):
    """Return the whole numbers of a text."""
    return [int(word.replace(",", "")) for word in re.findall(r"\b\d[\d,]*", text)]
