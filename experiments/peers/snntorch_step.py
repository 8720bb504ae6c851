"""The step in snnTorch, as its tutorials write it: every module called once per timestep.

`reset_mechanism="zero"` is the same recurrence as ours, so the loss agrees; snnTorch detaches the
reset from the gradient, which saves it some work and makes its gradient another one.
"""

import snntorch
import torch
from torch import nn
from torch_step import make_layer, make_spike, output_shape, training_step


class Network(nn.Module):
    """The problem's network: images `[B, ...]` or spikes `[T, B, ...]` -> rate `[B, classes]`."""

    def __init__(self, problem):
        super().__init__()
        spec = problem["spec"]
        constants = spec["constants"]
        spike = make_spike({**constants, "threshold": 0.0})
        self.timesteps = spec["timesteps"]
        self.constant_input = spec["constant_input"]
        self.layers, shape = nn.ModuleList(), tuple(spec["input_shape"])
        for kind, name in spec["layers"]:
            if kind == "dense" and len(shape) == 3:
                self.layers.append(nn.Flatten())
            self.layers.append(make_layer(problem, kind, name, shape))
            shape = output_shape(problem, kind, name, shape)
            if kind != "pool":
                self.layers.append(
                    snntorch.Leaky(
                        beta=constants["decay"],
                        threshold=constants["threshold"],
                        spike_grad=spike,
                        reset_mechanism="zero",
                    )
                )

    def forward(self, x):
        """Run the network through time, one step after the other."""
        potentials = {
            layer: layer.reset_mem() for layer in self.layers if isinstance(layer, snntorch.Leaky)
        }
        fired = []
        for t in range(self.timesteps):
            h = x if self.constant_input else x[t]
            for layer in self.layers:
                if isinstance(layer, snntorch.Leaky):
                    h, potentials[layer] = layer(h, potentials[layer])
                else:
                    h = layer(h)
            fired.append(h)
        return torch.stack(fired).mean(0)


def build(problem, variant):
    """Return what `measure` times; there are no variants."""
    del variant
    return training_step(problem, Network(problem))
