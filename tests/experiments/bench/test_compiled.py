"""The study of compressed networks as C: each way gives the same scores."""

import importlib.util
import os
import shutil
import sys
from pathlib import Path

import numpy as np
import pytest
from rich.console import Console

from experiments.bench.contenders import PEERS, Interpreters
from experiments.bench.rounds import Effort
from experiments.bench.studies import compiled
from tests.peers import PEER_PYTHON

NETS = (
    compiled.Net("small", "4C3-AP2-6C3-AP2-10", (8, 8, 1), 3, 3, 0.5),
    compiled.Net("recurrent", "8R-6", (12,), 5, 4, 0.5),
)


@pytest.mark.thorough
@pytest.mark.skipif(shutil.which("cc") is None, reason="there is no C compiler")
def test_all_ways_of_a_network_give_its_scores(monkeypatch):
    has_torch = importlib.util.find_spec("torch") is not None
    python = sys.executable if has_torch else os.environ.get(PEER_PYTHON)
    peers = {"torch": PEERS["torch"]} if python else {}
    monkeypatch.setattr(compiled, "NETS", NETS)
    effort = Effort(1, 0.02, Interpreters(Path(python or sys.executable)))
    records = compiled.compiled(Console(quiet=True), peers, effort, 0)
    for record, net in zip(records, NETS, strict=True):
        rounds = {way: runs[0] for way, runs in record["rounds"].items()}
        theirs = set(compiled.PYTORCH) if peers else set()
        if net.name == "recurrent":  # PyTorch's in-place product has one type only
            theirs.discard("PyTorch bf16")
        assert set(rounds) == {*compiled.OURS, *theirs}
        assert record["microseconds"].keys() == rounds.keys()
        # Integers are sums over time, in units of the last layer's grid; floats are means.
        assert rounds["integers"]["loss"] == rounds["one"]["loss"] > 0
        floats = rounds["dense"]["loss"] * net.timesteps
        assert np.isclose(floats, rounds["one"]["loss"])
        if peers:
            assert np.isclose(rounds["PyTorch"]["loss"], rounds["dense"]["loss"])
