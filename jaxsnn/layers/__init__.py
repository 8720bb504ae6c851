"""Flax modules over the whole time axis: time-folded synapses and scanned neurons.

A layer takes a `Signal` and a `Tape` and returns a `Signal`. Weighted layers act once on
`[T*B, ...]` (or once on `[B, ...]` for a constant input), then their neurons run over time. What
the neurons did is written on the tape. Channels last; the last axis of every weight is the output.
"""

from jaxsnn.layers.chain import Chain, Residual
from jaxsnn.layers.neurons import (
    SMALLEST_THRESHOLD,
    Constant,
    Firing,
    Integrator,
    Neurons,
    Rectified,
    watch,
)
from jaxsnn.layers.pooling import AveragePool, Dropout, Flatten, MaxPool, Vote
from jaxsnn.layers.synapses import Conv, Dense, Recurrent, Synapse
from jaxsnn.layers.tape import Activity, Tape

__all__ = [
    "SMALLEST_THRESHOLD",
    "Activity",
    "AveragePool",
    "Chain",
    "Constant",
    "Conv",
    "Dense",
    "Dropout",
    "Firing",
    "Flatten",
    "Integrator",
    "MaxPool",
    "Neurons",
    "Rectified",
    "Recurrent",
    "Residual",
    "Synapse",
    "Tape",
    "Vote",
    "watch",
]
