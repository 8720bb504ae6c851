"""The step in Spyx: `Sequential`, scanned over time by `run`, trained by `make_train_step`.

Its neurons fire on the potential that the last step left, so that every layer speaks one step late;
the gradient flows through the reset, and the decay is trained (one number a layer). A recurrent
layer hears itself without that delay, which no neuron of ours does at once; and in a network with
as many layers as steps nothing arrives. There the loss is checked on the same modules with the
delay of each layer taken out, and the time is that of the network as Spyx runs it, with the same
operations in every step.
"""

from typing import Any

import jax
import jax.numpy as jnp
import optax
import spyx.nn as snn
from flax import nnx
from repeat import repeated
from spyx import axn
from spyx.optimize import make_train_step

PACKAGES = ("jax", "jaxlib", "flax", "spyx")


class Pool(nnx.Module):
    """Average or maximum over windows that do not overlap."""

    def __init__(self, function, size):
        self.function = function
        self.size = size

    def __call__(self, x):
        """Return `[B, H/size, W/size, C]`."""
        return self.function(x, (self.size, self.size), strides=(self.size, self.size))


def make_modules(problem):
    """Return the network as a list of modules: weights, and neurons after them."""
    spec, rngs = problem["spec"], nnx.Rngs(0)
    modules: list[Any] = []
    options = {
        "beta": spec["decay"],
        "threshold": spec["threshold"],
        "activation": axn.arctan(spec["alpha"]),
        "rngs": rngs,
    }
    for layer in problem["spec"]["layers"]:
        kind, inputs, outputs = layer["kind"], layer["inputs"], tuple(layer["outputs"])
        if kind in ("average", "maximum"):
            pool = nnx.avg_pool if kind == "average" else nnx.max_pool
            modules.append(Pool(pool, layer["size"]))
            continue
        if kind == "conv":
            padding, window = "VALID" if layer["valid"] else "SAME", (layer["size"],) * 2
            weights: Any = nnx.Conv(inputs[2], outputs[2], window, padding=padding, rngs=rngs)
        else:
            if len(inputs) == 3:
                modules.append(snn.Flatten())
            kernel = problem[f"{layer['name']}/kernel"]
            weights = nnx.Linear(*kernel.shape, rngs=rngs)
        weights.kernel = nnx.Param(jnp.asarray(problem[f"{layer['name']}/kernel"]))
        weights.bias = nnx.Param(jnp.asarray(problem[f"{layer['name']}/bias"]))
        neurons = (snn.RLIF if layer["recurrent"] else snn.LIF)(outputs, **options)
        if layer["recurrent"]:
            neurons.recurrent_w = nnx.Param(jnp.asarray(problem[f"{layer['name']}/recurrent"]))
        modules += [weights, neurons]
    return modules


def batch_of(problem):
    """Return the input `[T, B, ...]`, an image at every step, and the labels."""
    spec, x = problem["spec"], jnp.asarray(problem["x"], jnp.float32)
    if spec["direct"]:
        x = jnp.repeat(x[None] / 255, spec["timesteps"], 0)
    return x, jnp.asarray(problem["labels"], jnp.int32)


def cross_entropy(rates, labels):
    """Return the mean cross-entropy of the output rates `[B, classes]`."""
    return optax.softmax_cross_entropy_with_integer_labels(rates, labels).mean()


def rates_of(model, x):
    """Return the mean output spikes, `[B, classes]`."""
    return snn.run(model, x)[0].mean(0)


def rates_without_delay(modules, x):
    """Return the same of a network whose layers do not speak one step late: run one by one."""
    for module in modules:
        if not isinstance(module, (snn.LIF, snn.RLIF)):
            x = jax.vmap(module)(x)
            continue
        spikes, potential = snn.run(module, x)
        x = jnp.concatenate([spikes[1:], module.spike(potential - module.threshold)[None]])
    return x.mean(0)


def build(problem, variant):
    """Return what `measure` times; there are no variants."""
    del variant
    spec = problem["spec"]
    model, (x, labels) = snn.Sequential(*make_modules(problem)), batch_of(problem)

    def check():
        modules = make_modules(problem)
        if spec["delays_count"]:
            rates = rates_without_delay(modules, x)
        else:
            rates = nnx.jit(rates_of)(snn.Sequential(*modules), x)
        return {"loss": float(cross_entropy(rates, labels)), "rate": float(rates.mean())}

    if not spec["train"]:
        return {"run": repeated(nnx.jit(rates_of), model, x), "check": check}

    optimizer = nnx.Optimizer(model, optax.adam(spec["learning_rate"]), wrt=nnx.Param)
    step = make_train_step(lambda model, x, labels: cross_entropy(rates_of(model, x), labels))

    def train(steps):
        for _ in range(steps):
            step(model, optimizer, x, labels)
        jax.block_until_ready(nnx.state(model))

    return {"run": train, "check": check}
