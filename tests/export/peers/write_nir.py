"""Run networks of a framework for 50 steps, and let it write them as NIR files.

`python write_nir.py LIBRARY FOLDER`, by an interpreter that has the library. For each case the
folder gets `CASE.nir`, by the library's own exporter, and `CASE.npz`: `x` `[T, B, I]` and the
spikes `[T, B, O]` of the last layer, `out`.
"""

import sys
from pathlib import Path

import nir
import numpy as np
import torch
from torch import nn
from trial import HIDDEN, INPUTS, OUTPUTS, begin, random_spikes


def two_layers(neurons, gain):
    net = nn.Sequential(
        nn.Linear(INPUTS, HIDDEN), neurons(HIDDEN), nn.Linear(HIDDEN, OUTPUTS), neurons(OUTPUTS)
    )
    with torch.no_grad():
        net[0].weight.mul_(gain)
        net[2].weight.mul_(gain)
    return net


def snntorch():
    import snntorch as snn
    from snntorch.export_nir import export_to_nir

    def write(net):
        return export_to_nir(net, torch.zeros(1, INPUTS), ignore_dims=[0])

    def run(net, x):
        return torch.stack([net(now) for now in x])

    def constants(n, *values):  # one for each neuron: its writer does not take numbers
        return [torch.full((n,), value) for value in values]

    def leaky(n):
        beta, threshold = constants(n, 0.75, 0.8)
        return snn.Leaky(beta, threshold=threshold, init_hidden=True)

    def synaptic(n):
        alpha, beta, threshold = constants(n, 0.5, 0.75, 1.0)
        return snn.Synaptic(alpha, beta, threshold=threshold, init_hidden=True)

    def recurrent(n):
        return snn.RSynaptic(0.5, 0.75, linear_features=n, init_hidden=True)

    yield "leaky", two_layers(leaky, 4), write, run
    yield "synaptic", two_layers(synaptic, 3), write, run
    yield "recurrent", two_layers(recurrent, 3), write, run


def norse():
    import norse.torch as nt

    zero = torch.zeros(1)
    box = nt.LIFBoxParameters(torch.tensor([250.0]), zero, torch.tensor([0.5]), zero)

    def write(net):
        return nt.to_nir(nt.SequentialState(*net), torch.zeros(1, INPUTS))

    def run(net, x):
        net, state, spikes = nt.SequentialState(*net), None, []
        for now in x:
            out, state = net(now, state)
            spikes.append(out)
        return torch.stack(spikes)

    yield "box", two_layers(lambda n: nt.LIFBoxCell(box), 8), write, run


def spikingjelly():
    from spikingjelly.activation_based import neuron
    from spikingjelly.activation_based.nir_exchange import export_to_nir

    def write(net):
        return export_to_nir(net, torch.zeros(1, INPUTS))

    def run(net, x):
        return torch.stack([net(now) for now in x])

    yield "lif", two_layers(lambda n: neuron.LIFNode(4.0, v_threshold=0.5), 8), write, run
    yield "input", two_layers(lambda n: neuron.LIFNode(4.0, decay_input=False), 4), write, run


def sinabs():
    import sinabs.layers as sl
    import sinabs.nir
    from sinabs.activation import SingleSpike

    def write(net):
        return sinabs.nir.to_nir(net, torch.zeros(1, 3, INPUTS))

    def run(net, x):
        return net(x.transpose(0, 1)).transpose(0, 1)

    yield "iaf", two_layers(lambda n: sl.IAF(spike_fn=SingleSpike), 2), write, run


LIBRARIES = {each.__name__: each for each in (snntorch, norse, spikingjelly, sinabs)}

if __name__ == "__main__":
    begin()
    name, folder = sys.argv[1:]
    for case, net, write, run in LIBRARIES[name]():
        x = random_spikes()
        with torch.no_grad():
            out = run(net, x).numpy()
        np.savez(Path(folder, f"{case}.npz"), x=x.numpy(), out=out)
        nir.write(Path(folder, f"{case}.nir"), write(net))
