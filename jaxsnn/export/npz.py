"""A network's numbers as a plain npz file: floats for everybody, integers for hardware.

    params/NAME, stats/NAME      the leaf, as it is computed with

and beside each leaf that needs few bits

    params/NAME#integers         int16, of the leaf's shape
    params/NAME#scale            float32 [O]: leaf = integers * scale, up to rounding of float32

for weights on the grid of each channel's own scale (`compress.rescaling`; the integers are odd
numbers, and 0 where a weight was pruned), or

    params/NAME#codes            uint8, of the leaf's shape
    params/NAME#codebook         float32 [d]: leaf = codebook[codes], exactly

The entry `jaxsnn` is a JSON text: the architecture, the input and the metadata.
"""

import io
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from jaxsnn import coding
from jaxsnn.files import write_atomic
from jaxsnn.tree import named_leaves


def save_npz(
    path: str | Path, params: Any, stats: Any, description: Mapping[str, Any] | None = None
) -> int:
    """Write the numbers of a network, read by `numpy.load(path)`.

    Args:
      path: the file, which appears when it is complete.
      params: nested dictionary of float32 leaves.
      stats: nested dictionary of arrays.
      description: JSON types, kept as a text under the name `jaxsnn`.

    Returns:
      The size of the file in bytes.

    Raises:
      UserError: if the file cannot be written.
    """
    arrays = {"jaxsnn": np.array(json.dumps(dict(description or {})))}
    for name, leaf in named_leaves(params).items():
        arrays[f"params/{name}"] = np.asarray(leaf)
        arrays |= {f"params/{name}#{part}": each for part, each in integers(leaf).items()}
    arrays |= {f"stats/{name}": np.asarray(leaf) for name, leaf in named_leaves(stats).items()}
    content = io.BytesIO()
    np.savez_compressed(content, allow_pickle=False, **arrays)
    return write_atomic(path, content.getvalue())


def integers(leaf: Any) -> dict[str, np.ndarray]:
    """Return a leaf's integers and scale, or its codes and codebook; nothing if it needs 32 bits.

    >>> found = integers(np.tile(np.float32([[-0.5, 1.0], [0.5, 0.0]]), (8, 1)))
    >>> found["integers"][:2].tolist(), found["scale"].tolist()
    ([[-1, 1], [1, 0]], [0.5, 1.0])
    """
    weights = np.asarray(leaf, np.float32)
    form, parts = coding.encode(weights)
    if "gamma" in coding.PARTS[form]:
        steps = np.float32(2 ** int(parts["width"][0]) - 1)
        scale = parts["gamma"] / steps
        safe = np.where(scale == 0, np.float32(1), scale)
        return {"integers": np.rint(weights / safe).astype(np.int16), "scale": scale}
    if "codebook" in coding.PARTS[form]:
        codebook, codes = np.unique(weights + np.float32(0), return_inverse=True)
        if codebook.size <= coding.MAX_VALUES:
            return {"codes": codes.reshape(weights.shape).astype(np.uint8), "codebook": codebook}
    return {}
