"""Networks and inputs that the tests of NIR share."""

import jax
import jax.numpy as jnp
import numpy as np

from jaxsnn import layers, models, tree
from jaxsnn.encode import Signal
from jaxsnn.neurons import LIF, SynapticLIF

PEERS = ("snntorch", "norse", "spikingjelly", "sinabs")
IMAGES = (8, 8, 2)


def network(layout, neuron=None, shape=IMAGES, *, gain=1.0, grid=None, **options):
    """Return a network with larger weights, on multiples of `grid`.

    `gain` is one factor, or one for each layer.
    """
    net = models.build(layout, shape, LIF(0.5) if neuron is None else neuron, **options)

    def weights(name, leaf):
        factor = gain[name.partition("/")[0]] if isinstance(gain, dict) else gain
        leaf = np.asarray(leaf) * factor
        return jnp.asarray(leaf if grid is None else np.round(leaf / grid) * grid, jnp.float32)

    return net.replace(params=tree.map_named(weights, net.params))


def spikes_in(timesteps, shape=IMAGES, batch=2, rate=0.4):
    return (np.random.default_rng(7).random((timesteps, batch, *shape)) < rate).astype(np.float32)


def run(net, x):
    return np.asarray(net(jnp.asarray(x)).readout)


def every_spike(net, x):
    """Return the spikes `[T, B, ...]` of every layer, channels first, and the potentials."""
    module = net.module
    synapses = layers.synapses(module)
    names = [n for n, layer in synapses.items() if isinstance(layer.neurons, layers.Neurons)]

    def step(membranes, value):
        tape = layers.Tape(membranes=membranes)
        module(Signal(value[None], 1), tape)
        return tape.membranes, (tape.activity.spikes, tape.membranes)

    rest = jax.eval_shape(step, {}, jnp.asarray(x[0]))[0]
    rest = jax.tree.map(lambda leaf: jnp.zeros(leaf.shape, leaf.dtype), rest)
    spikes, membranes = jax.jit(lambda x: jax.lax.scan(step, rest, x)[1])(jnp.asarray(x))
    potentials = {name: np.asarray(membranes[name].potential) for name in names}
    return {name: channels_first(spikes[name]) for name in names}, potentials


def channels_first(values):
    return np.moveaxis(np.asarray(values), -1, 2)


HARD = {
    # Potentials that are rounded, as those of a trained network.
    "leaky": ("6C3-AP2-4C3S2-12-5", LIF(0.5), {"gain": 4.0}),
    # Dyadic weights without a leak: exact in float32, and often exactly on the threshold.
    "ties": ("6C3-AP2-4C2V-12-5", LIF(1.0), {"gain": 4.0, "grid": 0.25}),
    "ties fire": ("6C3-AP2-12-5", LIF(1.0, strict=False), {"gain": 4.0, "grid": 0.25}),
    "blocks": ("6C3-6B3M4-8B3S2-5", LIF(0.75), {"gain": 3.0}),
}
# sinabs resets by subtraction and must not get to twice the threshold.
RISING = {"conv1": 0.45, "conv2": 1.5, "dense1": 1.1, "dense2": 0.9}
SOFT = {
    "leaky": ("6C3-AP2-4C3S2-12-5", LIF(0.5, 0.4, reset="soft"), {"gain": RISING}),
    "ties": ("6C3-AP2-4C2V-12-5", LIF(1.0, 1.0, reset="soft"), {"gain": 0.75, "grid": 0.0625}),
    "read-out": ("6C3-AP2-5", LIF(0.5, 0.4, reset="soft"), {"gain": 0.45, "readout": "leaky"}),
}
SYNAPTIC = ("6C3-AP2-12-5", SynapticLIF(0.5, synaptic_decay=0.75), {"gain": 2.0})
RECURRENT = ("AP2-12R-8R-5", LIF(0.75), {"gain": 2.0})
CASES = {
    "snntorch": HARD | {"synaptic": SYNAPTIC},
    "spikingjelly": HARD | {"recurrent": RECURRENT},
    "norse": {name: case for name, case in HARD.items() if name != "blocks"}
    | {"synaptic": SYNAPTIC, "recurrent": RECURRENT},
    "sinabs": SOFT,
}
