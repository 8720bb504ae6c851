"""The step in plain PyTorch, as a careful user would write it; and what all torch peers share.

Stateless layers act once on `[T*B, ...]`, and a Python loop over time runs the neurons,

    u[t] = decay u[t-1] + x[t] - threshold s[t-1]        s[t] = 1[u[t] > threshold]

with snnTorch's arc tangent as the spike's derivative and none through the reset. Two variants:

- "" : eager autograd, PyTorch's default layout and Adam;
- "tuned": channels-last convolutions, the whole neuron sequence as one function with its backward
  pass written out (also the recurrent one), and the fused Adam.

All torch peers know the words of `settings_of`.
"""

import math
import os

import numpy as np
import torch
from torch import nn

PACKAGES = ("torch",)

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"


def settings_of(variant):
    """Return the words of a variant, and make those settings that are of the whole process.

    - "gpu": channels-last convolutions, the fused Adam, cuDNN's search, products in TF32;
    - "amp": products in bfloat16 by autocast.
    """
    words = set(variant.split())
    if "gpu" in words:
        torch.set_float32_matmul_precision("high")
        torch.backends.cudnn.benchmark = True
        torch.backends.cudnn.allow_tf32 = True
    return words


def load(module, layer, problem, scale=1.0):
    """Give a module the problem's weights of a layer, in PyTorch's axis order, and return it."""
    kernel, bias = problem[f"{layer['name']}/kernel"], problem[f"{layer['name']}/bias"]
    if kernel.ndim == 4:
        weight = kernel.transpose(3, 2, 0, 1)
    elif len(layer["inputs"]) == 3:  # flattened: channels last in the problem, first here
        height, width, channels = layer["inputs"]
        images = kernel.reshape(height, width, channels, -1)
        weight = images.transpose(3, 2, 0, 1).reshape(kernel.shape[::-1])
    else:
        weight = kernel.T
    with torch.no_grad():
        module.weight.copy_(torch.from_numpy(np.ascontiguousarray(weight)) * scale)
        module.bias.copy_(torch.from_numpy(bias) * scale)
    return module


def feedback_of(layer, problem, scale=1.0):
    """Return a recurrent layer's weights as a linear map without bias."""
    kernel = problem[f"{layer['name']}/recurrent"]
    linear = nn.Linear(*kernel.shape, bias=False)
    with torch.no_grad():
        linear.weight.copy_(torch.from_numpy(np.ascontiguousarray(kernel.T)) * scale)
    return linear


def stack(problem, neurons, *, kinds=nn, scale=1.0):
    """Return the problem's network as a list of modules.

    Args:
      problem: from `measure.read_problem`.
      neurons: layer -> the module of its neurons, which follows the weights.
      kinds: where `Conv2d`, `Linear`, `AvgPool2d`, `MaxPool2d` and `Flatten` are taken from.
      scale: factor on weights and biases.
    """
    modules = []
    for layer in problem["spec"]["layers"]:
        kind, inputs = layer["kind"], layer["inputs"]
        if kind == "average":
            modules.append(kinds.AvgPool2d(layer["size"]))
        elif kind == "maximum":
            modules.append(kinds.MaxPool2d(layer["size"]))
        elif kind == "conv":
            padding = 0 if layer["valid"] else layer["size"] // 2
            conv = kinds.Conv2d(inputs[2], layer["outputs"][2], layer["size"], padding=padding)
            modules += [load(conv, layer, problem, scale), neurons(layer)]
        else:
            if len(inputs) == 3:
                modules.append(kinds.Flatten())
            linear = kinds.Linear(math.prod(inputs), layer["outputs"][0])
            modules += [load(linear, layer, problem, scale), neurons(layer)]
    return modules


def batch_of(problem):
    """Return the input `[T, B, ...]`, channels first, as every torch library takes it, and labels.

    A direct-coded image is handed over at every step.
    """
    spec = problem["spec"]
    x = torch.from_numpy(problem["x"]).float()
    if spec["direct"]:
        x = (x / 255).expand(spec["timesteps"], *x.shape)
    if len(spec["input_shape"]) == 3:
        x = x.movedim(-1, -3)
    labels = torch.from_numpy(problem["labels"]).long()
    return x.contiguous().to(DEVICE), labels.to(DEVICE)


def subject(problem, forward, parameters, settings, *, network):
    """Return what `measure` times.

    Args:
      problem: from `measure.read_problem`.
      forward: input `[T, B, ...]` -> mean output spikes `[B, classes]`.
      parameters: what Adam trains.
      settings: of `settings_of`, or with "tuned", of `build`.
      network: the module, whose convolutions get the settings' layout.
    """
    torch.set_num_threads(os.cpu_count() or 1)
    fused = bool(settings & {"gpu", "tuned"})
    if fused:
        network.to(memory_format=torch.channels_last)
    (x, labels), parameters = batch_of(problem), list(parameters)

    def rates(x):
        with torch.autocast(DEVICE, torch.bfloat16, enabled="amp" in settings):
            return forward(x).float()

    def memory():
        peak = torch.cuda.max_memory_allocated() / 2**20 if DEVICE == "cuda" else None
        return {"device_mib": peak}

    def loss_of(rates):
        return nn.functional.cross_entropy(rates, labels)

    if not problem["spec"]["train"]:

        def infer(steps):
            with torch.no_grad():
                for _ in range(steps):
                    total = rates(x).sum()
            total.item()

        with torch.no_grad():
            found = rates(x)
        seen = {"loss": loss_of(found).item(), "rate": found.mean().item()}
        return {"run": infer, "check": lambda: seen | memory()}

    learning_rate = problem["spec"]["learning_rate"]
    optimizer = torch.optim.Adam(parameters, lr=learning_rate, fused=fused or None)

    def train(steps):
        for _ in range(steps):
            optimizer.zero_grad()
            loss = loss_of(rates(x))
            loss.backward()
            optimizer.step()
        loss.item()

    found = rates(x)
    loss = loss_of(found)
    loss.backward()
    squares = [p.grad.square().sum() for p in parameters]
    checked = {
        "loss": loss,
        "rate": found.mean(),
        "gradient_norm": torch.stack(squares).sum().sqrt(),
    }
    checked = {name: value.item() for name, value in checked.items()}
    return {"run": train, "check": lambda: checked | memory()}


class Spike(torch.autograd.Function):
    """The step at 0, with the derivative `1 / (1 + (pi z)^2)`."""

    @staticmethod
    def forward(ctx, distance):
        """Return 1 where `distance > 0`, else 0."""
        ctx.save_for_backward(distance)
        return (distance > 0).to(distance.dtype)

    @staticmethod
    def backward(ctx, gradient):
        """Return the surrogate's gradient."""
        (distance,) = ctx.saved_tensors
        return gradient / (1 + (math.pi * distance) ** 2)


def eager(current, decay, threshold, feedback=None):
    """Return the spikes of `[T, B, ...]` currents: a loop that autograd records."""
    potential = current[0]
    fired = [Spike.apply(potential - threshold)]
    for now in current[1:]:
        if feedback is not None:
            now = torch.addmm(now, fired[-1], feedback)
        potential = decay * potential + now - threshold * fired[-1].detach()
        fired.append(Spike.apply(potential - threshold))
    return torch.stack(fired)


class WrittenOut(torch.autograd.Function):
    """The same as one node of the graph: it saves the potentials, and goes back by hand."""

    @staticmethod
    def forward(ctx, current, decay, threshold, feedback=None):
        """Return the spikes."""
        potential, spikes = torch.empty_like(current), torch.empty_like(current)
        for t, now in enumerate(current):
            if t == 0:
                potential[0] = now
            else:
                torch.add(now, potential[t - 1], alpha=decay, out=potential[t])
                potential[t].sub_(spikes[t - 1], alpha=threshold)
                if feedback is not None:
                    potential[t].addmm_(spikes[t - 1], feedback)
            torch.gt(potential[t], threshold, out=spikes[t])
        ctx.save_for_backward(potential, *(() if feedback is None else (feedback, spikes)))
        ctx.constants = decay, threshold
        return spikes

    @staticmethod
    def backward(ctx, gradient):
        """Return the derivatives of the currents and of the feedback."""
        potential, *recurrent = ctx.saved_tensors
        decay, threshold = ctx.constants
        below = (potential - threshold).mul_(math.pi).square_().add_(1.0)  # 1 / surrogate
        if not recurrent:
            result = torch.div(gradient, below, out=below)
            for t in range(len(result) - 2, -1, -1):
                result[t].add_(result[t + 1], alpha=decay)
            return result, None, None, None
        feedback, spikes = recurrent
        result = torch.empty_like(gradient)
        torch.div(gradient[-1], below[-1], out=result[-1])
        for t in range(len(result) - 2, -1, -1):
            torch.addmm(gradient[t], result[t + 1], feedback.T, out=result[t])
            result[t].div_(below[t]).add_(result[t + 1], alpha=decay)
        back = spikes[:-1].flatten(0, 1).T @ result[1:].flatten(0, 1)
        return result, None, None, back


class Neurons(nn.Module):
    """A layer of neurons over folded time: `[T*B, ...]` -> `[T*B, ...]`."""

    def __init__(self, problem, layer, tuned):
        super().__init__()
        spec = problem["spec"]
        self.timesteps, self.tuned = spec["timesteps"], tuned
        self.constants = spec["decay"], spec["threshold"]
        self.feedback = None
        if layer["recurrent"]:
            kernel = problem[f"{layer['name']}/recurrent"]
            self.feedback = nn.Parameter(torch.from_numpy(kernel.copy()))

    def forward(self, current):
        """Unfold the time, run the neurons, fold it again."""
        last = self.tuned and current.ndim == 4
        if last:  # the neurons see the memory as it lies: channels last
            current = current.permute(0, 2, 3, 1)
        current = current.unflatten(0, (self.timesteps, -1))
        fire = WrittenOut.apply if self.tuned else eager
        feedback = self.feedback
        if feedback is not None:  # autocast leaves what is written out to itself
            feedback = feedback.to(current.dtype)
        spikes = fire(current, *self.constants, feedback).flatten(0, 1)
        return spikes.permute(0, 3, 1, 2) if last else spikes


def build(problem, variant):
    """Return what `measure` times; words of `variant` are "tuned" and those of `settings_of`."""
    settings = settings_of(variant)
    tuned = "tuned" in settings
    network = nn.Sequential(*stack(problem, lambda layer: Neurons(problem, layer, tuned)))
    network.to(DEVICE)

    def rates(x):
        timesteps = len(x)
        x = x.flatten(0, 1)
        if tuned and x.ndim == 4:
            x = x.contiguous(memory_format=torch.channels_last)
        return network(x).unflatten(0, (timesteps, -1)).float().mean(0)

    return subject(problem, rates, network.parameters(), settings, network=network)
