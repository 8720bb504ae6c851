"""A recurrent network for spoken words in spikes: SHD and SSC."""

from collections.abc import Sequence
from typing import Any

from jaxsnn.models.layout import Choice, build
from jaxsnn.network import Network
from jaxsnn.neurons import LIF
from jaxsnn.surrogate import rectangle

__all__ = ["SHD", "shd_recurrent"]

# A time constant of 15.5 steps, within the range of [1 / -ln 0.82, 1 / -ln 0.96] that Bittar and
# Garner (2022) train theirs in, at 100 steps a word; 15 / 16 is a shift and a sum in integers.
SHD = LIF(decay=0.9375, threshold=1.0, reset="soft", surrogate=rectangle(1.0))


def shd_recurrent(
    input_shape: Sequence[int] = (700,),
    neuron: Choice = SHD,
    *,
    classes: int = 20,
    hidden: Sequence[int] = (128, 128),
    width: float = 1.0,
    seed: int = 0,
    readout: str = "leaky",
    **options: Any,
) -> Network:
    """Build 700-128R-128R-20, 141,824 weights: recurrent layers, a leaky read-out.

    Each hidden neuron hears the last spikes of its whole layer. Cramer et al. have one such layer
    of 128 neurons with a synaptic filter, Bittar and Garner two or three, without it and without
    self-connections, with batch normalisation (`norm=True`). Ours have self-connections.

    Args:
      input_shape: number of units, `(U,)`; frames of cameras are flattened.
      neuron: constants of all layers.
      classes: 20 of SHD, 35 of SSC.
      hidden: neurons of each recurrent layer.
      width: factor on them.
      seed: of the start values.
      readout: as of `build`.
      **options: further ones of `build`.

    Example:
      >>> shd_recurrent().params["dense2"]["recurrent"].shape
      (128, 128)

    References: Cramer et al. 2020, https://arxiv.org/abs/1910.07407; Bittar and Garner 2022, "A
    surrogate gradient spiking baseline for speech command recognition", Frontiers in Neuroscience
    16.
    """
    layers = [f"{max(1, round(width * neurons))}R" for neurons in hidden]
    layout = "-".join([*layers, str(classes)])
    return build(layout, input_shape, neuron, seed=seed, readout=readout, **options)
