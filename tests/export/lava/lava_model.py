"""Lava's bit-accurate `Sparse` (as `Dense`) and `LIF`, written down from its published source.

github.com/lava-nc/lava at b6822fb: `src/lava/proc/lif/models.py` (AbstractPyLifModelFixed,
PyLifModelBitAcc), `src/lava/proc/dense/models.py` (AbstractPyDenseModelBitAcc), `proc/sparse`,
`src/lava/utils/weightutils.py` (clip_weights, truncate_weights).
"""

import numpy as np


class Wires:
    """Connections that hand over a step later; weights are clipped and truncated to 8 bits."""

    def __init__(self, facts, arrays, place):
        weights = np.zeros(facts["size"], np.int64)
        targets, sources = (arrays[f"{place}_{part}"] for part in ("targets", "sources"))
        weights[targets, sources] = arrays[f"{place}_weights"]
        mixed, negative = (weights < 0).any() and (weights > 0).any(), (weights > 0).sum() == 0
        if negative:
            weights = -weights
        weights = np.clip(weights, -256 * mixed, 255) >> mixed << mixed
        self.weights = -weights if negative else weights
        self.exponent = facts["exponent"]
        self.buffer = np.zeros(facts["size"][0], np.int64)

    def step(self, sent):
        """Return what was sent the step before."""
        given, total = self.buffer, self.weights @ sent
        exponent = self.exponent
        self.buffer = total << exponent if exponent > 0 else total >> -exponent
        return given


class Lif:
    """Neurons; du = 4095, and ds_offset is 1."""

    def __init__(self, facts, arrays, number):
        self.dv = facts["dv"]
        self.vth = arrays[f"{number}.vth"].astype(np.int64)
        self.bias = arrays[f"{number}.bias_mantissa"].astype(np.int64)
        self.bias = self.bias << arrays[f"{number}.bias_exponent"]
        self.v = arrays[f"{number}.start"].astype(np.int64)
        self.u = np.zeros_like(self.v)

    def step(self, given):
        """Return the spikes, and the potential from before the reset."""
        assert np.abs(given).max() < 2**15
        decayed = self.u * (4096 - 4096)
        u = np.sign(decayed) * (np.abs(decayed) >> 12) + (given << 6)
        u = np.where(u > 2**23, u - 2**24, u)
        self.u = np.where(u <= -(2**23), u + 2**24, u)
        decayed = self.v * (4096 - self.dv)
        decayed = np.sign(decayed) * (np.abs(decayed) >> 12)
        self.v = np.clip(decayed + self.u + self.bias, -(2**23) + 1, 2**23 - 1)
        fired = self.v > self.vth << 6
        potential = self.v
        self.v = np.where(fired, 0, self.v)
        return fired.astype(np.int64), potential


def run(network, arrays, sent):
    """Return each layer's spikes, or a read-out's potentials, of all steps `[steps, neurons]`."""
    layers = list(enumerate(network["layers"]))
    inward = [Wires(facts["inward"], arrays, f"{i}.inward") for i, facts in layers]
    recurrent = [
        facts["recurrent"] and Wires(facts["recurrent"], arrays, f"{i}.recurrent")
        for i, facts in layers
    ]
    neurons = [Lif(facts, arrays, i) for i, facts in layers]
    given = [np.zeros(facts["inward"]["size"][0], np.int64) for _, facts in layers]
    outputs = [[] for _ in layers]
    for x in sent.T.astype(np.int64):
        for i, _ in layers:
            # A connection's input of this step is given out in the next one.
            arrived = inward[i].step(x)
            if recurrent[i]:
                arrived = arrived + given[i]
            spikes, potential = neurons[i].step(arrived)
            if recurrent[i]:
                recurrent[i].step(spikes)
                given[i] = recurrent[i].buffer
            silent = network["silent"] and i == layers[-1][0]
            outputs[i].append(potential if silent else spikes)
            x = spikes
    return [np.array(each) for each in outputs]
