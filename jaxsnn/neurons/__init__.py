"""Spiking neurons: constants and one pure step each, and their unrolling over the whole time axis.

| neuron        | what is its own                                                            |
|---------------|----------------------------------------------------------------------------|
| `LIF`         | a leaking potential and its reset; decay 1 is IF                            |
| `PLIF`        | a leak that is trained: SpikingJelly `ParametricLIFNode`                     |
| `SynapticLIF` | a synaptic current that decays: snnTorch `Synaptic`, Norse and NIR `CubaLIF` |
| `AdaptiveLIF` | a threshold that each spike raises: LSNN, Norse `LSNN`, sinabs `ALIF`        |

One of your own derives from `Neuron`, and works wherever these do. In shapes, `T` is time, `B` the
batch, `...` the neurons.
"""

from jaxsnn.neurons.adaptive import AdaptiveLIF
from jaxsnn.neurons.lif import LIF, lif_step
from jaxsnn.neurons.neuron import Membrane, Neuron
from jaxsnn.neurons.over_time import unroll
from jaxsnn.neurons.parametric import PLIF
from jaxsnn.neurons.synaptic import SynapticLIF

__all__ = [
    "LIF",
    "PLIF",
    "AdaptiveLIF",
    "Membrane",
    "Neuron",
    "SynapticLIF",
    "lif_step",
    "unroll",
]
