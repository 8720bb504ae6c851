"""Networks, inputs and the reference in int64 that the tests of integer networks share."""

import jax
import jax.numpy as jnp
import numpy as np

from jaxsnn import models, tree
from jaxsnn.export import run_integer

SHAPE, STEPS, BATCH = (6, 6, 2), 4, 3
CONV = "4C3-AP2-5C3V-6-3"


def network(layout, neuron, draw, shape=SHAPE, **options):
    """Return a network whose parameters `draw(name, shape)` gives."""
    net = models.build(layout, shape, neuron, **options)

    def replace(name, leaf):
        return jnp.asarray(draw(name, leaf.shape), jnp.float32)

    return net.replace(params=tree.map_named(replace, net.params))


def with_leaf(net, name, leaf):
    return net.replace(params=tree.substitute(net.params, {name: leaf}))


def spikes(shape=SHAPE, rate=0.5, steps=STEPS, seed=3):
    return (np.random.default_rng(seed).random((steps, BATCH, *shape)) < rate).astype(np.int32)


def reference(network, x):
    """Run a network step by step in int64; return read-outs, spike counts, largest potentials."""
    memory, counts, largest, outputs = {}, {}, {}, []

    def weigh(layer, x, extra):
        kernel = np.asarray(layer.kernel, np.int64)
        if kernel.ndim == 4:
            k, x = kernel.shape[0], x.reshape(len(x), -1, *x.shape[-2:])  # sequences: one row
            if layer.padding == "SAME":
                border = ((k - 1) // 2, k // 2)
                x = np.pad(x, ((0, 0), border, border, (0, 0)))
            view = np.lib.stride_tricks.sliding_window_view(x, (k, k), (1, 2))
            view = view[:, :: layer.stride, :: layer.stride]
            total = np.einsum("bhwcij,ijco->bhwo", view, kernel)
        else:
            total = np.einsum("bi,io->bo", x, kernel)
        total = total * 2 ** np.asarray(layer.shift, np.int64) + np.asarray(layer.bias) + extra
        n = layer.neurons
        level, theta, keep, factor, right = (
            np.asarray(c, np.int64) for c in (n.level, n.theta, n.keep, n.factor, n.right)
        )
        leak = lambda u: keep * u + np.floor_divide(factor * u, 2**right)  # noqa: E731
        u, s = memory.get(layer.name, np.zeros((2, *total.shape), np.int64))
        rise = s * (n.second is not None and n.second.kind == "adaptation")
        fired, theta = u - rise >= level, theta + rise
        if layer.recurrent is not None:
            total = total + fired @ np.asarray(layer.recurrent, np.int64)
        if n.second is not None:
            old, (k, f, r, jump) = (
                s,
                (
                    np.asarray(c, np.int64)
                    for c in (n.second.keep, n.second.factor, n.second.right, n.second.jump)
                ),
            )
            s = k * s + np.floor_divide(f * s, 2**r)
            if n.second.kind == "adaptation":
                s = s + jump * fired
            else:
                s = s + total
                total = {"current": s, "delayed": old}[n.second.kind]
        if n.reset == "hard":
            rested = np.where(fired, 0, leak(u))
        elif n.reset == "soft":
            rested = leak(np.where(fired, u - theta, u))
        else:
            rested = leak(u) - np.where(fired & (n.reset is not None), theta, 0)
        u = rested + total
        memory[layer.name] = u, s
        above = u - s * (n.second is not None and n.second.kind == "adaptation")
        size = max(np.abs(each).max() for each in (u, s, above))
        largest[layer.name] = max(largest.get(layer.name, 0), size)
        if n.reset is None:
            return u
        fired = (fired if n.fires_first else above >= level).astype(np.int64)
        counts[layer.name] = counts.get(layer.name, 0) + fired
        return fired

    for x_t in np.asarray(x, np.int64):
        for stage in network.stages:
            if hasattr(stage, "first"):
                inner = weigh(stage.first, x_t, 0)
                s = stage.first.stride
                added = x_t[:, ::s, ::s][..., np.asarray(stage.sources)] * np.asarray(stage.weight)
                x_t = weigh(stage.second, inner, added)
            elif hasattr(stage, "kernel"):
                x_t = weigh(stage, x_t, 0)
            elif stage.kind in ("sum", "max"):
                b, h, w, c = x_t.shape
                rows = [
                    [
                        x_t[:, i : i + stage.size, j : j + stage.size]
                        for j in range(0, w - stage.size + 1, stage.size)
                    ]
                    for i in range(0, h - stage.size + 1, stage.size)
                ]
                pool = np.sum if stage.kind == "sum" else np.max
                x_t = np.stack([np.stack([pool(p, (1, 2)) for p in row], 1) for row in rows], 1)
            elif stage.kind == "flatten":
                x_t = x_t.reshape(len(x_t), -1)
            else:
                x_t = np.stack([g.sum(1) for g in np.split(x_t, stage.size, 1)], 1)
        outputs.append(x_t)
    return np.stack(outputs), counts, largest


def assert_bit_exact(network, x):
    """Compare with int64, and the potentials with the proof."""
    readout, counts, largest = reference(network, x)
    found = run_integer(network, jnp.asarray(x))
    np.testing.assert_array_equal(found.readout, readout)
    jax.tree.map(np.testing.assert_array_equal, found.spikes, counts)
    for layer in network.report:
        assert largest[layer.layer] < 2 ** (layer.state_bits - 1)
    return found


def assert_same_spikes(found, expected, network):
    jax.tree.map(np.testing.assert_array_equal, found.spikes, expected.activity.spikes)
    np.testing.assert_array_equal(found.readout * np.float64(network.unit), expected.readout)


def dyadic(bits, seed=0):
    """Draw odd integers of so many bits times powers of two, one for each channel, and zeros."""
    rng = np.random.default_rng(seed)

    def draw(name, shape):
        if name.endswith("bias"):
            return rng.integers(-4, 9, shape) / 64
        fine = 2.0 ** rng.integers(-1, 2, shape[-1:])
        if name.startswith("dense2"):  # the read-out: one scale
            fine = fine[:1]
        codes = 2 * rng.integers(0, 2**bits, shape) - (2**bits - 1)
        codes = codes * rng.choice([0, 1], shape)
        codes.reshape(-1, shape[-1])[0] = 1  # so that the scale found is that power of two
        return codes * fine * 2.0**-bits

    return draw
