"""NIR files that frameworks write mean here what the network means there."""

import subprocess
from pathlib import Path

import numpy as np
import pytest

from jaxsnn.export import from_nir
from tests.export.nir.nir_cases import run
from tests.export.nir.test_peers import peer_python

pytest.importorskip("nir")
pytest.importorskip("h5py")

SUBTRACTS = {"reset": "soft_undecayed"}  # which no file says
NORSE = {"target": "norse", "dt": 1e-6}  # of a step of 0.001 s; its writer scales times by 0.001
CASES = {
    "snntorch": {"leaky": SUBTRACTS, "synaptic": SUBTRACTS, "recurrent": SUBTRACTS},
    "norse": {"box": NORSE},
    "spikingjelly": {"lif": {"target": "spikingjelly"}, "input": {"target": "spikingjelly"}},
    "sinabs": {"iaf": {"target": "sinabs"}},
}


@pytest.mark.parametrize("library", CASES)
def test_every_spike_is_the_same_for_fifty_steps(library, tmp_path):
    script = Path(__file__).parents[1] / "nir_peers" / "write.py"
    command = [peer_python(library), script, library, tmp_path]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    for case, options in CASES[library].items():
        with np.load(tmp_path / f"{case}.npz") as file:
            x, out = file["x"], file["out"]
        net = from_nir(tmp_path / f"{case}.nir", **options)
        assert 0.02 < out.mean() < 0.9
        differing = np.sum(run(net, x) != out)
        assert differing == 0, (case, differing, out.size)
