"""The step in plain PyTorch, written by hand as a careful user would.

Stateless layers act once on `[T*B, ...]` (a constant input's first one on `[B, ...]`), and a
Python loop over time runs the neurons. Two variants:

- "" : eager autograd, PyTorch's default layout and Adam;
- "tuned": channels-last convolutions, the whole neuron sequence as one function with its backward
  pass written out, and the fused Adam.
"""

import os

import numpy as np
import torch
from torch import nn


def weights_of(problem, name, *, flattened=None):
    """Return a layer's (weight, bias) in PyTorch's axis order.

    `flattened` is the `(height, width, channels)` that a dense layer's input had before it was
    flattened: channels last in the problem, channels first here.
    """
    kernel, bias = problem[f"{name}/kernel"], problem[f"{name}/bias"]
    if flattened is not None:
        height, width, channels = flattened
        kernel = kernel.reshape(height, width, channels, -1)
        kernel = kernel.transpose(2, 0, 1, 3).reshape(height * width * channels, -1)
    weight = kernel.transpose(3, 2, 0, 1) if kernel.ndim == 4 else kernel.T
    return torch.from_numpy(np.ascontiguousarray(weight)), torch.from_numpy(bias.copy())


def make_layer(problem, kind, name, shape):
    """Return the module of one line of the problem's network, `shape` being its input's."""
    if kind == "conv":
        weight, bias = weights_of(problem, name)
        layer = nn.Conv2d(weight.shape[1], weight.shape[0], weight.shape[2], padding="same")
    elif kind == "dense":
        weight, bias = weights_of(problem, name, flattened=shape if len(shape) == 3 else None)
        layer = nn.Linear(weight.shape[1], weight.shape[0])
    elif kind == "pool":
        return nn.AvgPool2d(2)
    else:
        raise ValueError(f"no torch layer for {kind!r}")
    with torch.no_grad():
        layer.weight.copy_(weight)
        layer.bias.copy_(bias)
    return layer


def output_shape(problem, kind, name, shape):
    """Return the `(height, width, channels)` or `(features,)` that a layer gives."""
    if kind == "conv":
        return (*shape[:2], problem[f"{name}/bias"].size)
    if kind == "pool":
        return (shape[0] // 2, shape[1] // 2, shape[2])
    return (problem[f"{name}/bias"].size,)


def make_spike(constants):
    """Return the spike function: a step forward, a rectangle around the threshold backward."""
    threshold, width = constants["threshold"], constants["width"]

    class Spike(torch.autograd.Function):
        @staticmethod
        def forward(ctx, potential):
            ctx.save_for_backward(potential)
            return (potential > threshold).to(potential.dtype)

        @staticmethod
        def backward(ctx, gradient):
            (potential,) = ctx.saved_tensors
            near = (potential - threshold).abs() < width / 2
            return gradient * near.to(gradient.dtype) / width

    return Spike.apply


def eager_neuron(constants):
    """Return spikes(current): `[T, B, ...]` -> `[T, B, ...]`, a loop that autograd records."""
    decay, spike = constants["decay"], make_spike(constants)

    def spikes(current):
        fired = [spike(current[0])]
        potential = current[0]
        for now in current[1:]:
            potential = decay * potential * (1 - fired[-1]) + now
            fired.append(spike(potential))
        return torch.stack(fired)

    return spikes


def written_out_neuron(constants):
    """Return the same function as one node of the graph, its backward recurrence by hand."""
    decay, threshold, width = (constants[name] for name in ("decay", "threshold", "width"))

    class Neuron(torch.autograd.Function):
        @staticmethod
        def forward(ctx, current):
            potential = torch.empty_like(current)
            potential[0] = current[0]
            for t in range(1, len(current)):
                kept = potential[t - 1] * (potential[t - 1] <= threshold)
                torch.add(current[t], kept, alpha=decay, out=potential[t])
            ctx.save_for_backward(potential)
            return (potential > threshold).to(current.dtype)

        @staticmethod
        def backward(ctx, gradient):
            (potential,) = ctx.saved_tensors
            near = ((potential - threshold).abs() < width / 2).to(gradient.dtype) / width
            result = gradient * near
            for t in range(len(gradient) - 2, -1, -1):
                kept = (potential[t] <= threshold).to(gradient.dtype)
                factor = torch.addcmul(kept, potential[t], near[t], value=-1)
                result[t].addcmul_(factor, result[t + 1], value=decay)
            return result

    return Neuron.apply


class Network(nn.Module):
    """The problem's network: images `[B, ...]` or spikes `[T, B, ...]` -> rate `[B, classes]`."""

    def __init__(self, problem, tuned):
        super().__init__()
        spec = problem["spec"]
        self.timesteps = spec["timesteps"]
        self.constant_input = spec["constant_input"]
        self.neuron = (written_out_neuron if tuned else eager_neuron)(spec["constants"])
        self.layers, shape = nn.ModuleList(), tuple(spec["input_shape"])
        for kind, name in spec["layers"]:
            self.layers.append(make_layer(problem, kind, name, shape))
            shape = output_shape(problem, kind, name, shape)
        self.tuned = tuned
        if tuned:
            self.to(memory_format=torch.channels_last)

    def forward(self, x):
        """Run the network; every weighted layer is followed by its neurons."""
        h = x if self.constant_input else x.flatten(0, 1)
        folded = not self.constant_input
        for layer in self.layers:
            if isinstance(layer, nn.Linear) and h.ndim > 2:
                h = h.flatten(1)
            h = layer(h)
            if not isinstance(layer, nn.AvgPool2d):
                h = self.fire(h, folded)
                folded = True
        return h.unflatten(0, (self.timesteps, -1)).mean(0)

    def fire(self, h, folded):
        """Give the currents `[T*B, ...]` (or the constant one, `[B, ...]`) to the neurons."""
        last = self.tuned and h.ndim == 4
        if last:  # the neurons see the memory as it lies: channels last
            h = h.permute(0, 2, 3, 1)
        if folded:
            h = h.unflatten(0, (self.timesteps, -1))
        else:
            h = h.expand(self.timesteps, *h.shape)
        h = self.neuron(h).flatten(0, 1)
        return h.permute(0, 3, 1, 2) if last else h


def training_step(problem, network, *, fused=False):
    """Return (loss, gradient norm, run, steps per run) of a network that gives output rates."""
    torch.set_num_threads(os.cpu_count() or 1)
    x = torch.from_numpy(problem["x"]).float()
    if problem["spec"]["constant_input"]:
        x = x / 255
    if len(problem["spec"]["input_shape"]) == 3:
        x = x.movedim(-1, -3).contiguous()
    labels = torch.from_numpy(problem["labels"]).long()
    target = nn.functional.one_hot(labels, problem["spec"]["classes"]).float()
    parameters = list(network.parameters())
    optimizer = torch.optim.Adam(
        parameters, lr=problem["spec"]["learning_rate"], fused=fused or None
    )

    def loss_and_gradient():
        optimizer.zero_grad()
        loss = nn.functional.mse_loss(network(x), target)
        loss.backward()
        return loss

    def run():
        loss = loss_and_gradient()
        optimizer.step()
        return loss.item()

    loss = loss_and_gradient().item()
    norm = torch.stack([p.grad.square().sum() for p in parameters]).sum().sqrt().item()
    return loss, norm, run, 1


def build(problem, variant):
    """Return what `measure` times; `variant` is "" or "tuned"."""
    tuned = variant == "tuned"
    return training_step(problem, Network(problem, tuned), fused=tuned)
