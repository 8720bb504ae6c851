"""Random graphs of layers, and what they compute, in numpy alone."""

from itertools import pairwise

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from jaxsnn import encode, layers, tree
from jaxsnn.layers.grouped import ordinary
from jaxsnn.layers.residual import by_position
from jaxsnn.network import Network
from jaxsnn.neurons import LIF

SHAPE = (2, 2, 2)
STEPS = 3
NEURON = LIF(0.5, 0.4, reset="hard")


class Graph(nnx.Module):
    """A topology of one's own: each step makes a signal of those before; 0 is the input."""

    def __init__(self, steps, rngs):
        self.steps = steps
        for i, (kind, *facts) in enumerate(steps, 1):
            if kind in MAKERS:
                setattr(self, f"n{i}", MAKERS[kind](*facts, rngs))
        self.flatten = layers.Flatten()

    def __call__(self, x, tape):
        found = [x]
        for i, (kind, *facts) in enumerate(self.steps, 1):
            if kind == "add":
                found.append(found[facts[0]] + found[facts[1]])
            elif kind == "side":
                found.append(encode.concatenate(found[facts[0]], found[facts[1]]))
            else:
                x = self.flatten(found[facts[0]], tape) if kind == "out" else found[facts[0]]
                found.append(getattr(self, f"n{i}")(x, tape))
        return found[-1]


def conv(_, inputs, outputs, size, groups, rngs):
    return layers.Conv(inputs, outputs, size, groups=groups, neurons=NEURON, rngs=rngs)


def block(_, inputs, outputs, rngs):
    options = {"neurons": NEURON, "rngs": rngs}
    first = layers.Conv(inputs, 3, **options)
    return layers.Residual(first, layers.Conv(3, outputs, 1, **options))


def look(_, inputs, rngs):
    options = {"neurons": NEURON, "scale": 1.0, "rngs": rngs}
    return layers.Attention(inputs, 2, width=4, **options)


def out(_, inputs, rngs):
    return layers.Dense(4 * inputs, 2, neurons=layers.Integrator(), rngs=rngs)


MAKERS = {"conv": conv, "block": block, "look": look, "out": out}


def draw_steps(random, size=4):
    """Return the steps of a random graph, a convolution of the input first, and their widths."""
    steps, widths = [("conv", 0, 2, 4, 3, 1)], [2, 4]
    for _ in range(size):
        source = int(random.integers(1, len(widths)))
        inputs = widths[source]
        partners = [i for i in range(1, len(widths)) if widths[i] == inputs and i != source]
        match random.choice(["conv", "groups", "depthwise", "block", "add", "side", "look"]):
            case "groups":
                step, width = ("conv", source, inputs, 4, 1, 2), 4
            case "depthwise":
                step, width = ("conv", source, inputs, inputs, 3, inputs), inputs
            case "block" if inputs <= 4:
                step, width = ("block", source, inputs, 4), 4
            case "look":
                step, width = ("look", source, inputs), inputs
            case "add" if partners:
                step, width = ("add", source, int(random.choice(partners))), inputs
            case "side" if inputs <= 4:
                other = int(random.integers(1, len(widths)))
                step, width = ("side", source, other), inputs + widths[other]
            case _:
                step, width = ("conv", source, inputs, 4, 1, 1), 4
        steps.append(step)
        widths.append(width)
    used = {x for kind, *facts in steps for x in facts[: 2 if kind in ("add", "side") else 1]}
    loose = [i for i in range(1, len(widths)) if i not in used]
    while len(loose) > 1:  # all ends are heard
        steps.append(("side", loose[0], loose[1]))
        widths.append(widths[loose[0]] + widths[loose[1]])
        loose = [*loose[2:], len(widths) - 1]
    return (*steps, ("out", loose[0], widths[loose[0]])), widths


def network(seed, size=3):
    """Return a random network whose sums are exact, and its steps."""
    random = np.random.default_rng(seed)
    steps, _ = draw_steps(random, size)
    graph, state = nnx.split(nnx.eval_shape(lambda: Graph(steps, nnx.Rngs(0))))

    def draw(name, leaf):
        if "neurons" in name:
            return jnp.full(leaf.shape, 0.5 if name.endswith("decay") else 0.375, jnp.float32)
        return jnp.asarray(random.integers(-7, 10, leaf.shape) / 16, jnp.float32)

    nnx.replace_by_pure_dict(state, tree.map_named(draw, nnx.to_pure_dict(state)))
    return Network.of(nnx.merge(graph, state), SHAPE), steps, random


def draw_keep(steps, random):
    """Return what a random choice keeps of some layers: what is joined goes together."""
    parents = {}

    def root(unit):
        while parents.setdefault(unit, unit) != unit:
            unit = parents[unit]
        return unit

    def join(units):
        for a, b in pairwise(units):
            parents[root(a)] = root(b)

    found = [[("input", c) for c in range(SHAPE[-1])]]
    for i, (kind, *facts) in enumerate(steps, 1):
        if kind == "add":
            for pair in zip(found[facts[0]], found[facts[1]], strict=True):
                join(pair)
            found.append(found[facts[0]])
        elif kind == "side":
            found.append(found[facts[0]] + found[facts[1]])
        elif kind == "conv":
            _, _, outputs, _, groups = facts
            own = [(f"n{i}", c) for c in range(outputs)]
            parts = [np.array_split(np.arange(len(x)), groups) for x in (found[facts[0]], own)]
            for heard, fired in zip(*parts, strict=True) if groups > 1 else ():
                join([found[facts[0]][c] for c in heard] + [own[c] for c in fired])
            found.append(own)
        elif kind == "block":
            for c in range(3):
                root((f"n{i}/conv1", c))
            found.append([(f"n{i}/conv2", c) for c in range(facts[2])])
        elif kind == "look":
            for head in ((0, 1), (2, 3)):
                join([(f"n{i}/{part}", c) for part in "qkv" for c in head])
            found.append([(f"n{i}/projection", c) for c in range(facts[1])])
        for unit in found[-1]:
            root(unit)
    roots = sorted({root(unit) for unit in parents})
    gone = {x for x in roots if random.random() < 0.4} - {root(unit) for unit in found[0]}
    named = {}
    for unit in sorted(parents):
        named.setdefault(unit[0], []).append(unit)
    named.pop("input", None)
    for units in named.values():  # one must stay
        if all(root(unit) in gone for unit in units):
            gone.discard(root(units[0]))
    return {x: [root(u) not in gone for u in units] for x, units in named.items()}


def run(module, x):
    """Return the read-out of a graph for `[T, N, H, W, C]` in float64."""
    found = [x]
    for i, (kind, *facts) in enumerate(module.steps, 1):
        layer, x = getattr(module, f"n{i}", None), found[facts[0]]
        if kind == "add":
            found.append(x + found[facts[1]])
        elif kind == "side":
            found.append(np.concatenate([x, found[facts[1]]], -1))
        elif kind == "conv":
            found.append(fire(layer, convolve(layer, x)))
        elif kind == "block":
            inner = convolve(layer.conv2, fire(layer.conv1, convolve(layer.conv1, x)))
            sources = layer.sources or by_position(x.shape[-1], inner.shape[-1])
            taken = [x[..., s] if s >= 0 else np.zeros(x.shape[:-1]) for s in sources]
            found.append(fire(layer.conv2, inner + np.stack(taken, -1)))
        elif kind == "look":
            found.append(attend(layer, x))
        else:
            kernel, bias = (
                np.asarray(leaf[...], np.float64) for leaf in (layer.kernel, layer.bias)
            )
            found.append(x.reshape(*x.shape[:2], -1) @ kernel + bias)
    return found[-1]


def attend(layer, x):
    """Return what an attention makes of the pixels of `[T, N, H, W, C]`."""
    shape, x = x.shape, x.reshape(*x.shape[:2], -1, x.shape[-1])
    q, k, v = (fire(part, weigh(part, x)) for part in (layer.q, layer.k, layer.v))
    heads = [each.reshape(*each.shape[:-1], layer.heads, -1) for each in (q, k, v)]
    met = np.einsum("tnlhd,tnmhd,tnmhe->tnlhe", *heads) * layer.scale
    fired = fire(layer, met.reshape(v.shape))
    return fire(layer.projection, weigh(layer.projection, fired)).reshape(shape[:-1] + (-1,))


def weigh(layer, x):
    """Return the current of a convolution of size 1 of sequences."""
    return x @ np.asarray(layer.kernel[...], np.float64)[0] + np.asarray(layer.bias[...])


def convolve(layer, x):
    """Return the current of a convolution with borders."""
    kernel = ordinary(np.asarray(layer.kernel[...], np.float64), layer.groups)
    size, (height, width) = len(kernel), x.shape[2:4]
    border = ((size - 1) // 2, size // 2)
    x = np.pad(x, [(0, 0), (0, 0), border, border, (0, 0)])
    total = np.asarray(layer.bias[...], np.float64)
    for i in range(size):
        for j in range(size):
            total = total + x[:, :, i : i + height, j : j + width] @ kernel[i, j]
    return total


def fire(layer, current):
    """Return the spikes of LIF neurons with a hard reset."""
    neuron = layer.neurons.constants()
    decay, threshold = (np.asarray(x, np.float64) for x in (neuron.decay, neuron.threshold))
    potential, spikes = np.zeros(current.shape[1:]), []
    for now in current:
        potential = decay * potential + now
        spikes.append((potential > threshold).astype(np.float64))
        potential = potential * (1 - spikes[-1])
    return np.stack(spikes)


def inputs(random):
    """Return inputs `[T, N, H, W, C]` whose sums are exact."""
    return random.integers(-16, 17, (STEPS, 2, *SHAPE)) / 16


def by_jax(net, x):
    """Return the read-out that the network itself computes."""
    return np.asarray(jax.jit(lambda net, x: net(x).readout)(net, jnp.asarray(x, jnp.float32)))
