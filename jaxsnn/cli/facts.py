"""What a packed file says of its network, layer by layer, and the bytes that each part takes."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import jax.numpy as jnp
import numpy as np

from jaxsnn import coding
from jaxsnn.compress.codes import Step
from jaxsnn.errors import UserError
from jaxsnn.export import pack
from jaxsnn.export.container import Contents
from jaxsnn.export.model import Model

__all__ = ["FileFacts", "forms_of", "of_file"]

FileFacts = dict[str, Any]


def of_file(path: Path) -> tuple[FileFacts, Model | None]:
    """Return the facts of a file, and its model if it holds an architecture.

    `layers` lists a dictionary for each layer with weights: `name`, `shape` of its kernel;
    `density` and `bits` of its weights (kernel and recurrent); `bytes` of all that it has in the
    file; `neurons`, their `decay` and `threshold`, None where they are not known. The bytes of the
    layers and `header_bytes` sum to `file_bytes`.

    Raises:
      UserError: if the file cannot be read, or its layers do not fit its input.
    """
    contents = pack.read(path)
    header = contents.header
    model = None if header["architecture"] is None else pack.model_of(path, contents)
    leaves = pack.leaves(path, contents)
    layers = _layers(contents, leaves["params"], leaves["stats"], pack.steps(path, contents))
    if model is not None:
        order = model.network.order
        layers.sort(key=lambda row: _place(order, row["name"]))
        try:
            sizes = {} if model.inputs is None else model.shapes.activity.spikes
        except UserError as error:
            raise UserError(f"{path}: {error}") from error
        for row in layers:
            spikes = sizes.get(row["name"])
            row["neurons"] = None if spikes is None else int(np.prod(spikes.shape[1:]))
    packed = sum(array.nbytes for array in contents.tensors.values())
    return {
        "file": str(path),
        "file_bytes": contents.num_bytes,
        "header_bytes": contents.num_bytes - packed,
        "written_by": header["written_by"],
        "metadata": contents.metadata,
        "inputs": header["inputs"],
        "architecture": header["architecture"],
        "layers": layers,
    }, model


def forms_of(path: Path) -> list[FileFacts]:
    """Return what each packed leaf of a file takes in the form it has, and would take in others.

    A dictionary for each leaf: `name`, `shape`, `density`; `form` and `bytes` as in the file;
    `forms`, name of a form -> bytes (`coding.sizes`); `least`, the bytes that entropy allows.

    Raises:
      UserError: if the file cannot be read.
    """
    contents = pack.read(path)
    steps, rows, found = pack.steps(path, contents), [], pack.leaves(path, contents)
    for whole, said in contents.header["leaves"].items():
        root, _, name = whole.partition("/")
        leaf = found[root][name]
        known = steps[name].encode(jnp.asarray(leaf)) if name in steps else None
        rows.append(
            {
                "name": name,
                "shape": list(leaf.shape),
                "density": np.count_nonzero(leaf) / max(leaf.size, 1),
                "form": said["form"],
                "bytes": sum(said["bytes"]),
                "forms": coding.sizes(leaf, known),
                "least": coding.least(leaf, said["form"]),
            }
        )
    return rows


def _place(order: Sequence[str], name: str) -> int:
    return order.index(name) if name in order else len(order)


def _layers(
    contents: Contents,
    params: Mapping[str, np.ndarray],
    stats: Mapping[str, np.ndarray],
    steps: Mapping[str, Step],
) -> list[FileFacts]:
    kernels = [name.rpartition("/")[0] for name in params if name.rpartition("/")[2] == "kernel"]

    def layer_of(name: str) -> str:
        """Return the layer that a leaf belongs to: the one with a kernel, or its own folder."""
        owners = [each for each in kernels if each and name.startswith(each + "/")]
        return max(owners, key=len, default=name.rpartition("/")[0] or name)

    num_bytes: dict[str, int] = {}
    for name, array in contents.tensors.items():
        layer = layer_of(name.partition("/")[2])
        num_bytes[layer] = num_bytes.get(layer, 0) + array.nbytes
    rows = []
    for layer in dict.fromkeys(map(layer_of, [*params, *stats])):
        weights = {n: w for n, w in params.items() if w.ndim > 1 and layer_of(n) == layer}
        kernel = weights.get(f"{layer}/kernel", next(iter(weights.values()), None))
        size = sum(each.size for each in weights.values())
        row = {
            "name": layer,
            "shape": None if kernel is None else list(kernel.shape),
            "density": sum(map(np.count_nonzero, weights.values())) / size if size else None,
            "bits": max((_bits(w, steps.get(n)) for n, w in weights.items()), default=None),
            "bytes": num_bytes.get(layer, 0),
            "neurons": None,
        }
        for constant in ("decay", "threshold"):
            name = f"{layer}/neurons/{constant}"
            found = params.get(name, stats.get(name))
            row[constant] = None if found is None else found.tolist()
        rows.append(row)
    return rows


def _bits(leaf: np.ndarray, step: Step | None) -> float:
    """Return the bits of a weight: what the file says, or what its numbers need."""
    return coding.bits(leaf) if step is None else coding.mean_bits(leaf, np.asarray(step.bits))
