"""A network's numbers as a plain npz file: floats for everybody, integers for hardware.

    params/NAME, stats/NAME      the leaf, as it is computed with

and beside each leaf on a grid, known (`Network.quantized`) or found in its numbers,

    params/NAME#integers         int8 or int16, of the leaf's shape
    params/NAME#scale            float32 [] or [O]: leaf = integers * scale, up to float32 rounding

(for ReScaW, `compress.rescaled`, the integers are odd numbers, and 0 where a weight was pruned), or

    params/NAME#codes            uint8, of the leaf's shape
    params/NAME#codebook         float32 [d]: leaf = codebook[codes], exactly

for up to 256 values on no such grid. The entry `jaxsnn` is a JSON text: the architecture, the input
and the metadata.
"""

import io
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from jaxsnn import coding
from jaxsnn.compress.codes import Quantized
from jaxsnn.export import architecture
from jaxsnn.files import write_atomic
from jaxsnn.inputs import Inputs
from jaxsnn.network import Network
from jaxsnn.tree import named_leaves

__all__ = ["integers", "save_npz"]


def save_npz(
    path: str | Path,
    net: Network,
    inputs: Inputs | None = None,
    metadata: Mapping[str, str] | None = None,
) -> int:
    """Write the numbers of a network, read by `numpy.load(path)`.

    Args:
      path: the file, which appears when it is complete.
      net: the network, of any pytree.
      inputs: how samples become its input.
      metadata: strings to keep.

    Returns:
      The size of the file in bytes.

    Raises:
      UserError: if the file cannot be written.

    Example:
      >>> import tempfile
      >>> from jaxsnn import models
      >>> with tempfile.TemporaryDirectory() as folder:
      ...     _ = save_npz(f"{folder}/net.npz", models.build("6-3", (4,)))
      ...     print(np.load(f"{folder}/net.npz")["params/dense1/kernel"].shape)
      (4, 6)
    """
    description = {
        "architecture": architecture.describe_network(net),
        "inputs": None if inputs is None else inputs.to_data(),
        "metadata": dict(metadata or {}),
    }
    arrays = {"jaxsnn": np.array(json.dumps(description))}
    known = net.quantized
    for name, leaf in named_leaves(net.params).items():
        arrays[f"params/{name}"] = np.asarray(leaf)
        found = integers(leaf, known.get(name))
        arrays |= {f"params/{name}#{part}": each for part, each in found.items()}
    arrays |= {f"stats/{name}": np.asarray(leaf) for name, leaf in named_leaves(net.stats).items()}
    content = io.BytesIO()
    np.savez_compressed(content, allow_pickle=False, **arrays)
    return write_atomic(path, content.getvalue())


def integers(leaf: Any, known: Quantized | None = None) -> dict[str, np.ndarray]:
    """Return a leaf's integers and scale, or its codes and codebook; nothing if it needs 32 bits.

    >>> found = integers(np.tile(np.float32([[-0.5, 1.0], [0.5, 0.0]]), (8, 1)))
    >>> found["integers"][:2].tolist(), found["scale"].tolist()
    ([[-1, 2], [1, 0]], 0.5)

    Args:
      leaf: weights of any shape.
      known: their grid, if it is known.
    """
    if known is not None and not np.any(np.asarray(known.offset)):
        codes, scale = np.asarray(known.codes), np.asarray(known.scale * known.unit)
        return {"integers": _narrow(codes), "scale": scale.reshape(scale.shape[-1:])}
    weights = np.asarray(leaf, np.float32)
    grid = coding.known_or_found(weights)
    if grid is not None:
        scale = grid.scale * grid.unit
        scale = scale if scale.size > 1 else scale.reshape(())
        return {"integers": _narrow(grid.levels.reshape(weights.shape)), "scale": scale}
    if "codebook" in coding.PARTS[coding.encode(weights)[0]]:
        codebook, codes = np.unique(weights + np.float32(0), return_inverse=True)
        if codebook.size <= coding.MAX_VALUES:
            return {"codes": codes.reshape(weights.shape).astype(np.uint8), "codebook": codebook}
    return {}


def _narrow(numbers: np.ndarray) -> np.ndarray:
    """Return whole numbers as int8, or int16 or int32 where they need it."""
    low, high = numbers.min(initial=0), numbers.max(initial=0)
    ends = ((kind, np.iinfo(kind)) for kind in (np.int8, np.int16, np.int32))
    return numbers.astype(next(kind for kind, end in ends if end.min <= low and high <= end.max))
