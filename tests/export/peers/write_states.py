"""Run networks of a framework for 50 steps; save their weights, their inputs and every spike.

`python write_states.py LIBRARY FOLDER`, by an interpreter that has the library. For each case of it
the folder gets `CASE.pt`, the state dictionary as the library has it, and `CASE.npz`: `x`
`[T, B, I]` and the spikes `[T, B, O]` of both layers, `hidden` and `out`.
"""

import sys
from pathlib import Path

import numpy as np
import torch
from torch import nn
from trial import HIDDEN, INPUTS, OUTPUTS, begin, random_spikes


class TwoLayers(nn.Module):
    """Linear, neurons, linear, neurons; `step` says how neurons are called."""

    def __init__(self, neurons, step, gain, bias=True):
        super().__init__()
        self.fc1, self.fc2 = nn.Linear(INPUTS, HIDDEN, bias=bias), nn.Linear(HIDDEN, OUTPUTS, bias)
        self.lif1, self.lif2 = neurons(HIDDEN), neurons(OUTPUTS)
        self.call = step
        with torch.no_grad():
            for layer in (self.fc1, self.fc2):
                layer.weight.mul_(gain)

    def run(self, x):
        states, spikes = [None, None], []
        for now in x:
            hidden, states[0] = self.call(self.lif1, self.fc1(now), states[0])
            out, states[1] = self.call(self.lif2, self.fc2(hidden), states[1])
            spikes.append((hidden, out))
        return [torch.stack(each).numpy() for each in zip(*spikes, strict=True)]


def snntorch():
    import snntorch as snn

    def states(count):
        def step(neurons, current, state):
            state = [torch.zeros_like(current)] * count if state is None else state
            spikes, *state = neurons(current, *state)
            return spikes, state

        return step

    def recurrent(neurons, current, state):
        state = [torch.zeros_like(current)] * 2 if state is None else state
        state = neurons(current, *state)
        return state[0], state

    betas = torch.linspace(0.5, 0.9, HIDDEN)
    return {
        "leaky": TwoLayers(lambda n: snn.Leaky(betas[:n].clone(), threshold=0.8), states(1), 4),
        "zero": TwoLayers(
            lambda n: snn.Leaky(0.7, reset_mechanism="zero", reset_delay=False), states(1), 5
        ),
        "synaptic": TwoLayers(lambda n: snn.Synaptic(0.6, 0.8), states(2), 3),
        "rleaky": TwoLayers(lambda n: snn.RLeaky(0.7, linear_features=n), recurrent, 4),
    }


def carried(neurons, current, state):
    return neurons(current, state)


def norse():
    import norse.torch as nt

    lif = nt.LIFParameters(
        tau_mem_inv=torch.tensor(250.0), tau_syn_inv=torch.tensor(400.0), v_th=torch.tensor(0.5)
    )
    box = nt.LIFBoxParameters(tau_mem_inv=torch.tensor(250.0), v_th=torch.tensor(0.5))
    # A synaptic time constant of one step: the current of a step is that of the input before it.
    lsnn = nt.LSNNParameters(
        tau_mem_inv=torch.tensor(250.0), tau_syn_inv=torch.tensor(1000.0),
        tau_adapt_inv=torch.tensor(100.0), v_th=torch.tensor(0.5), beta=torch.tensor(0.4),
    )  # fmt: skip
    return {
        "lif": TwoLayers(lambda n: nt.LIFCell(lif), carried, 4),
        "box": TwoLayers(lambda n: nt.LIFBoxCell(box), carried, 8),
        "adaptive": TwoLayers(lambda n: nt.LSNNCell(lsnn), carried, 8),
    }


def held(neurons, current, state):
    return neurons(current), state


def spikingjelly():
    from spikingjelly.activation_based import neuron

    return {
        "lif": TwoLayers(lambda n: neuron.LIFNode(4.0, v_threshold=0.5), held, 8),
        "subtract": TwoLayers(
            lambda n: neuron.LIFNode(4.0, decay_input=False, v_reset=None), held, 4
        ),
        "plif": TwoLayers(lambda n: neuron.ParametricLIFNode(3.0, v_threshold=0.5), held, 8),
    }


def sinabs():
    import sinabs.layers as sl
    from sinabs.activation import SingleSpike

    def step(neurons, current, state):
        return neurons(current[:, None])[:, 0], state

    single = {"spike_fn": SingleSpike}
    return {
        "lif": TwoLayers(
            lambda n: sl.LIF(4.0, spike_threshold=torch.tensor(0.5), **single), step, 8
        ),
        "synaptic": TwoLayers(lambda n: sl.LIF(4.0, tau_syn=2.0, **single), step, 8),
        "adaptive": TwoLayers(
            lambda n: sl.ALIF(4.0, 10.0, adapt_scale=0.9, spike_threshold=0.5, **single), step, 8
        ),
    }


LIBRARIES = {each.__name__: each for each in (snntorch, norse, spikingjelly, sinabs)}

if __name__ == "__main__":
    begin()
    name, folder = sys.argv[1:]
    for case, net in LIBRARIES[name]().items():
        x = random_spikes()
        with torch.no_grad():
            hidden, out = net.run(x)
        torch.save(net.state_dict(), Path(folder, f"{case}.pt"))
        np.savez(Path(folder, f"{case}.npz"), x=x.numpy(), hidden=hidden, out=out)
