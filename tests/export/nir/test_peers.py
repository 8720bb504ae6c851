"""A NIR file means in the framework that it was written for what the network means here."""

from pathlib import Path

import numpy as np
import pytest

from jaxsnn import layers
from jaxsnn.export import to_nir
from tests.export.nir.nir_cases import (
    CASES,
    IMAGES,
    PEERS,
    channels_first,
    every_spike,
    network,
    run,
    spikes_in,
)
from tests.peers import peer_python, run_peer

nir = pytest.importorskip("nir")
h5py = pytest.importorskip("h5py")

SCRIPT = Path(__file__).parents[1] / "peers" / "read_nir.py"


@pytest.mark.parametrize("target", PEERS)
def test_every_spike_of_every_layer_is_the_same_in_the_framework(target, tmp_path):
    peer_python(target)
    x = spikes_in(50)
    nets = {}
    for name, (layout, neuron, options) in CASES[target].items():
        net = network(layout, neuron, **options)
        to_nir(net, tmp_path / f"{name}.nir", IMAGES, target=target, example=x)
        np.save(tmp_path / f"{name}.npy", channels_first(x))
        nets[name] = net
    run_peer(target, SCRIPT, tmp_path)
    for name, net in nets.items():
        ours, potentials = every_spike(net, x)
        theirs = np.load(tmp_path / f"{name}.npz")
        distances = [
            np.abs(u - np.asarray(layers.synapses(net.module)[layer].neurons.threshold[...]))
            for layer, u in potentials.items()
        ]
        on = sum(int(np.sum(distance == 0)) for distance in distances)
        # No luck: ties are many, or nothing is so near to the threshold that rounding decides.
        assert on > 100 if "ties" in name else min(d.min() for d in distances) > 1e-6
        for layer, spikes in ours.items():
            assert 0.01 < spikes.mean() < 0.7, (name, layer)
            heard = theirs[f"{layer.replace('/', '_')}_neurons"]
            np.testing.assert_array_equal(spikes, heard, err_msg=f"{name}, {layer}")
        if name == "read-out":
            np.testing.assert_allclose(theirs["dense1_neurons"], run(net, x), rtol=1e-4, atol=1e-6)
