"""A network as a NIR graph that another framework reads as the same network.

Each target has its own reading of the standard (`dialects`); the graph is written for one of
them, and what that one cannot express is refused by the name of the layer. Images are `[C, H, W]`
there and `[H, W, C]` here, so the inputs of the layer behind a flattening change their order.

| layer         | nodes                                                                        |
|---------------|------------------------------------------------------------------------------|
| Conv, Dense   | `Conv2d`, `Conv1d`, `Affine`, and behind it the neurons: `LIF`, `IF`,          |
|               | `CubaLIF`; `LI` or `I` for a leaky read-out, nothing for the current           |
| Recurrent     | the same, and a `Linear` from the neurons back to them                        |
| Residual      | two of these; the shortcut is a `Conv2d` of 1 x 1                             |
| AveragePool   | `AvgPool2d`; or `SumPool2d`, and the next weights are divided by the window   |
| Flatten, Vote | `Flatten`, `Affine`                                                           |
| Dropout       | nothing                                                                      |

A node is named after its layer (`conv1`, `block1_conv1`), its neurons `conv1_neurons`. An even
kernel gets a row and a column of zeros in front, since NIR pads both sides alike.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax import Array

from jaxsnn import layers
from jaxsnn.encode import Signal
from jaxsnn.errors import UserError
from jaxsnn.export.nir.dialects import Dialect, dialect_of
from jaxsnn.export.nir.files import Graph, package, write_nir
from jaxsnn.export.nir.writing import written
from jaxsnn.export.ties import count_where
from jaxsnn.inputs import Inputs
from jaxsnn.layers.residual import NOTHING, by_position
from jaxsnn.network import Network

__all__ = ["WRITER", "to_nir"]

WRITER = "jaxsnn"  # in the metadata of a graph: it says for which target it was written


def to_nir(
    net: Network,
    path: str | Path | None = None,
    inputs: Inputs | Sequence[int] | None = None,
    *,
    target: str = "nir",
    dt: float | None = None,
    example: Array | Signal | None = None,
) -> Graph:
    """Return a network as a NIR graph for one reader, and write it to a file.

    The metadata of the graph say target and dt; with an example those of each spiking node say the
    number of its ties (`ties.count_ties`).

    Args:
      net: the network, a chain of layers without batch normalisation (`export.fold_norms`).
      path: the file, which appears when it is complete; None only returns the graph.
      inputs: of the task, or the shape of one sample at one step, `(H, W, C)` or `(features,)`;
        may be left out where the network knows it (`net.input_shape`), or takes features.
      target: who is to read it: "nir" (the plain standard), "snntorch", "norse", "spikingjelly" or
        "sinabs".
      dt: seconds of one step; left out, what the target's importer takes by itself.
      example: typical inputs, `[T, B, ...]` or a `Signal`. The target "sinabs" needs them: its
        neurons fire twice at twice the threshold, and a network that gets there is refused.

    Returns:
      The `nir.NIRGraph`.

    Raises:
      UserError: if the target cannot express a layer, a shape does not fit, the network is no
        chain, the file cannot be written, or the package `nir` is missing.

    Example:
      >>> from jaxsnn import models
      >>> from jaxsnn.neurons import LIF
      >>> sorted(to_nir(models.build("6-3", (4,), LIF(0.5)), target="snntorch").nodes)
      ['dense1', 'dense1_neurons', 'dense2', 'dense2_neurons', 'input', 'output']
    """
    nir = package()
    dialect = dialect_of(target)
    module = net.module
    if not isinstance(module, layers.Chain):
        raise UserError(
            f"NIR is written for a Chain of layers, found the topology of {type(module).__name__}: "
            "write it as layers.Chain, with layers.Residual for what skips, or export it as "
            "StableHLO"
        )
    writer = _Writer(nir, dialect, dialect.timestep(dt), _shape(module, inputs or net.input_shape))
    for name in module.names:
        writer.layer(name, getattr(module, name))
    if dialect.several_spikes:
        _check_single_spikes(net, dialect, example)
    ties = {} if example is None else count_where(net, example, jnp.equal)
    graph = writer.graph({name.replace("/", "_"): count for name, count in ties.items()})
    if path is not None:
        write_nir(path, graph)
    return graph


def _shape(module: layers.Chain, inputs: Inputs | Sequence[int] | None) -> tuple[int, ...]:
    """Return the shape of one sample at one step."""
    if isinstance(inputs, Inputs):
        return inputs.shape
    if inputs is not None:
        return tuple(inputs)
    first = next(iter(layers.synapses(module).values()))
    images = [name for name in module.names if isinstance(getattr(module, name), layers.Flatten)]
    if isinstance(first, layers.Dense) and not images:
        return (int(first.kernel.shape[0]),)
    raise UserError("this network takes images of any size: pass inputs=task.inputs")


def _check_single_spikes(net: Network, dialect: Dialect, example: Any) -> None:
    what = "neurons fire several spikes in one step from twice the threshold on"
    if example is None:
        raise UserError(f"target {dialect.name!r}: {what}; pass example= to show that none does")
    for name, count in count_where(net, example, lambda u, theta: u >= 2.0 * theta).items():
        if count:
            raise dialect.refuse(name, f"{what}, as {count} potentials do")


class _Shortcut(NamedTuple):
    """What a block adds to its second current."""

    name: str  # of its node
    source: str  # the node whose output it passes on
    shape: tuple[int, ...]  # of that output, (H, W, I)
    pixels: np.ndarray  # [I, O], what it makes of the channels of a pixel
    stride: int


class _Writer:
    """The graph so far, and what comes out of its last node."""

    def __init__(self, nir: Any, dialect: Dialect, dt: float, shape: tuple[int, ...]):
        if len(shape) not in (1, 2, 3) or min(shape) < 1:
            raise UserError(
                f"inputs must have the shape (H, W, C), (L, C) or (features,), found {shape}"
            )
        self.nir = nir
        self.dialect = dialect
        self.dt = dt
        self.shape = shape  # of the signal here: (H, W, C), (L, C) or (features,)
        self.flattened: tuple[int, ...] | None = None  # shape before a flattening, until weights
        self.scale = 1.0  # factor of the signal here over the one there, until the next weights
        self.scaled = ""  # the pooling that it comes from
        self.nodes = {"input": nir.Input({"input": self._there(shape)})}
        self.edges: list[tuple[str, str]] = []
        self.last = "input"

    def layer(self, name: str, layer: Any) -> None:
        """Append the nodes of a layer."""
        if isinstance(layer, layers.Recurrent) and not self.dialect.recurrent:
            raise self.dialect.refuse(name, "a recurrent layer")
        if isinstance(layer, layers.Conv) and not self.dialect.grouped:
            if layer.groups > 1 or isinstance(layer, layers.Conv1d):
                kind = type(layer).__name__
                raise self.dialect.refuse(name, f"a layer {kind} of {layer.groups} groups")
        if isinstance(layer, layers.Synapse):
            self._weighted(name, layer)
        elif isinstance(layer, layers.Residual):
            self._block(name, layer)
        elif isinstance(layer, layers.AveragePool):
            self._pool(name, layer.size)
        elif isinstance(layer, layers.Flatten):
            self._flatten(name)
        elif isinstance(layer, layers.Vote):
            self._vote(name, layer.classes)
        elif not isinstance(layer, layers.Dropout):
            raise self.dialect.refuse(name, f"a layer {type(layer).__name__}")

    def graph(self, ties: Mapping[str, int]) -> Graph:
        """Close the graph and return it."""
        if self.scaled:
            raise self.dialect.refuse(self.scaled, "an average pool without weights behind it")
        if self.flattened is not None:
            raise UserError(f"{self.last}: flattens what no weights follow; its order would change")
        for name, count in ties.items():
            self.nodes[f"{name}_neurons"].metadata = {"ties": count}
        self._add("output", self.nir.Output({"output": self._there(self.shape)}))
        metadata = {"writer": WRITER, "target": self.dialect.name, "dt": self.dt}
        # The package takes the inputs of one group for those of a convolution.
        grouped = any(np.any(getattr(node, "groups", 1) != 1) for node in self.nodes.values())
        typed = not self.dialect.flat_constants and not grouped
        return self.nir.NIRGraph(self.nodes, self.edges, metadata, type_check=typed)

    def _add(self, name: str, node: Any, *before: str) -> None:
        if name in self.nodes or not name.isidentifier():
            raise UserError(f"{name!r} cannot be the name of a node; rename the layer")
        self.nodes[name] = node
        self.edges += [(other, name) for other in before or (self.last,)]
        self.last = name

    def _weighted(
        self, name: str, layer: layers.Synapse, shortcut: _Shortcut | None = None
    ) -> None:
        """Append weights and neurons, which also hear a shortcut if there is one."""
        if isinstance(layer.norm, nnx.LayerNorm):
            raise self.dialect.refuse(name, "a LayerNorm")
        if layer.norm is not None:
            raise UserError(f"{name}: NIR has no batch normalisation; call export.fold_norms first")
        if layer.dtype != jnp.float32:
            raise self.dialect.refuse(name, f"weights of {jnp.dtype(layer.dtype)}")
        kernel = np.asarray(layer.kernel[...], np.float64) * self.scale
        outputs = kernel.shape[-1]
        bias = np.zeros(outputs) if layer.bias is None else np.asarray(layer.bias[...], np.float64)
        here, shape = self.shape, self._shape_behind(name, layer)
        neurons, gain = self._neurons(name, layer.neurons, shape)
        if isinstance(layer, layers.Conv):
            weights = self._conv(
                kernel * gain, bias * gain, layer.stride, layer.padding, here, layer.groups
            )
        else:
            weights = self._affine(kernel * gain, bias * gain)
        self._took_weights()
        self._add(name, weights)
        self.shape = shape
        sources = [name]
        if shortcut is not None:
            pixels, none = shortcut.pixels[None, None] * gain, np.zeros(outputs)
            node = self._conv(pixels, none, shortcut.stride, "VALID", shortcut.shape)
            self._add(shortcut.name, node, shortcut.source)
            sources.append(shortcut.name)
        if neurons is not None:
            self._add(f"{name}_neurons", neurons, *sources)
        if isinstance(layer, layers.Recurrent):
            back = np.asarray(layer.recurrent[...], np.float64) * gain
            self._add(f"{name}_recurrent", self.nir.Linear(weight=back.T.astype(np.float32)))
            self.last = f"{name}_neurons"
            self.edges.append((f"{name}_recurrent", self.last))

    def _shape_behind(self, name: str, layer: layers.Synapse) -> tuple[int, ...]:
        outputs = layer.kernel.shape[-1]
        if not isinstance(layer, layers.Conv):
            self._need(name, 1, layer.inputs)
            return (outputs,)
        self._need(name, layer.axes + 1, layer.inputs)
        lost = 0 if layer.padding == "SAME" else layer.kernel.shape[0] - 1
        return (*(-(-(side - lost) // layer.stride) for side in self.shape[:-1]), outputs)

    def _need(self, name: str, rank: int, inputs: int | None = None) -> None:
        if len(self.shape) != rank or inputs not in (None, self.shape[-1]):
            what = ("features", "sequences", "images")[rank - 1]
            wanted = what if inputs is None else f"{what} with {inputs} channels"
            raise UserError(f"{name}: needs {wanted}, but gets {self.shape}")

    def _neurons(self, name: str, firing: Any, shape: tuple[int, ...]) -> tuple[Any, np.ndarray]:
        """Return the node of the neurons, or None, and the factor of the weights before it."""
        found = written(self.dialect, name, firing, self.dt)
        if found is None:
            return None, np.ones(())
        laid_out = {key: self._over(value, shape) for key, value in found.numbers.items()}
        return getattr(self.nir, found.kind)(**laid_out), found.gain

    def _over(self, values: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
        """Lay a constant or one for each channel out over all neurons, channels first."""
        if len(shape) == 1:
            return np.broadcast_to(values, shape).copy()
        columns = np.broadcast_to(values, shape[-1:]).reshape(-1, *(1,) * (len(shape) - 1))
        if self.dialect.flat_constants:
            return columns
        return np.broadcast_to(columns, self._there(shape)).copy()

    def _conv(
        self,
        kernel: np.ndarray,
        bias: np.ndarray,
        stride: int,
        padding: str,
        shape: Sequence[int],
        groups: int = 1,
    ) -> Any:
        """Return the node of a convolution of inputs `shape` with `[k, ..., I/groups, O]`."""
        size, axes = kernel.shape[0], kernel.ndim - 2
        if padding == "SAME" and size % 2 == 0:
            kernel = np.pad(kernel, [(1, 0)] * axes + [(0, 0), (0, 0)])
        border = size // 2 if padding == "SAME" else 0
        weight = np.moveaxis(kernel, (-1, -2), (0, 1)).astype(np.float32)
        shared = {"weight": weight, "groups": groups, "bias": bias.astype(np.float32)}
        if axes == 1:
            return self.nir.Conv1d(
                input_shape=shape[0], stride=stride, padding=border, dilation=1, **shared
            )
        return self.nir.Conv2d(
            input_shape=(shape[0], shape[1]),
            stride=(stride, stride),
            padding=(border, border),
            dilation=(1, 1),
            **shared,
        )

    def _affine(self, kernel: np.ndarray, bias: np.ndarray) -> Any:
        """Return the node of dense weights `[I, O]`, their inputs in the order that is there."""
        if self.flattened is not None:
            images = kernel.reshape(-1, self.flattened[-1], kernel.shape[-1])
            kernel = images.swapaxes(0, 1).reshape(kernel.shape)
        return self.nir.Affine(weight=kernel.T.astype(np.float32), bias=bias.astype(np.float32))

    def _took_weights(self) -> None:
        self.scale, self.scaled, self.flattened = 1.0, "", None

    def _block(self, name: str, block: layers.Residual) -> None:
        if not self.dialect.branches:
            raise self.dialect.refuse(name, "a residual block")
        if not isinstance(block.conv2.neurons, layers.Neurons):
            raise self.dialect.refuse(name, "a residual block without neurons behind it")
        source, shape, scale = self.last, self.shape, self.scale
        inputs, outputs = block.conv1.inputs, block.conv2.kernel.shape[-1]
        self._weighted(f"{name}_conv1", block.conv1)
        weight = 1.0 if block.weight is None else np.asarray(block.weight[...], np.float64)
        pixels = np.zeros((inputs, outputs))
        if block.projection is not None:
            pixels = np.asarray(block.projection.kernel[...], np.float64)[0, 0]
        else:
            sources = by_position(inputs, outputs) if block.sources is None else block.sources
            for channel, chosen in enumerate(sources):
                if chosen != NOTHING:
                    pixels[chosen, channel] = 1.0
        pixels, stride = pixels * weight * scale, block.conv1.stride
        shortcut = _Shortcut(f"{name}_shortcut", source, shape, pixels, stride)
        self._weighted(f"{name}_conv2", block.conv2, shortcut)

    def _pool(self, name: str, size: int) -> None:
        self._need(name, 3)
        window, border = np.array([size, size]), np.array([0, 0])
        kind = self.nir.AvgPool2d if self.dialect.average else self.nir.SumPool2d
        if not self.dialect.average:
            self.scale, self.scaled = self.scale / size**2, name
        self._add(name, kind(kernel_size=window, stride=window.copy(), padding=border))
        self.shape = (self.shape[0] // size, self.shape[1] // size, self.shape[2])

    def _flatten(self, name: str) -> None:
        if len(self.shape) == 1:
            return
        self.flattened = self.shape
        # Counted from behind: some readers count the batch as an axis, others do not.
        there = {"input": self._there(self.shape)}
        self._add(name, self.nir.Flatten(there, start_dim=-len(self.shape), end_dim=-1))
        self.shape = (int(np.prod(self.shape)),)

    def _vote(self, name: str, classes: int) -> None:
        self._need(name, 1)
        voters = self.shape[0] // classes
        kernel = np.kron(np.eye(classes), np.full((voters, 1), self.scale / voters))
        node = self._affine(kernel, np.zeros(classes))
        self._took_weights()
        self._add(name, node)
        self.shape = (classes,)

    def _there(self, shape: Sequence[int]) -> np.ndarray:
        """Return a shape with channels first."""
        return np.array((shape[-1], *shape[:-1]))
