"""Write a network for lava: a folder with its numbers and the program that runs them.

network.npz     LAYER.weights LAYER.targets LAYER.sources      and LAYER.recurrent_... likewise
                LAYER.vth LAYER.bias_mantissa LAYER.bias_exponent LAYER.start
                network: a JSON text in bytes with the rest
run_lava.py     builds the processes and runs samples: python run_lava.py SAMPLES.npy
"""

import json
from importlib import resources
from pathlib import Path
from typing import Any

import numpy as np

from jaxsnn import archive
from jaxsnn.errors import UserError
from jaxsnn.export.integer import IntegerNetwork, to_integer
from jaxsnn.export.integer.verdict import refuse_rounding
from jaxsnn.export.lava.fixed_point import Connections, LavaNetwork, in_fixed_point
from jaxsnn.files import write_atomic
from jaxsnn.inputs import Inputs
from jaxsnn.network import Network

__all__ = ["to_lava"]

STATE_BITS = 24
PROGRAM = "run_lava.py"


def to_lava(
    net: Network | IntegerNetwork,
    folder: str | Path,
    inputs: Inputs,
    *,
    allow_rounding: bool = False,
) -> int:
    """Write a network in the fixed point of Loihi, with a program that runs it in lava.

    Every spike of lava's bit-accurate model is that of `export.run_integer`. The program needs
    lava-nc and numpy alone: `python FOLDER/run_lava.py SAMPLES.npy` with samples of integers,
    `[N, *shape]` of a constant input, `[N, T, *shape]` of one that changes.

    Args:
      net: a network that `export.to_integer` converts, or what it made with `state_bits=24`.
      folder: is made if it is missing; gets `network.npz` and `run_lava.py`.
      inputs: of the task.
      allow_rounding: take a network whose integers are not its own numbers.

    Returns:
      The size of both files in bytes.

    Raises:
      UserError: for a layer that has no exact form there, by its name; a network that would be
        rounded; files that cannot be written.

    Example:
      >>> import tempfile
      >>> from jaxsnn import models
      >>> from jaxsnn.neurons import LIF
      >>> net = models.build("6-3", (4,), LIF(0.5), use_bias=False)
      >>> with tempfile.TemporaryDirectory() as folder:
      ...     inputs = Inputs((4,), timesteps=4, encoding="bernoulli")
      ...     _ = to_lava(net, folder, inputs, allow_rounding=True)
      ...     sorted(path.name for path in Path(folder).iterdir())
      ['network.npz', 'run_lava.py']
    """
    if not isinstance(inputs, Inputs):
        raise UserError(f"inputs must be an Inputs, found {type(inputs).__name__}")
    integers = net
    if not isinstance(integers, IntegerNetwork):
        integers = to_integer(integers, inputs, state_bits=STATE_BITS)
        if not allow_rounding:
            refuse_rounding(integers.report)
    if inputs.timesteps != integers.timesteps:
        raise UserError(
            f"this network was made for {integers.timesteps} timesteps, inputs has "
            f"{inputs.timesteps}"
        )
    found = in_fixed_point(integers, inputs.shape)
    program = (resources.files("jaxsnn.export.lava") / PROGRAM).read_text(encoding="utf-8")
    constant = inputs.encoding == "direct"
    size = write_atomic(Path(folder, "network.npz"), archive.pack(_arrays(found, constant)))
    return size + write_atomic(Path(folder, PROGRAM), program)


def _arrays(network: LavaNetwork, constant: bool) -> dict[str, np.ndarray]:
    """Return the entries of the file."""
    arrays: dict[str, np.ndarray] = {}
    layers: list[dict[str, Any]] = []
    for number, layer in enumerate(network.layers):
        facts: dict[str, Any] = {
            name: getattr(layer, name) for name in ("name", "dv", "first", "behind", "summed")
        }
        parts = {"inward": layer.inward, "recurrent": layer.recurrent}
        for name, part in parts.items():
            facts[name] = None if part is None else _facts(part)
            if part is not None:
                arrays |= {
                    f"{number}.{name}_{field}": getattr(part, field)
                    for field in ("targets", "sources", "weights")
                }
        for name in ("vth", "bias_mantissa", "bias_exponent", "start"):
            arrays[f"{number}.{name}"] = getattr(layer, name).astype(np.int32)
        layers.append(facts)
    description = {
        "layers": layers,
        "message_bits": network.message_bits,
        "timesteps": network.timesteps,
        "constant": constant,
        "silent": network.silent,
        "classes": network.classes,
    }
    text = json.dumps(description, sort_keys=True).encode()
    return {"network": np.frombuffer(text, np.uint8), **arrays}


def _facts(part: Connections) -> dict[str, Any]:
    return {"exponent": part.exponent, "size": list(part.size)}
