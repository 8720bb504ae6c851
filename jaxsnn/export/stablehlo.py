"""A network as one StableHLO program, for JAX without jaxsnn and for whatever else runs StableHLO.

The program contains the weights, the preparation of the input and the loop over time; it takes a
batch of any size and returns the scores, the read-out's mean over time:

| encoding    | takes                                             | returns                 |
|-------------|---------------------------------------------------|-------------------------|
| "direct"    | uint8 `[b, *shape]`                               | float32 `[b, classes]`  |
| "events"    | uint8 `[b, T, *shape]`                            | float32 `[b, classes]`  |
| "bernoulli" | float32 spikes `[T, b, *shape]`, the caller's own | float32 `[b, classes]`  |
| "poisson"   | the same, signed                                  | float32 `[b, classes]`  |

(a program has no source of random spikes). The file is that of `jaxsnn.export.container`; its
tensor `program` is what `jax.export` serialises, so that without jaxsnn

    jax.export.deserialize(bytearray(safetensors.numpy.load_file(path)["program"])).call(images)

runs it. JAX promises to read such a program for six months at least.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array, export

from jaxsnn import fields, foreign
from jaxsnn.errors import UserError, shown
from jaxsnn.export import container
from jaxsnn.inputs import Inputs
from jaxsnn.network import Network

__all__ = ["load_stablehlo", "save_stablehlo", "to_stablehlo"]

HEADER = {"inputs": fields.OBJECT, "platforms": fields.several(fields.TEXT)}


def to_stablehlo(
    net: Network, inputs: Inputs, platforms: Sequence[str] | None = None
) -> export.Exported:
    """Return the program of a network; call it by its `call`.

    Args:
      net: the network; its weights become constants of the program.
      inputs: how samples become its input.
      platforms: on which the program shall run, of "cpu", "cuda", "rocm", "tpu"; left out, the
        present one. Written for the present one, a convolution takes the form that is fast there.

    Raises:
      UserError: if the layers do not fit the input, or it is not known.

    Example:
      >>> from jaxsnn import models
      >>> program = to_stablehlo(models.build("6-3", (4,)), Inputs((4,), timesteps=2))
      >>> program.call(np.zeros((5, 4), np.uint8)).shape
      (5, 3)
    """
    if not isinstance(inputs, Inputs):
        raise UserError(
            f"inputs must be an Inputs, such as data.inputs(timesteps=4), found "
            f"{type(inputs).__name__}"
        )

    def program(samples: Array) -> Array:
        if inputs.encoding in ("bernoulli", "poisson"):
            x: Any = samples
        else:
            x = inputs.prepare(jax.random.key(0), samples)
        return net(x).readout.mean(0)

    (batch,) = export.symbolic_shape("b")
    if inputs.encoding in ("bernoulli", "poisson"):
        shape, dtype = (inputs.timesteps, batch, *inputs.shape), jnp.float32
    else:
        shape, dtype = (batch, *inputs.sample_shape), jnp.uint8
    return export.export(jax.jit(program), platforms=platforms)(jax.ShapeDtypeStruct(shape, dtype))


def save_stablehlo(
    path: str | Path,
    net: Network,
    inputs: Inputs,
    metadata: Mapping[str, str] | None = None,
    *,
    platforms: Sequence[str] | None = None,
) -> int:
    """Write the program of a network to a file, which appears when it is complete.

    Args:
      path: the file.
      net: as in `to_stablehlo`.
      inputs: as in `to_stablehlo`.
      metadata: strings to keep; the key `jaxsnn` is taken.
      platforms: as in `to_stablehlo`.

    Returns:
      The size of the file in bytes.

    Raises:
      UserError: as `to_stablehlo`, and if the file cannot be written.

    Example:
      >>> import tempfile
      >>> from jaxsnn import models
      >>> net, inputs = models.build("6-3", (4,)), Inputs((4,), timesteps=2)
      >>> with tempfile.TemporaryDirectory() as folder:
      ...     size = save_stablehlo(f"{folder}/program", net, inputs)
      ...     program, found = load_stablehlo(f"{folder}/program")
      >>> found == inputs
      True
    """
    program = to_stablehlo(net, inputs, platforms)
    tensors = {"program": np.frombuffer(program.serialize(), np.uint8)}
    header = {
        "inputs": inputs.to_data(),
        "platforms": list(program.platforms),
    }
    return container.write(path, "program", tensors, header, metadata)


def load_stablehlo(path: str | Path) -> tuple[export.Exported, Inputs]:
    """Read a program; nothing runs before its `call` does.

    Args:
      path: a file that `save_stablehlo` wrote.

    Returns:
      The program, and what it takes.

    Raises:
      UserError: if the file is missing, damaged, of another format, kind or version, or of a
        version of StableHLO that this JAX does not read.

    Example:
      >>> load_stablehlo("no such file")
      Traceback (most recent call last):
      ...
      jaxsnn.errors.UserError: no such file: ...
    """
    contents = container.read(path, "program", HEADER)
    if "program" not in contents.tensors:
        raise UserError(f"{path}: the tensor program is missing")
    try:
        inputs = Inputs.from_data(contents.header["inputs"])
    except UserError as error:
        raise UserError(f"{path}: {error}") from error
    written = shown(contents.header["written_by"].get("jax"))
    what = f"a program that jax {written} wrote and jax {jax.__version__} reads"
    with foreign.reading(path, what):
        program = export.deserialize(bytearray(contents.tensors["program"].tobytes()))
    return program, inputs
