"""Real processes on the loopback: they come to the numbers of one, and end together.

Each test starts some and takes a while: `pytest -m slow tests/train/test_distributed.py`.
"""

import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from jaxsnn import train
from jaxsnn.errors import UserError
from jaxsnn.train import distributed

ROOT = Path(__file__).parents[2]
PROGRAM = ROOT / "tests/train/together.py"
LONGEST = 400  # seconds


def free_address():
    """Return an address of this host where nobody listens."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        return f"127.0.0.1:{server.getsockname()[1]}"


def started(command, *, devices=1, **environment):
    """Start a process with so many devices."""
    # XLA has a flag that makes devices of a CPU, which the option of JAX would override.
    flags = f"{os.environ['XLA_FLAGS']} --xla_force_host_platform_device_count={devices}"
    env = os.environ | {"PYTHONPATH": str(ROOT), "XLA_FLAGS": flags} | environment
    env.pop("JAX_NUM_CPU_DEVICES")
    return subprocess.Popen(
        [sys.executable, *map(str, command)], env=env, cwd=ROOT, text=True,
        stdout=subprocess.PIPE, stderr=subprocess.PIPE,
    )  # fmt: skip


def together(folder, count, *, devices=1, epochs=2, changes=None):
    """Start processes of `together.py`, each with so many devices; `changes` are those of one."""
    folder.mkdir(exist_ok=True)
    given = {"coordinator": free_address() if count > 1 else None, "epochs": epochs}
    given |= {"devices": count * devices, "folder": str(folder)}
    jobs = [given | ({"count": count, "own": own} if count > 1 else {}) for own in range(count)]
    for own, change in (changes or {}).items():
        jobs[own] |= change
    return [started([PROGRAM, json.dumps(job)], devices=devices) for job in jobs]


def ends(processes):
    """Return exit code and last line on stderr of each process."""
    texts = [process.communicate(timeout=LONGEST)[1] for process in processes]
    return [
        (process.returncode, text.strip().split("\n")[-1])
        for process, text in zip(processes, texts, strict=True)
    ]


def numbers(folder, count):
    """Return what each process came to."""
    paths = [folder / f"{own}-of-{count}.npz" for own in range(count)]
    return [dict(np.load(path)) for path in paths]


def assert_alike(found, expected):
    """Assert that masks are equal, and numbers within rounding."""
    assert found.keys() == expected.keys()
    for name, value in found.items():
        if name.startswith("masks/"):
            np.testing.assert_array_equal(value, expected[name], err_msg=name)
        else:
            np.testing.assert_allclose(value, expected[name], rtol=1e-3, atol=1e-4, err_msg=name)


@pytest.mark.slow
@pytest.mark.parametrize(("count", "devices"), [(2, 1), (4, 2)])
def test_processes_come_to_what_one_with_as_many_devices_comes_to(tmp_path, count, devices):
    several, alone = tmp_path / "several", tmp_path / "alone"
    for running in (
        together(several, count, devices=devices),
        together(alone, 1, devices=count * devices),
    ):
        assert all(code == 0 for code, _ in ends(running))
    first, *others = numbers(several, count)
    for other in others:
        for name, value in first.items():
            np.testing.assert_array_equal(other[name], value, err_msg=name)
    assert_alike(first, numbers(alone, 1)[0])
    assert first["masks/dense1/kernel"].mean() == pytest.approx(0.2, abs=1e-3)
    assert first["accuracy"] > 0.3


@pytest.mark.slow
def test_one_that_dies_ends_the_others_and_another_number_goes_on(tmp_path):
    folder, whole = tmp_path / "killed", tmp_path / "whole"
    running = together(folder, 2, epochs=400)
    until = time.monotonic() + LONGEST
    while not any((folder / "dense").glob("[2-9]")) and time.monotonic() < until:
        time.sleep(0.05)
    running[1].send_signal(signal.SIGKILL)
    start = time.monotonic()
    (code, line), (killed, _) = ends(running)
    assert (code, killed) == (1, -signal.SIGKILL) and time.monotonic() - start < 30
    assert line == "error: process 1 ended before the others; see its own last lines"
    epochs = max(int(path.name) for path in (folder / "dense").glob("*[0-9]")) + 1
    for place in (folder, whole):
        assert ends(together(place, 1, devices=2, epochs=epochs))[0][0] == 0
    assert_alike(numbers(folder, 1)[0], numbers(whole, 1)[0])
    shutil.copytree(folder / "dense", tmp_path / "more" / "dense")
    assert ends(together(tmp_path / "more", 1, devices=4, epochs=epochs + 1))[0][0] == 0


@pytest.mark.slow
@pytest.mark.parametrize(
    ("changes", "line"),
    [
        ({1: {"facts": {"rate": "2"}}}, "process 1 was given rate = 2, process 0 None; give"),
        ({0: {"devices": 3}, 1: {"devices": 3}}, "devices = 3: take a multiple of the 2"),
        ({1: {"epochs": -1}}, "epochs must be"),
    ],
)
def test_what_does_not_fit_is_one_line_on_every_process(tmp_path, changes, line):
    for code, last in ends(together(tmp_path / "run", 2, changes=changes)):
        assert code == 2
        assert re.match(f"error: (process .: )?{line}", last)


@pytest.mark.parametrize(
    ("given", "line"),
    [
        ((None, 2, 0), "num_processes and process_id need the coordinator's address"),
        (("here:80",), "coordinator 'here:80' needs num_processes and process_id"),
        (("here:80", 2, 2), "process_id = 2: of 2 processes the ids are 0 to 1"),
        (("here:80", 0, 0), "num_processes must be"),
        (("here", 2, 0), "coordinator must be HOST:PORT or 'auto', found 'here'"),
        (("here:99999", 2, 0), "coordinator must be HOST:PORT or 'auto'"),
        (("auto", 2), "coordinator 'auto' takes num_processes and process_id by itself"),
    ],
)
def test_a_wrong_address_number_or_id_is_a_line(given, line):
    with pytest.raises(UserError, match=line), train.processes(*given):
        pass


def test_a_port_in_use_is_a_line():
    with socket.create_server(("", 0)) as server:
        address = f"localhost:{server.getsockname()[1]}"
        with pytest.raises(UserError, match="of the coordinator cannot be opened here: Address"):
            with train.processes(address, 2, 0):
                pass


def test_one_process_is_the_first_and_reads_for_itself():
    with train.processes(None):
        assert distributed.is_first()
        found = distributed.arrays_from_first(lambda: {"a": np.arange(3)})
        distributed.check_equal("the numbers", found)
        assert found["a"].tolist() == [0, 1, 2] and distributed.least(2.5) == 2.5
