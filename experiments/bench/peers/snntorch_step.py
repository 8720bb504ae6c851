"""The step in snnTorch, as its tutorials write it: every module called once per timestep.

The neurons are its default ones: reset by subtraction, which is detached from the gradient, and
the arc tangent. Its recurrent neuron always has a bias of its own; here it is zero and not trained.
"""

import snntorch
import torch
from snntorch import surrogate
from torch import nn
from torch_step import DEVICE, feedback_of, settings_of, stack, subject

PACKAGES = ("torch", "snntorch")


def build(problem, variant):
    """Return what `measure` times; a variant has the words of `settings_of`."""
    settings = settings_of(variant)
    spec = problem["spec"]
    options = {"beta": spec["decay"], "threshold": spec["threshold"]}
    options["spike_grad"] = surrogate.atan(alpha=spec["alpha"])

    def neurons(layer):
        if not layer["recurrent"]:
            return snntorch.Leaky(**options)
        made = snntorch.RLeaky(linear_features=layer["outputs"][0], **options)
        made.recurrent = feedback_of(layer, problem)
        return made

    network = nn.ModuleList(stack(problem, neurons)).to(DEVICE)

    def rates(x):
        states = {}
        for module in network:
            if isinstance(module, snntorch.RLeaky):
                states[module] = module.reset_mem()
            elif isinstance(module, snntorch.Leaky):
                states[module] = (module.reset_mem(),)
        fired = []
        for h in x:
            for module in network:
                if module not in states:
                    h = module(h)
                    continue
                h, potential = module(h, *states[module])
                recurrent = isinstance(module, snntorch.RLeaky)
                states[module] = (h, potential) if recurrent else (potential,)
            fired.append(h)
        return torch.stack(fired).mean(0)

    return subject(problem, rates, network.parameters(), settings, network=network)
