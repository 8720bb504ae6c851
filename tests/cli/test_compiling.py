"""`jaxsnn compile` says what a network takes, refuses what does not fit, and writes a program."""

import re
import shutil
import subprocess

import numpy as np
import pytest

from jaxsnn import compile as compiling
from jaxsnn import models
from jaxsnn.cli import main
from jaxsnn.export import load, save
from jaxsnn.inputs import Inputs
from jaxsnn.neurons import LIF


@pytest.fixture(scope="module")
def packed(tmp_path_factory):
    """Return a packed network of digits."""
    path, inputs = tmp_path_factory.mktemp("compiling") / "net", Inputs((8, 8, 1), 3)
    save(path, models.build("4C3-AP2-10", inputs.shape, LIF(0.5, 0.25)), inputs)
    return path


def output(capsys, *arguments):
    """Return what a command prints on standard output."""
    assert main([str(argument) for argument in arguments]) == 0
    return capsys.readouterr().out


@pytest.mark.long
def test_compile_writes_a_program_that_prints_the_scores(packed, tmp_path, capsys):
    if shutil.which("cc") is None:
        pytest.skip("there is no C compiler")
    out, header = tmp_path / "1 small.c", tmp_path / "1 small.h"
    options = ["--out", out, "--allow-rounding", "--target", "mcu", "--test", "--ram", "20000"]
    text = output(capsys, "compile", packed, *options)
    taken = [
        int(size.replace(",", "")) for size in re.findall(r"([\d,]+) (?:bytes of t|of m)", text)
    ]
    sizes = re.findall(r"_(?:TABLES|STATE) (\d+)", header.read_text())
    assert taken == [int(size) for size in sizes] and min(taken) > 100
    assert (
        "ram (rw) : ORIGIN = 0x20000000, LENGTH = 20000"
        in (tmp_path / "1 small_test.ld").read_text()
    )
    subprocess.run(["cc", out.name, "1 small_test.c", "-o", "run"], cwd=tmp_path, check=True)
    model = load(packed)
    samples = np.random.default_rng(0).integers(0, 256, (3, *model.inputs.shape)).astype(np.uint8)
    done = subprocess.run(
        [tmp_path / "run"], input=samples.tobytes(), capture_output=True, check=True
    )
    function = compiling.build(model.network, model.inputs, allow_rounding=True)
    scores = [[int(word) for word in line.split()] for line in done.stdout.decode().splitlines()]
    np.testing.assert_array_equal(scores, function(samples))


def test_compile_refuses_a_network_that_does_not_fit(packed, tmp_path, capsys):
    for options, message in (
        (
            ("--target", "mcu", "--flash", "100"),
            r"takes [\d,]+ bytes of tables, more than --flash 100",
        ),
        (("--target", "mcu", "--ram", "100"), r"takes [\d,]+ bytes of memory, more than --ram 100"),
        (("--ram", "100"), "--ram is for --target mcu, found --target cpu"),
        (("--target", "mcu", "--flash", "0"), "--flash 0: must be 1 to 4294967295 bytes"),
        (("--target", "gpu"), "target"),
    ):
        out = ["--out", str(tmp_path / "small.c"), "--allow-rounding"]
        assert main(["compile", str(packed), *out, *options]) == 2
        assert re.search(message, capsys.readouterr().err)
        assert not list(tmp_path.iterdir())


def test_a_compiler_that_fails_is_one_line(packed, tmp_path, capsys, monkeypatch):
    broken = tmp_path / "cc"
    broken.write_text("#!/bin/sh\necho 'net.c:1: error: no luck' >&2\nexit 1\n")
    broken.chmod(0o755)
    monkeypatch.setenv("JAXSNN_CACHE", str(tmp_path))
    for compiler, message in (
        (
            str(broken),
            r"the compiler failed \(net.c:1: error: no luck\); the command was: .*cc -shared",
        ),
        ("none", r"no C compiler: \$CC = 'none' is no program; install gcc or clang"),
    ):
        monkeypatch.setenv("CC", compiler)
        command = ["eval", str(packed), "--dataset", "digits", "--engine", "c"]
        assert main(command) == 2
        found = capsys.readouterr().err
        assert re.search(message, found) and len(found.splitlines()) == 1, found
