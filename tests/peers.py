"""Other programs that tests compare with live in an interpreter of their own, where it is named."""

import importlib.util
import os
import subprocess
import sys

import pytest

PEER_PYTHON = "JAXSNN_PEER_PYTHON"
CROSS = ("ziglang", "unicorn")  # the compiler and the emulator of other processors


def peer_python(*packages):
    """Return an interpreter that has the packages: this one, or the one that is named; or skip."""
    if all(importlib.util.find_spec(name) for name in packages):
        return sys.executable
    if PEER_PYTHON in os.environ:
        return os.environ[PEER_PYTHON]
    pytest.skip(f"not here: {', '.join(packages)}; name by {PEER_PYTHON} a python that has them")


def run_peer(package, script, *arguments):
    """Run a script by an interpreter that has the package."""
    command = [peer_python(package), script, package, *arguments]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
