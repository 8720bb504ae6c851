"""What fires behind a layer as a node of NIR, in the numbers of one reader."""

from typing import NamedTuple

import numpy as np

from jaxsnn import layers
from jaxsnn.export.nir.dialects import Dialect
from jaxsnn.layers.neurons import Firing
from jaxsnn.neurons import LIF, Neuron, SynapticLIF

__all__ = ["Written", "written"]


class Written(NamedTuple):
    """A node of neurons or of a read-out."""

    kind: str
    numbers: dict[str, np.ndarray]  # each a scalar or [C]
    gain: np.ndarray  # by which weights and bias are to be multiplied


def written(dialect: Dialect, name: str, firing: Firing, dt: float) -> Written | None:
    """Return what to write of neurons or a read-out; None of a current.

    Args:
      dialect: of the reader.
      name: of the layer, for messages.
      firing: what stands behind its weights.
      dt: seconds a step.

    Raises:
      UserError: if the reader has no such neurons.
    """
    zero = np.zeros((), np.float32)
    if isinstance(firing, layers.Rectified):
        raise dialect.refuse(name, "rectified activations")
    if isinstance(firing, layers.Integrator):
        if firing.decay is None:
            return None
        found = dialect.constants(name, np.asarray(firing.decay[...]), dt, spiking=False)
        times = {"tau": found.tau, "v_leak": zero} if found.kind == "LI" else {}
        return Written(found.kind, times | {"r": found.r}, found.gain)
    neuron = _known(dialect, name, firing.constants())
    dialect.check_neuron(name, neuron)
    fires = {"v_threshold": dialect.threshold(name, neuron), "v_reset": zero}
    if isinstance(neuron, SynapticLIF):
        constants = dialect.synaptic_constants(name, neuron, dt)
        return Written("CubaLIF", constants | fires | {"v_leak": zero}, np.ones(()))
    found = dialect.constants(name, np.asarray(neuron.decay), dt, spiking=True)
    times = {"tau": found.tau, "v_leak": zero} if found.kind == "LIF" else {}
    return Written(found.kind, times | fires | {"r": found.r}, found.gain)


def _known(dialect: Dialect, name: str, neuron: Neuron) -> LIF | SynapticLIF:
    """Return the neuron of the node that a neuron says it is (`Neuron.nir`)."""
    lif = neuron.as_lif()
    if neuron.nir == "LIF" and isinstance(lif, LIF):
        return lif
    names = ("decay", "threshold", "synaptic_decay", "reset", "strict")
    if neuron.nir == "CubaLIF" and all(hasattr(neuron, each) for each in names):
        constants = {each: getattr(neuron, each) for each in names}
        return SynapticLIF(**constants, delayed=getattr(neuron, "delayed", False))
    raise dialect.refuse(name, f"neurons {type(neuron).__name__}, {neuron.not_lif}")
