"""Flax modules over the whole time axis: time-folded synapses and scanned neurons.

A layer takes a `Signal` and a `Tape` and returns a `Signal`. Weighted layers act once on
`[T*B, ...]` (or once on `[B, ...]` for a constant input), then their neurons run over time. What
the neurons did is written on the tape. Channels last; the last axis of every weight is the output.
"""

from jaxsnn.layers.attention import Attention
from jaxsnn.layers.chain import Chain
from jaxsnn.layers.layer import Layer
from jaxsnn.layers.neurons import Integrator, Neurons, Rectified, watch
from jaxsnn.layers.pooling import AveragePool, Dropout, Flatten, MaxPool, Vote, mean_pixels
from jaxsnn.layers.residual import Residual
from jaxsnn.layers.synapses import Conv, Conv1d, Dense, Recurrent, Synapse
from jaxsnn.layers.tape import Activity, Tape
from jaxsnn.layers.walk import synapses

__all__ = [
    "Activity",
    "Attention",
    "AveragePool",
    "Chain",
    "Conv",
    "Conv1d",
    "Dense",
    "Dropout",
    "Flatten",
    "Integrator",
    "Layer",
    "MaxPool",
    "Neurons",
    "Rectified",
    "Recurrent",
    "Residual",
    "Synapse",
    "Tape",
    "Vote",
    "mean_pixels",
    "synapses",
    "watch",
]
