"""What the programs that convert ANNs share: the layout of both networks, and their problem."""

from collections.abc import Mapping
from typing import Annotated, Any, Literal

import jax.numpy as jnp

from experiments.common.problem import Problem, check_fit, layout_of, read, task_of
from jaxsnn import models, native
from jaxsnn.arrays import check_whole
from jaxsnn.options import Range, checked

__all__ = ["LayoutOptions", "load_layout"]


@checked
class LayoutOptions:
    """The layout that an ANN and a spiking network have in common."""

    network: str = "16C3-AP2-32C3-AP2-{classes}"
    """Name of a network, or a layout: 32C3 convolution, AP2 average pooling, 128 dense, D0.1
    dropout; {classes} is the number of classes of the data."""
    width: Annotated[float, Range(0, float("inf"), open_low=True, open_high=True)] = 1.0
    """Factor on the channels and hidden neurons."""
    dropout: Annotated[float, Range(0, 1, open_high=True)] = 0.2
    """Share of the inputs of a layer dropped in training, in a network with a name."""
    dtype: Literal["float32", "bfloat16", "auto"] = "float32"
    """Numbers of products, spikes and saved potentials; sums, weights and read-out stay float32.
    auto: bfloat16 where the device multiplies it, float32 elsewhere."""


def load_layout(config: Any, named: Mapping[str, models.Published]) -> Problem:
    """Read the data, build the ANN and the task of the spiking network.

    Colours are normalised to [-1, 1], a single channel stays on [0, 1].

    Args:
      config: with the groups run, data, task, network (`LayoutOptions`), engine and hybrid.
      named: the networks that have a name.
    """
    layout, chosen = config.network, config.hybrid
    found = read(config.run, config.data, timesteps=config.task.timesteps)
    check_whole("--batch-size", chosen.batch_size, 1, len(found.train.labels))
    is_coloured = found.timesteps is None and found.shape[-1] > 1
    scale = "half" if is_coloured else None
    task = task_of(config.task, config.engine, found, chosen.batch_size, scale=scale)
    words = layout_of(layout.network, found.num_classes, layout.width)
    if published := named.get(layout.network):
        words = published.words(
            found.shape, classes=found.num_classes, width=layout.width, dropout=layout.dropout
        )
    kind: dict[str, Any] = dict(models.CONVERTED) | {"activation": "relu"}
    dtype = jnp.dtype(native.choose_dtype(layout.dtype)[0])
    net = models.build(words, found.shape, seed=chosen.seed, dtype=dtype, **kind)
    check_fit(net, task, found)
    return Problem(found, net, task)
