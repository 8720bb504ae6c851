"""The step in SNNAX 0.0.1, an Equinox model mapped over the batch: that it can be made to run.

As installed it cannot be imported: two modules that it names are missing from the wheel, and empty
ones stand in for them here. Its `Sequential` raises; the graph that it stands for is given to
`StatefulModel` instead, in which every layer, also one without a state, reads what the layer before
gave at the last step. So it is another network than everybody's, and only its time says anything.
"""

import sys
import types
from typing import Any

for missing in ("snnax.snn.init", "snnax.functional.functional"):
    sys.modules[missing] = types.ModuleType(missing)

import equinox as eqx  # noqa: E402
import jax  # noqa: E402
import jax.numpy as jnp  # noqa: E402
import numpy as np  # noqa: E402
import optax  # noqa: E402
import snnax.snn as snn  # noqa: E402
from repeat import repeated  # noqa: E402
from snnax.functional.surrogate import superspike_surrogate  # noqa: E402

PACKAGES = ("jax", "jaxlib", "equinox", "snnax")

KEY = jax.random.PRNGKey(0)  # never drawn from: the weights are replaced, nothing is random
SLOPE = 10.0  # of its own surrogate


def channels_first(shape):
    """Return the shape of an activity in Equinox's order of axes."""
    return (shape[2], *shape[:2]) if len(shape) == 3 else tuple(shape)


def weighted(layer, problem, scale):
    """Return the module of a layer's weights; a recurrent one has its feedback as first inputs."""
    kernel, bias = (problem[f"{layer['name']}/{part}"] * scale for part in ("kernel", "bias"))
    if layer["kind"] == "conv":
        padding = 0 if layer["valid"] else layer["size"] // 2
        channels = layer["inputs"][2], layer["outputs"][2]
        module: Any = eqx.nn.Conv2d(*channels, layer["size"], padding=padding, key=KEY)
        weight, bias = kernel.transpose(3, 2, 0, 1), bias[:, None, None]
    else:
        if len(layer["inputs"]) == 3:
            images = kernel.reshape(*layer["inputs"], -1)
            kernel = images.transpose(2, 0, 1, 3).reshape(kernel.shape)
        if layer["recurrent"]:
            feedback = problem[f"{layer['name']}/recurrent"] * scale
            kernel = np.concatenate([feedback, kernel])
        module = eqx.nn.Linear(*kernel.shape, key=KEY)
        weight = kernel.T
    where = lambda module: (module.weight, module.bias)  # noqa: E731
    return eqx.tree_at(where, module, (jnp.asarray(weight), jnp.asarray(bias)))


def make_model(problem):
    """Return (model, its state at rest)."""
    spec = problem["spec"]
    scale = 1 / (1 - spec["decay"])
    modules, states, heard = [], [], {}
    for layer in spec["layers"]:
        outputs = jnp.zeros(channels_first(layer["outputs"]))
        if layer["kind"] in ("average", "maximum"):
            pool = eqx.nn.AvgPool2d if layer["kind"] == "average" else eqx.nn.MaxPool2d
            modules.append(pool(layer["size"], layer["size"]))
            states.append([outputs])
            continue
        if layer["kind"] == "dense" and len(layer["inputs"]) == 3:
            modules.append(snn.Flatten())
            states.append([jnp.zeros(np.prod(layer["inputs"]))])
        if layer["recurrent"]:
            heard[len(modules)] = len(modules) + 1
        decay, spike = jnp.array([spec["decay"]]), superspike_surrogate(SLOPE)
        modules += [weighted(layer, problem, scale), snn.SimpleLIF(decay, spike_fn=spike)]
        states += [[outputs], [outputs, outputs]]
    count = len(modules)
    reads: list[list[int]] = [[]] + [[i] for i in range(count - 1)]
    for listener, speaker in heard.items():
        reads[listener] = [speaker]  # beside the network's input, which it reads as first layer
    graph = snn.GraphStructure(count, [[0]] + [[]] * (count - 1), [count - 1], reads)
    return snn.StatefulModel(graph, modules), states


def batch_of(problem):
    """Return the input `[B, T, ...]`, channels first, an image at every step, and the labels."""
    spec, x = problem["spec"], problem["x"].astype(np.float32)
    if spec["direct"]:
        x = np.repeat(x[None] / 255, spec["timesteps"], 0)
    if len(spec["input_shape"]) == 3:
        x = np.moveaxis(x, -1, -3)
    return jnp.asarray(np.moveaxis(x, 0, 1)), jnp.asarray(problem["labels"], jnp.int32)


def build(problem, variant):
    """Return what `measure` times; there are no variants."""
    del variant
    spec = problem["spec"]
    model, rest = make_model(problem)
    x, labels = batch_of(problem)

    def rates(model, x):
        return jax.vmap(lambda sample: model(rest, sample, key=KEY)[1][-1].mean(0))(x)

    def cross_entropy(scores, labels):
        return optax.softmax_cross_entropy_with_integer_labels(scores, labels).mean()

    def loss(model, x, labels):
        return cross_entropy(rates(model, x), labels)

    def check():
        found = eqx.filter_jit(rates)(make_model(problem)[0], x)
        return {"loss": float(cross_entropy(found, labels)), "rate": float(found.mean())}

    if not spec["train"]:
        return {"run": repeated(eqx.filter_jit(rates), model, x), "check": check}

    optimizer = optax.adam(spec["learning_rate"])
    moments = optimizer.init(eqx.filter(model, eqx.is_inexact_array))

    @eqx.filter_jit(donate="all-except-first")
    def step(batch, model, moments):
        gradient = eqx.filter_grad(loss)(model, *batch)
        updates, moments = optimizer.update(gradient, moments, model)
        return eqx.apply_updates(model, updates), moments

    def train(steps):
        nonlocal model, moments
        for _ in range(steps):
            model, moments = step((x, labels), model, moments)
        jax.block_until_ready(jax.tree.leaves(eqx.filter(model, eqx.is_array)))

    return {"run": train, "check": check}
