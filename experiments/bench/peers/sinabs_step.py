"""The step in Sinabs: layers on a folded batch and time, the batch first, with `LIFSqueeze`.

Its neuron decays after the reset, `u[t] = decay (u[t-1] - threshold s[t-1]) + x[t]`, and fires also
exactly on the threshold. The gradient flows through the reset; the surrogate is its default, the
exponential. At most one spike a step (`SingleSpike`), as everybody's here.
"""

import math

import torch
from sinabs import activation, layers
from torch import nn
from torch_step import DEVICE, feedback_of, settings_of, stack, subject

PACKAGES = ("torch", "sinabs")


class Unfolded(nn.Module):
    """A layer that takes `[B, T, ...]`, in a chain of those that take `[B*T, ...]`."""

    def __init__(self, layer, timesteps):
        super().__init__()
        self.layer = layer
        self.timesteps = timesteps

    def forward(self, x):
        """Unfold the time, run the layer, fold it again."""
        return self.layer(x.unflatten(0, (-1, self.timesteps))).flatten(0, 1)


def build(problem, variant):
    """Return what `measure` times; a variant has the words of `settings_of`."""
    settings = settings_of(variant)
    spec = problem["spec"]
    batch, timesteps = len(problem["labels"]), spec["timesteps"]
    options = {
        "tau_mem": -1 / math.log(spec["decay"]),
        "spike_threshold": torch.tensor(spec["threshold"]),
        "norm_input": False,
        "spike_fn": activation.SingleSpike,
        "surrogate_grad_fn": activation.SingleExponential(),
    }

    def neurons(layer):
        if not layer["recurrent"]:
            return layers.LIFSqueeze(batch_size=batch, **options)
        feedback = feedback_of(layer, problem)
        return Unfolded(layers.LIFRecurrent(rec_connect=feedback, **options), timesteps)

    network = nn.Sequential(*stack(problem, neurons)).to(DEVICE)
    stateful = [m for m in network.modules() if isinstance(m, layers.StatefulLayer)]
    for module in stateful:
        module.tau_mem.requires_grad_(False)

    def rates(x):
        for module in stateful:
            module.reset_states()
        spikes = network(x.transpose(0, 1).flatten(0, 1))
        return spikes.unflatten(0, (batch, timesteps)).mean(1)

    trained = (p for p in network.parameters() if p.requires_grad)
    return subject(problem, rates, trained, settings, network=network)
