"""A network of integers as a plain npz file, for a runner of one's own.

    STAGE.kernel STAGE.shift STAGE.bias STAGE.recurrent      of stage number STAGE, as in `network`
    STAGE.level STAGE.theta STAGE.keep STAGE.factor STAGE.right
    STAGE.second_keep STAGE.second_factor STAGE.second_right STAGE.second_jump   as in `second`
    STAGE.sources STAGE.weight                               the shortcut of a residual block

The entry `stages` is a JSON text in bytes: for each stage what it does ("weigh", "sum", "max",
"flatten", "vote"), and what is no array: name, stride, padding, reset, order, size, and of neurons
that carry more than a potential the kind of it ("second"); further the input's range, T, and what 1
of the read-out stands for. `tools/run_integer_numpy.py` runs it.
"""

import json
from pathlib import Path
from typing import Any

import numpy as np

from jaxsnn import archive
from jaxsnn.export.integer.network import IntegerNetwork, Joined, Weighted
from jaxsnn.files import write_atomic

__all__ = ["save_integer"]

CONSTANTS = ("level", "theta", "keep", "factor", "right")
SECOND = ("keep", "factor", "right", "jump")


def save_integer(path: str | Path, network: IntegerNetwork) -> int:
    """Write a network of integers, read by `numpy.load(path)`; the same bytes each time.

    Args:
      path: the file, which appears when it is complete.
      network: from `to_integer`.

    Returns:
      The size of the file in bytes.

    Raises:
      UserError: if the file cannot be written.

    Example:
      >>> import tempfile
      >>> from jaxsnn import models
      >>> from jaxsnn.export import to_integer
      >>> from jaxsnn.export.integer import SPIKES
      >>> with tempfile.TemporaryDirectory() as folder:
      ...     path = f"{folder}/net.npz"
      ...     _ = save_integer(path, to_integer(models.build("6-3", (4,)), SPIKES, 4))
      ...     print(np.load(path)["0.kernel"].shape)
      (4, 6)
    """
    stages: list[dict[str, Any]] = []
    arrays: dict[str, np.ndarray] = {}
    for stage in network.stages:
        if isinstance(stage, Joined):
            _add(stages, arrays, stage.first)
            shortcut = {"sources": stage.sources, "weight": stage.weight}
            _add(stages, arrays, stage.second, shortcut, stage.first.stride)
        elif isinstance(stage, Weighted):
            _add(stages, arrays, stage)
        else:
            stages.append({"does": stage.kind, "size": stage.size})
    description = {
        "stages": stages,
        "input": dict(zip(("unit", "low", "high"), network.inputs, strict=True)),
        "timesteps": network.timesteps,
        "unit": network.unit,
    }
    text = json.dumps(description, sort_keys=True).encode()
    return write_atomic(path, archive.pack({"stages": np.frombuffer(text, np.uint8), **arrays}))


def _add(
    stages: list[dict[str, Any]],
    arrays: dict[str, np.ndarray],
    layer: Weighted,
    shortcut: dict[str, Any] | None = None,
    apart: int = 0,
) -> None:
    """Note a layer with weights; `apart` is the stride of its block's shortcut."""
    parts = {"kernel": layer.kernel, "shift": layer.shift, "bias": layer.bias}
    parts |= {name: getattr(layer.neurons, name) for name in CONSTANTS} | (shortcut or {})
    if layer.recurrent is not None:
        parts["recurrent"] = layer.recurrent
    second = layer.neurons.second
    if second is not None:
        parts |= {f"second_{name}": getattr(second, name) for name in SECOND}
    arrays |= {f"{len(stages)}.{name}": np.asarray(part) for name, part in parts.items()}
    stages.append(
        {
            "does": "weigh",
            "name": layer.name,
            "stride": layer.stride,
            "padding": layer.padding,
            "reset": layer.neurons.reset,
            "fires_first": layer.neurons.fires_first,
            "shortcut_stride": apart,
        }
        | ({} if second is None else {"second": second.kind})
    )
