"""The step in Norse: `SequentialState` called once per timestep, with its neuron without currents.

`LIFBoxCell` resets to zero, and multiplies its input by `1 - decay`, so that the weights are larger
by the inverse. The gradient flows through the reset; the surrogate is SuperSpike. Norse has no
recurrent neuron without currents: the feedback is written around the cell.
"""

import norse.torch as norse
import torch
from norse.torch.functional.lif_box import LIFBoxParameters
from torch import nn
from torch_step import DEVICE, feedback_of, settings_of, stack, subject

PACKAGES = ("torch", "norse")

STEP = 0.001  # seconds, Norse's default


class Recurrent(nn.Module):
    """A cell that hears its own last spikes through a linear map."""

    def __init__(self, cell, feedback):
        super().__init__()
        self.cell = cell
        self.feedback = feedback

    def forward(self, x, state=None):
        """Return (spikes, (spikes, state of the cell))."""
        inner = None
        if state is not None:
            spikes, inner = state
            x = x + self.feedback(spikes)
        spikes, inner = self.cell(x, inner)
        return spikes, (spikes, inner)


def build(problem, variant):
    """Return what `measure` times; a variant has the words of `settings_of`."""
    settings = settings_of(variant)
    spec = problem["spec"]
    kept = 1 - spec["decay"]
    parameters = LIFBoxParameters(
        tau_mem_inv=torch.tensor(kept / STEP, device=DEVICE),
        v_leak=torch.tensor(0.0, device=DEVICE),
        v_th=torch.tensor(spec["threshold"], device=DEVICE),
        v_reset=torch.tensor(0.0, device=DEVICE),
    )

    def neurons(layer):
        cell = norse.LIFBoxCell(p=parameters, dt=STEP)
        if not layer["recurrent"]:
            return cell
        return Recurrent(cell, feedback_of(layer, problem, scale=1 / kept))

    network = norse.SequentialState(*stack(problem, neurons, scale=1 / kept)).to(DEVICE)

    def rates(x):
        state, fired = None, []
        for now in x:
            spikes, state = network(now, state)
            fired.append(spikes)
        return torch.stack(fired).mean(0)

    return subject(problem, rates, network.parameters(), settings, network=network)
