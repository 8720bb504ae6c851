"""Networks of other libraries fire here as there, for 50 steps, filled from their own files."""

from pathlib import Path

import numpy as np
import pytest
from flax import nnx

from jaxsnn import layers
from jaxsnn.export import from_torch
from jaxsnn.network import Network
from jaxsnn.neurons import LIF, PLIF, AdaptiveLIF, SynapticLIF
from tests.export.nir.nir_cases import every_spike
from tests.peers import run_peer

SCRIPT = Path(__file__).parents[1] / "peers" / "write_states.py"

RHO = float(np.exp(-1 / 10))
SOFT, INCLUSIVE = {"reset": "soft_undecayed"}, {"strict": False}
# Library and case -> neurons here, options of `from_torch`, steps by which they fire later there.
CASES = {
    "snntorch": {
        "leaky": (LIF(**SOFT), {}, 0),
        "zero": (LIF(), {}, 0),
        "synaptic": (SynapticLIF(**SOFT), {}, 0),
        "rleaky": (LIF(**SOFT), {}, 0),
    },
    "norse": {
        "lif": (SynapticLIF(0.75, 0.5, 0.6), {"decay_input": True}, 0),
        "box": (LIF(0.75, 0.5), {"decay_input": True}, 0),
        "adaptive": (AdaptiveLIF(0.75, 0.5, 0.36, 0.9), {"decay_input": True}, 1),
    },
    "spikingjelly": {
        "lif": (LIF(0.75, 0.5, **INCLUSIVE), {"decay_input": True}, 0),
        "subtract": (LIF(0.75, reset="soft", **INCLUSIVE), {"decay_input": False}, 0),
        "plif": (PLIF(threshold=0.5, **INCLUSIVE), {}, 0),
    },
    "sinabs": {
        "lif": (LIF(reset="soft", **INCLUSIVE), {"decay_input": True}, 0),
        "synaptic": (SynapticLIF(reset="soft", **INCLUSIVE), {"decay_input": True}, 0),
        "adaptive": (
            AdaptiveLIF(0.5, 0.5, (1 - RHO) * 0.9, reset="soft", **INCLUSIVE),
            {"decay_input": True},
            0,
        ),
    },
}


def two_layers(neuron, recurrent):
    """Return the network that `write_states.py` builds, with another start."""
    kind, rngs = layers.Recurrent if recurrent else layers.Dense, nnx.Rngs(0)
    chain = {
        "dense1": kind(12, 16, neurons=neuron, rngs=rngs),
        "dense2": kind(16, 6, neurons=neuron, rngs=rngs),
    }
    return Network.of(layers.Chain(chain))


@pytest.mark.parametrize("library", CASES)
def test_every_spike_is_the_same_for_fifty_steps(library, tmp_path):
    run_peer(library, SCRIPT, tmp_path)
    for case, (neuron, options, late) in CASES[library].items():
        there = np.load(tmp_path / f"{case}.npz")
        net = two_layers(neuron, recurrent=case == "rleaky")
        net = from_torch(tmp_path / f"{case}.pt", net, **options)
        spikes, _ = every_spike(net, there["x"])
        for name, layer, delay in (("hidden", "dense1", late), ("out", "dense2", 2 * late)):
            assert 0.02 < there[name].mean() < 0.9, (case, name)
            steps = len(there["x"]) - delay
            differing = np.sum(spikes[layer][:steps] != there[name][delay:])
            assert differing == 0, (case, name, differing)
