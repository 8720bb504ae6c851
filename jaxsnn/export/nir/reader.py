"""A network from a NIR graph, its own or another framework's.

A graph is read as one framework reads it (`dialects`), since the standard leaves the step of
time open. A graph that `to_nir` wrote says in its metadata for which target; any other is taken by
the letter of the standard, unless told. It must be a chain, with residual blocks in it; a node that
no layer here computes is refused by its name.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, TypeVar

import jax.numpy as jnp
import numpy as np
from flax import nnx

from jaxsnn import layers
from jaxsnn.errors import UserError
from jaxsnn.export.nir.checked import NUMBERS, SIZES, check_nodes, said_by
from jaxsnn.export.nir.dialects import Dialect, dialect_of
from jaxsnn.export.nir.files import Graph, package, read_nir
from jaxsnn.export.nir.graph import WRITER
from jaxsnn.layers.residual import NOTHING, by_position
from jaxsnn.network import Network
from jaxsnn.neurons import LIF

__all__ = ["from_nir"]

Layer = TypeVar("Layer", bound=layers.Synapse)


def from_nir(
    source: Graph | str | Path,
    *,
    target: str | None = None,
    dt: float | None = None,
    reset: str | None = None,
) -> Network:
    """Return the network of a NIR file or graph.

    Layers are named as `models.build` names them. Weights take up what a neuron multiplies its
    current by.

    Args:
      source: a `nir.NIRGraph`, or a file with one.
      target: whose reading to take, as in `to_nir`; left out, what the graph says, or "nir".
      dt: seconds of one step; left out, what the graph says, or the target's own.
      reset: "hard", "soft" or "soft_undecayed"; left out, the target's. NIR only knows "hard", and
        frameworks also write networks that reset by subtraction.

    Raises:
      UserError: for a file that is damaged or no NIR file, and for a node that has no layer here.

    Example:
      >>> from jaxsnn import models
      >>> from jaxsnn.export import to_nir
      >>> from_nir(to_nir(models.build("6-3", (4,)))).order
      ('dense1', 'dense2')
    """
    nir = package()
    graph = read_nir(source) if isinstance(source, str | Path) else source
    if not isinstance(graph, nir.NIRGraph):
        raise UserError(f"a network is a NIRGraph, found {type(graph).__name__}")
    try:
        said = said_by(graph, WRITER)
        dialect = dialect_of(target or said[0] or "nir")
        dt = said[1] if dt is None and dialect.name == said[0] else dt
        check_nodes(graph)
        reader = _Reader(nir, graph, dialect, dialect.timestep(dt), reset or dialect.reset)
        chain = layers.Chain(reader.chain())
    except UserError as error:
        raise (UserError(f"{source}: {error}") if graph is not source else error) from error
    return Network.of(chain, reader.input_shape)


class _Reader:
    """Walk along a graph and build a layer from every node."""

    def __init__(self, nir: Any, graph: Graph, dialect: Dialect, dt: float, reset: str):
        self.nir = nir
        self.nodes = graph.nodes
        self.dialect, self.dt, self.reset = dialect, dt, reset
        self.after: dict[str, list[str]] = {name: [] for name in self.nodes}
        self.before: dict[str, list[str]] = {name: [] for name in self.nodes}
        for source, sink in graph.edges:
            self.after[source].append(sink)
            self.before[sink].append(source)
        self.layers: dict[str, nnx.Module] = {}
        self.weights: tuple[str, Any] | None = None  # a node that waits for its neurons
        self.flattened: tuple[int, ...] | None = None  # shape before a flattening, until weights
        self.scale = 1.0  # of the signal there over the one here
        self.scaled = ""  # the node that it comes from

    def chain(self) -> dict[str, nnx.Module]:
        """Return the layers by name, in order."""
        starts = [name for name, node in self.nodes.items() if isinstance(node, self.nir.Input)]
        if len(starts) != 1:
            raise UserError(f"a NIR graph has one Input, found {len(starts)}")
        here = starts[0]
        self.shape = self.input_shape = self._input_shape(here)
        seen = {here}
        while not isinstance(self.nodes[here], self.nir.Output):
            if len(self.after[here]) == 2:
                passed = self._block(here)
            else:
                passed = [self._next(here)]
                self._take(passed[0])
            seen |= set(passed)
            here = passed[-1]
        self._close()
        if self.scaled:
            raise self._refuse(self.scaled, "a sum without weights behind it")
        if lost := sorted(set(self.nodes) - seen):
            raise self._refuse(lost[0], "not on the way from the input to the output")
        return self.layers

    def _refuse(self, name: str, what: str) -> UserError:
        kind = type(self.nodes[name]).__name__
        return UserError(f"node {name!r} ({kind}): {what}; no layer here computes that")

    def _next(self, name: str) -> str:
        """Return the one node behind another."""
        if len(self.after[name]) != 1:
            raise self._refuse(name, f"{len(self.after[name])} nodes behind it")
        after = self.after[name][0]
        if len(self.before[after]) != 1:
            raise self._refuse(after, f"{len(self.before[after])} nodes before it")
        return after

    def _input_shape(self, name: str) -> tuple[int, ...]:
        shape = self.nodes[name].input_type["input"]
        if not SIZES._replace(ndim=1).fits(shape) or np.size(shape) not in (1, 3):
            raise self._refuse(name, f"inputs of shape {shape}, neither (C, H, W) nor (features,)")
        there = tuple(int(side) for side in np.asarray(shape))
        return there if len(there) == 1 else (*there[1:], there[0])

    def _add(self, kind: str, layer: nnx.Module) -> None:
        number = sum(name.startswith(kind) for name in self.layers) + 1
        self.layers[f"{kind}{number}"] = layer

    def _take(self, name: str) -> None:
        """Read one node of the chain."""
        node, nir = self.nodes[name], self.nir
        if isinstance(node, nir.LIF | nir.IF | nir.LI | nir.I):
            self._close(name)
            return
        self._close()
        if isinstance(node, nir.Affine | nir.Linear | nir.Conv2d):
            self.weights = name, node
        elif isinstance(node, nir.AvgPool2d | nir.SumPool2d):
            self._pool(name, node)
        elif isinstance(node, nir.Flatten):
            self._flatten(name, node)
        elif not isinstance(node, nir.Output):
            raise self._refuse(name, "an unknown node")

    def _close(self, neurons: str | None = None) -> None:
        """Build the layer of the weights that wait, if any, with the neurons behind them."""
        if self.weights is None:
            if neurons is not None:
                raise self._refuse(neurons, "neurons without weights before them")
            return
        name, node = self.weights
        self.weights = None
        if isinstance(node, self.nir.Conv2d):
            self._add("conv", self._conv(name, neurons))
        else:
            self._add("dense", self._dense(name, neurons))

    def _dense(self, name: str, neurons: str | None) -> layers.Dense:
        node = self.nodes[name]
        weight = np.asarray(node.weight, np.float64)
        if len(self.shape) != 1 or weight.ndim != 2 or weight.shape[1] != self.shape[0]:
            raise self._refuse(name, f"weights {weight.shape} for inputs {self.shape}")
        kernel = weight.T * self._took_scale()
        if self.flattened is not None:
            rows, columns, channels = self.flattened
            images = kernel.reshape(channels, rows, columns, -1)
            kernel = images.transpose(1, 2, 0, 3).reshape(kernel.shape)
            self.flattened = None
        self.shape = kernel.shape[1:]
        firing, gain = self._neurons(neurons, self.shape)
        layer = layers.Dense(*kernel.shape, neurons=firing, rngs=nnx.Rngs(0))
        bias = getattr(node, "bias", np.zeros(self.shape))
        return self._with_values(name, layer, kernel, bias, gain)

    def _conv(self, name: str, neurons: str | None, scale: float | None = None) -> layers.Conv:
        node = self.nodes[name]
        kernel = np.asarray(node.weight, np.float64).transpose(2, 3, 1, 0)
        size, stride = kernel.shape[0], self._whole(name, "stride")
        if len(self.shape) != 3 or kernel.shape[2] != self.shape[2]:
            raise self._refuse(name, f"{kernel.shape[2]} channels for inputs {self.shape}")
        if kernel.shape[1] != size or np.any(np.asarray(node.dilation) != 1) or node.groups != 1:
            raise self._refuse(name, "a kernel that is not square, dilated or in groups")
        padding = self._padding(name, size, stride)
        lost = 0 if padding == "SAME" else size - 1
        rows, columns = (-(-(side - lost) // stride) for side in self.shape[:2])
        if min(rows, columns) < 1:
            raise self._refuse(name, f"a kernel of {size} for inputs {self.shape}")
        self.shape = (rows, columns, kernel.shape[3])
        firing, gain = self._neurons(neurons, self.shape)
        options: dict[str, Any] = {"size": size, "stride": stride, "padding": padding}
        inputs, outputs = kernel.shape[2:]
        layer = layers.Conv(inputs, outputs, neurons=firing, rngs=nnx.Rngs(0), **options)
        scale = self._took_scale() if scale is None else scale
        return self._with_values(name, layer, kernel * scale, node.bias, gain)

    def _padding(self, name: str, size: int, stride: int) -> str:
        padding = self.nodes[name].padding
        if isinstance(padding, bytes | str):
            word = padding if isinstance(padding, str) else padding.decode()
            if word == "valid" or (word == "same" and stride == 1):
                return word.upper()
        elif not np.any(padding):
            return "SAME" if size == 1 else "VALID"
        elif size % 2 == 1 and np.all(np.asarray(padding) == size // 2):
            return "SAME"
        raise self._refuse(name, f"padding {padding} of a kernel of {size}")

    def _whole(self, name: str, field: str) -> int:
        """Return a number that a node has for both axes of images."""
        values = np.unique(np.asarray(getattr(self.nodes[name], field)))
        if values.size != 1:
            raise self._refuse(name, f"{field} {getattr(self.nodes[name], field)}")
        return int(values[0])

    def _with_values(
        self, name: str, layer: Layer, kernel: np.ndarray, bias: Any, gain: np.ndarray
    ) -> Layer:
        """Return a layer with the weights and the bias of a node, the gain of its neurons in it."""
        gain, bias = _exact(gain), np.asarray(bias, np.float64)
        if bias.shape != kernel.shape[-1:]:
            raise self._refuse(name, f"a bias {bias.shape} for weights {kernel.shape}")
        kernel, bias = kernel * gain, bias * gain
        if not NUMBERS.fits(kernel) or not NUMBERS.fits(bias):
            raise self._refuse(name, "weights times the gain of the neurons beyond float32")
        layer.kernel = nnx.Param(jnp.asarray(kernel, jnp.float32))
        layer.bias = nnx.Param(jnp.asarray(bias, jnp.float32))
        return layer

    def _took_scale(self) -> float:
        scale, self.scale, self.scaled = self.scale, 1.0, ""
        return scale

    def _neurons(
        self, name: str | None, shape: Sequence[int]
    ) -> tuple[layers.Neurons | layers.Integrator, np.ndarray]:
        """Return neurons, and the factor of their current."""
        if name is None:
            return layers.Integrator(), np.ones(())
        node, nir = self.nodes[name], self.nir
        leaky = isinstance(node, nir.LIF | nir.LI)
        for field in ("v_leak", "v_reset"):
            if np.any(getattr(node, field, 0.0)):
                raise self._refuse(name, f"{field} other than 0")
        r = self._channels(name, "r", shape)
        if leaky:
            tau = self._channels(name, "tau", shape)
            decay = self.dialect.decay(tau, self.dt).astype(np.float32)
            gain = self.dialect.gain(tau, r, self.dt)
        else:
            decay = np.ones((), np.float32)
            gain = r * self.dt if self.dialect.reads_r else np.ones(())
        if not np.all((decay >= 0.0) & (decay <= 1.0)):
            raise self._refuse(name, f"tau {np.min(tau)} is below one step of {self.dt}")
        if isinstance(node, nir.LI | nir.I):
            return layers.Integrator(jnp.asarray(decay)), gain
        threshold = self._channels(name, "v_threshold", shape).astype(np.float32)
        constants = jnp.asarray(decay), jnp.asarray(threshold)
        neuron = LIF(*constants, reset=self.reset, strict=self.dialect.strict)
        return layers.Neurons(neuron), gain

    def _channels(self, name: str, field: str, shape: Sequence[int]) -> np.ndarray:
        """Return a constant of neurons as a scalar or `[C]`."""
        values = np.asarray(getattr(self.nodes[name], field), np.float64)
        if np.unique(values).size == 1:
            return values.reshape(-1)[:1].reshape(())
        channels = values.reshape(len(values), -1)
        if len(values) != shape[-1] or np.any(channels != channels[:, :1]):
            raise self._refuse(name, f"{field} that is not the same over a channel")
        return channels[:, 0]

    def _pool(self, name: str, node: Any) -> None:
        size = self._whole(name, "kernel_size")
        fits = len(self.shape) == 3 and min(self.shape[:2]) >= size
        if self._whole(name, "stride") != size or np.any(node.padding) or not fits:
            raise self._refuse(name, "windows that overlap, have a border or are not of images")
        if isinstance(node, self.nir.SumPool2d):
            self.scale, self.scaled = self.scale * size**2, name
        self._add("pool", layers.AveragePool(size))
        self.shape = (self.shape[0] // size, self.shape[1] // size, self.shape[2])

    def _flatten(self, name: str, node: Any) -> None:
        # Some writers count the batch as an axis, others do not: both mean all axes of a sample.
        if node.start_dim not in (0, 1, -3) or node.end_dim not in (-1, 2, 3):
            raise self._refuse(name, f"axes {node.start_dim} to {node.end_dim}, not all")
        if len(self.shape) == 3:
            self.flattened = self.shape
            self._add("flatten", layers.Flatten())
            self.shape = (int(np.prod(self.shape)),)

    def _block(self, start: str) -> list[str]:
        """Read a residual block; return its nodes, the last one last."""
        nir = self.nir
        self._close()
        shortcut, main = sorted((self._branch(name) for name in self.after[start]), key=len)
        kinds = [type(self.nodes[name]) for name in main[:-1]]
        spiking = (nir.LIF, nir.IF)
        fits = (
            shortcut[-1] == main[-1]
            and len(kinds) == 3
            and (kinds[0], kinds[2]) == (nir.Conv2d, nir.Conv2d)
            and issubclass(kinds[1], spiking)
            and isinstance(self.nodes[main[-1]], spiking)
            and [type(self.nodes[name]) for name in shortcut[:-1]] in ([], [nir.Conv2d])
        )
        if not fits:
            raise self._refuse(start, "a branching that is no residual block")
        shape, scale = self.shape, self._took_scale()
        conv1 = self._conv(main[0], main[1], scale)
        conv2 = self._conv(main[2], main[3], 1.0)
        gain = self._neurons(main[3], self.shape)[1]
        outputs = self.shape[2]
        pixels = np.eye(outputs)
        if len(shortcut) == 2:
            pixels = self._pixels(shortcut[0], conv1.stride)
        elif shape != self.shape:
            raise self._refuse(start, f"a shortcut from {shape} to {self.shape}")
        sources = np.where(np.any(pixels, 0), np.argmax(pixels != 0, 0), NOTHING)
        weight = np.sum(pixels, 0) * scale * _exact(gain)
        plain = outputs >= shape[2] and tuple(sources) == by_position(shape[2], outputs)
        even = np.all((weight == 1.0) | (sources == NOTHING))
        self._add(
            "block",
            layers.Residual(
                conv1,
                conv2,
                sources=None if plain else sources.tolist(),
                weight=None if even else jnp.asarray(weight, jnp.float32),
            ),
        )
        return [*shortcut, *main]

    def _branch(self, name: str) -> list[str]:
        """Return the nodes from `name` to the first one that hears two, itself included."""
        branch = [name]
        while len(self.before[branch[-1]]) == 1:
            if len(self.after[branch[-1]]) != 1:
                raise self._refuse(branch[-1], f"{len(self.after[branch[-1]])} nodes behind it")
            branch.append(self.after[branch[-1]][0])
        return branch

    def _pixels(self, name: str, stride: int) -> np.ndarray:
        """Return what the node of a shortcut makes of the channels of a pixel, `[I, O]`."""
        node = self.nodes[name]
        kernel = np.asarray(node.weight, np.float64)
        fits = kernel.shape[2:] == (1, 1) and self._whole(name, "stride") == stride
        if not fits or np.any(node.bias) or np.any(np.sum(kernel != 0, 1) > 1):
            raise self._refuse(name, "a shortcut that does more than choose channels")
        return kernel[:, :, 0, 0].T


def _exact(gain: np.ndarray) -> np.ndarray:
    """Return the gain, and 1 where it differs only by the rounding of tau and r."""
    return np.where(np.isclose(gain, 1.0, rtol=1e-6, atol=0.0), 1.0, gain)
