"""The study of compressed networks as C: each way gives the same scores."""

import importlib.util
import os
import shutil
import sys
from pathlib import Path

import numpy as np
import pytest
from rich.console import Console

from experiments.bench import command
from experiments.bench.contenders import PEERS, Interpreters
from experiments.bench.rounds import Effort
from experiments.bench.studies import compiled
from jaxsnn import export, models
from jaxsnn.errors import UserError
from jaxsnn.inputs import Inputs
from jaxsnn.neurons import LIF
from tests.peers import PEER_PYTHON

NETS = (
    compiled.Net("small", "4C3-AP2-6C3-AP2-10", (8, 8, 1), 3, 3, 0.5),
    compiled.Net("recurrent", "8R-6", (12,), 5, 4, 0.5),
)


@pytest.mark.thorough
@pytest.mark.skipif(shutil.which("cc") is None, reason="there is no C compiler")
def test_all_ways_of_a_network_give_its_scores(monkeypatch, tmp_path):
    has_torch = importlib.util.find_spec("torch") is not None
    python = sys.executable if has_torch else os.environ.get(PEER_PYTHON)
    peers = {"torch": PEERS["torch"]} if python else {}
    monkeypatch.setattr(compiled, "NETS", NETS)
    effort = Effort(1, 0.02, Interpreters(Path(python or sys.executable)))
    product = tmp_path / "product.safetensors"
    net = models.build("4C3-AP4-10", (8, 8, 1), LIF(0.5, 0.05))
    export.save(product, net, Inputs((8, 8, 1), timesteps=2))
    *records, packed = compiled.compiled(Console(quiet=True), peers, effort, 0, (product,))
    assert (packed["name"], packed["file"]) == ("product", "product.safetensors")
    assert set(packed["rounds"]) == set(compiled.OURS)
    assert packed["rounds"]["integers"][0]["loss"] == packed["rounds"]["one"][0]["loss"] > 0
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


def test_products_need_their_study_and_must_take_images(tmp_path):
    with pytest.raises(UserError, match="--products are networks of the study compiled"):
        command.check(command.Config(products=(tmp_path / "x",)))
    spiking = tmp_path / "spiking.safetensors"
    export.save(spiking, models.build("4-2", (6,)), Inputs((6,), timesteps=2, encoding="bernoulli"))
    with pytest.raises(UserError, match="spiking.safetensors: the study feeds images"):
        compiled.of_file(spiking, 4, 0)
