"""A network from a NIR graph, its own or another framework's.

A graph is read as one framework reads it (`dialects`), since the standard leaves the step of
time open. A graph that `to_nir` wrote says in its metadata for which target; any other is taken by
the letter of the standard, unless told. It is made plain first (`plain`), and must then be a chain,
with residual blocks in it and neurons that hear themselves; a node that no layer here computes is
refused by its name.
"""

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any, TypeVar

import jax.numpy as jnp
import numpy as np
from flax import nnx

from jaxsnn import layers
from jaxsnn.errors import UserError
from jaxsnn.export.nir.checked import NUMBERS, SIZES, said_by, shown
from jaxsnn.export.nir.dialects import Dialect, dialect_of
from jaxsnn.export.nir.files import Graph, package, read_nir
from jaxsnn.export.nir.graph import WRITER
from jaxsnn.export.nir.plain import Plain, made_plain
from jaxsnn.export.nir.reading import Reading, exact, refuse
from jaxsnn.layers.residual import NOTHING, by_position
from jaxsnn.network import Network

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
        frameworks also write networks that reset by subtraction: snnTorch's are "soft_undecayed".
        Files of old releases say nothing of it; then it is asked for.

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
        reader = _Reader(nir, made_plain(nir, graph), dialect, dialect.timestep(dt), reset)
        chain = layers.Chain(reader.chain())
    except UserError as error:
        raise (UserError(f"{source}: {error}") if graph is not source else error) from error
    return Network.of(chain, reader.input_shape)


class _Reader:
    """Walk along a graph and build a layer from every node."""

    def __init__(self, nir: Any, graph: Plain, dialect: Dialect, dt: float, reset: str | None):
        self.nir = nir
        self.nodes, self.recurrent = graph.nodes, graph.recurrent
        self.reading = Reading(nir, dialect, dt, reset)
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
        seen = {here, *self.recurrent.values()}
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
        return refuse(name, self.nodes[name], what)

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
        if SIZES._replace(ndim=1).fits(shape) and self._counts_batch(name, np.size(shape)):
            shape = np.asarray(shape)[1:]
        if not SIZES._replace(ndim=1).fits(shape) or np.size(shape) not in (1, 2, 3):
            raise self._refuse(
                name, f"inputs of shape {shown(shape)}, not (C, H, W), (C, L) or (features,)"
            )
        there = tuple(int(side) for side in np.asarray(shape))
        return there if len(there) == 1 else (*there[1:], there[0])

    def _counts_batch(self, name: str, axes: int) -> bool:
        """Return whether an input has one axis more than what it enters: Norse's and sinabs' do."""
        nir = self.nir
        entered = self.nodes[self.after[name][0]] if self.after[name] else None
        if isinstance(entered, nir.Affine | nir.Linear):
            return axes == 2
        return axes == (3 if isinstance(entered, nir.Conv1d) else 4)

    def _add(self, kind: str, layer: nnx.Module) -> None:
        number = sum(name.startswith(kind) for name in self.layers) + 1
        self.layers[f"{kind}{number}"] = layer

    def _take(self, name: str) -> None:
        """Read one node of the chain."""
        node, nir = self.nodes[name], self.nir
        if isinstance(node, nir.LIF | nir.IF | nir.CubaLIF | nir.LI | nir.I):
            self._close(name)
            return
        self._close()
        if isinstance(node, nir.Affine | nir.Linear | nir.Conv1d | nir.Conv2d):
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
        if isinstance(node, self.nir.Conv1d | self.nir.Conv2d):
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
            images = kernel.reshape(self.flattened[-1], math.prod(self.flattened[:-1]), -1)
            kernel = images.swapaxes(0, 1).reshape(kernel.shape)
            self.flattened = None
        self.shape = kernel.shape[1:]
        firing, gain = self._neurons(neurons, self.shape)
        bias = self._bias(name)
        if (
            neurons is None
            or neurons not in self.recurrent
            or isinstance(firing, layers.Integrator)
        ):
            layer = layers.Dense(*kernel.shape, neurons=firing, rngs=nnx.Rngs(0))
            return self._with_values(name, layer, kernel, bias, gain)
        hearing = self.recurrent[neurons]
        weight = np.asarray(self.nodes[hearing].weight, np.float64)
        if weight.shape != self.shape * 2:
            raise self._refuse(hearing, f"weights {weight.shape} for neurons {self.shape}")
        bias = bias + self._bias(hearing)
        loop = layers.Recurrent(*kernel.shape, neurons=firing, rngs=nnx.Rngs(0))
        loop = self._with_values(name, loop, kernel, bias, gain)
        loop.recurrent = nnx.Param(jnp.asarray(weight.T * exact(gain), jnp.float32))
        return loop

    def _conv(self, name: str, neurons: str | None, scale: float | None = None) -> layers.Conv:
        node = self.nodes[name]
        kernel = np.moveaxis(np.asarray(node.weight, np.float64), (0, 1), (-1, -2))
        size, stride, groups = len(kernel), self._whole(name, "stride"), int(node.groups)
        inputs, outputs = kernel.shape[-2] * groups, kernel.shape[-1]
        if len(self.shape) != kernel.ndim - 1 or inputs != self.shape[-1]:
            raise self._refuse(name, f"{inputs} channels for inputs {self.shape}")
        if set(kernel.shape[:-2]) != {size} or np.any(np.asarray(node.dilation) != 1):
            raise self._refuse(name, "a kernel that is not square, or dilated")
        padding = self._padding(name, size, stride)
        lost = 0 if padding == "SAME" else size - 1
        sides = tuple(-(-(side - lost) // stride) for side in self.shape[:-1])
        if min(sides) < 1 or outputs % groups:
            raise self._refuse(name, f"a kernel {kernel.shape} for inputs {self.shape}")
        self.shape = (*sides, outputs)
        if neurons is not None and neurons in self.recurrent:
            raise self._refuse(neurons, "neurons of images that hear themselves")
        firing, gain = self._neurons(neurons, self.shape)
        options: dict[str, Any] = {"size": size, "stride": stride, "padding": padding}
        kind = layers.Conv1d if len(sides) == 1 else layers.Conv
        layer = kind(inputs, outputs, groups=groups, neurons=firing, rngs=nnx.Rngs(0), **options)
        scale = self._took_scale() if scale is None else scale
        return self._with_values(name, layer, kernel * scale, self._bias(name), gain)

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
        raise self._refuse(name, f"padding {shown(padding)} of a kernel of {size}")

    def _whole(self, name: str, field: str) -> int:
        """Return a number that a node has for both axes of images."""
        values = np.unique(np.asarray(getattr(self.nodes[name], field)))
        if values.size != 1:
            raise self._refuse(name, f"{field} {shown(getattr(self.nodes[name], field))}")
        return int(values[0])

    def _with_values(
        self, name: str, layer: Layer, kernel: np.ndarray, bias: np.ndarray, gain: np.ndarray
    ) -> Layer:
        """Return a layer with the weights and the bias of a node, the gain of its neurons in it."""
        gain = exact(gain)
        kernel, bias = kernel * gain, bias * gain
        if not NUMBERS.fits(kernel) or not NUMBERS.fits(bias):
            raise self._refuse(name, "weights times the gain of the neurons beyond float32")
        layer.kernel = nnx.Param(jnp.asarray(kernel, jnp.float32))
        layer.bias = nnx.Param(jnp.asarray(bias, jnp.float32))
        return layer

    def _bias(self, name: str) -> np.ndarray:
        """Return the bias of weights, one number for each output."""
        node = self.nodes[name]
        bias, outputs = np.asarray(getattr(node, "bias", 0.0), np.float64), len(node.weight)
        if bias.size == 1:
            return np.broadcast_to(bias.reshape(()), (outputs,))
        if bias.shape != (outputs,):
            raise self._refuse(name, f"a bias {bias.shape} for weights {node.weight.shape}")
        return bias

    def _took_scale(self) -> float:
        scale, self.scale, self.scaled = self.scale, 1.0, ""
        return scale

    def _neurons(
        self, name: str | None, shape: Sequence[int]
    ) -> tuple[layers.Neurons | layers.Integrator, np.ndarray]:
        """Return neurons, and the factor of their current."""
        if name is None:
            return layers.Integrator(), np.ones(())
        return self.reading.firing(name, self.nodes[name], shape)

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
        axes = max(len(self.shape), 2)
        starts, ends = (0, 1, -axes), (-1, axes - 1, axes)
        if node.start_dim not in starts or node.end_dim not in ends:
            raise self._refuse(name, f"axes {node.start_dim} to {node.end_dim}, not all")
        if len(self.shape) > 1:
            self.flattened = self.shape
            self._add("flatten", layers.Flatten())
            self.shape = (int(np.prod(self.shape)),)

    def _block(self, start: str) -> list[str]:
        """Read a residual block; return its nodes, the last one last."""
        nir = self.nir
        self._close()
        shortcut, main = sorted((self._branch(name) for name in self.after[start]), key=len)
        kinds = [type(self.nodes[name]) for name in main[:-1]]
        spiking = (nir.LIF, nir.IF, nir.CubaLIF)
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
        weight = np.sum(pixels, 0) * scale * exact(gain)
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
        fits = fits and node.groups == 1
        if not fits or np.any(node.bias) or np.any(np.sum(kernel != 0, 1) > 1):
            raise self._refuse(name, "a shortcut that does more than choose channels")
        return kernel[:, :, 0, 0].T
