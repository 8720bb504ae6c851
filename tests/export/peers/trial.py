"""What the scripts of this folder share: a quiet torch, and random spikes to feed."""

import warnings

import torch

STEPS, BATCH, INPUTS, HIDDEN, OUTPUTS = 50, 4, 12, 16, 6


def begin():
    """Make torch quiet, of one thread, and the same at each start."""
    warnings.simplefilter("ignore")
    torch.set_num_threads(1)
    torch.manual_seed(0)


def random_spikes():
    """Return spikes `[T, B, I]` that a neuron has with probability 0.3."""
    return (torch.rand(STEPS, BATCH, INPUTS) < 0.3).float()
