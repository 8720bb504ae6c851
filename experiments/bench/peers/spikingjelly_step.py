"""The step in SpikingJelly's multi-step mode: the library folds time into the batch by itself.

Its neuron decays after the reset, `u[t] = decay (u[t-1] - threshold s[t-1]) + x[t]`; the reset is
detached from the gradient. On a GPU its fused kernels are taken, where Triton or CuPy is there. Its
recurrent container weighs input and feedback together, the input by the identity here: the feedback
costs it twice.
"""

import importlib.util

import torch
from spikingjelly.activation_based import functional, layer, neuron, surrogate
from torch import nn
from torch_step import DEVICE, settings_of, stack, subject

PACKAGES = ("torch", "spikingjelly")


def backend():
    """Return the name of the fastest neuron kernels that are there."""
    if DEVICE == "cuda":
        for name in ("triton", "cupy"):
            if importlib.util.find_spec(name):
                return name
    return "torch"


def build(problem, variant):
    """Return what `measure` times; a variant has the words of `settings_of`."""
    settings = settings_of(variant)
    spec = problem["spec"]

    def lif():
        return neuron.LIFNode(
            tau=1 / (1 - spec["decay"]),
            decay_input=False,
            v_threshold=spec["threshold"],
            v_reset=None,
            surrogate_function=surrogate.ATan(alpha=spec["alpha"]),
            detach_reset=True,
        )

    def neurons(description):
        if not description["recurrent"]:
            return lif()
        features = description["outputs"][0]
        made = layer.LinearRecurrentContainer(lif(), features, features, bias=False)
        kernel = torch.from_numpy(problem[f"{description['name']}/recurrent"].T.copy())
        with torch.no_grad():
            made.rc.weight.copy_(torch.cat([torch.eye(features), kernel], 1))
        return made

    network = nn.Sequential(*stack(problem, neurons, kinds=layer)).to(DEVICE)
    functional.set_step_mode(network, "m")
    for module in network:
        if isinstance(module, layer.LinearRecurrentContainer):
            functional.set_step_mode(module.sub_module, "s")  # its loop takes single steps
        elif isinstance(module, neuron.LIFNode):
            module.backend = backend()

    def rates(x):
        functional.reset_net(network)
        return network(x).mean(0)

    return subject(problem, rates, network.parameters(), settings, network=network)
