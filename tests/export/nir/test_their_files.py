"""NIR files that frameworks write mean here what the network means there."""

from pathlib import Path

import numpy as np
import pytest

from jaxsnn.export import from_nir
from tests.export.nir.nir_cases import run
from tests.peers import run_peer

pytest.importorskip("nir")
pytest.importorskip("h5py")

SCRIPT = Path(__file__).parents[1] / "peers" / "write_nir.py"
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
    run_peer(library, SCRIPT, tmp_path)
    for case, options in CASES[library].items():
        with np.load(tmp_path / f"{case}.npz") as file:
            x, out = file["x"], file["out"]
        net = from_nir(tmp_path / f"{case}.nir", **options)
        assert 0.02 < out.mean() < 0.9
        differing = np.sum(run(net, x) != out)
        assert differing == 0, (case, differing, out.size)
