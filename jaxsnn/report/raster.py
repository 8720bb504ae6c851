"""The spikes of one sample, and the sample beside them."""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from jaxsnn.report.figures import COLOURS, lend_figure

if TYPE_CHECKING:
    from matplotlib.axes import Axes

__all__ = ["as_image", "plot_raster"]

MAX_RASTER = 120  # neurons drawn of one layer


def plot_raster(
    spikes: Mapping[str, Any], path: str | Path, *, image: Any = None, title: str = ""
) -> None:
    """Draw when each neuron fired for one sample, a panel for each layer.

    Args:
      spikes: layer -> `[T, *neurons]`, non-zero where a neuron fired; of a large layer 120 evenly
        spaced neurons are drawn, all of them firing ones if there are as many.
      path: the PNG to write.
      image: the sample, drawn beside, as `as_image` takes it; or None.
      title: written above.
    """
    drawn = {name: _choose(np.asarray(each)) for name, each in spikes.items()}
    heights = [max(0.5, math.sqrt(each.shape[1]) / 8) for each in drawn.values()]
    with lend_figure(path, 7.6, 0.9 + sum(heights)) as figure:
        parts = figure.add_gridspec(len(drawn), 2, width_ratios=[1, 3.2], height_ratios=heights)
        first = None
        for i, (name, each) in enumerate(drawn.items()):
            first = panel = figure.add_subplot(parts[i, 1], sharex=first)
            _draw_layer(panel, name, np.asarray(spikes[name]), each)
            panel.tick_params(labelbottom=i == len(drawn) - 1)
        panel.set_xlabel("time step")
        if image is not None:
            view = figure.add_subplot(parts[:, 0])
            view.imshow(as_image(image), cmap="gray")
            view.set_axis_off()
            view.set_anchor("N")
        figure.suptitle(title, x=0.01, ha="left", fontsize=10)


def as_image(sample: Any) -> np.ndarray:
    """Return a sample as a picture, `[H, W]` in grey or `[H, W, 3]` in colour.

    Frames of events are added up. Two channels, the events that became brighter and those that
    became darker, are blue and red on white; of other channels, one is grey, three are colours, and
    of any other number the mean is grey.

    >>> as_image(np.ones((5, 8, 8, 2), np.uint8)).shape
    (8, 8, 3)

    Args:
      sample: `[H, W]`, `[H, W, C]` or frames `[T, H, W, C]`, in [0, 1] or uint8 or counts; or
        `[features]`, drawn as one column.
    """
    values: np.ndarray = np.asarray(sample)
    if values.ndim == 1:
        values = values.reshape(-1, 1)
    if values.ndim == 4:
        values = values.sum(0, dtype=np.float64)
    channels = values.shape[2] if values.ndim == 3 else 1
    if channels == 2:
        return _two_channels(values)
    if channels != 3:
        grey: np.ndarray = values.reshape(*values.shape[:2], channels).mean(-1)
        return grey
    if values.dtype == np.uint8:
        return values
    return np.clip(values / max(float(values.max()), 1.0), 0.0, 1.0)


def _two_channels(values: np.ndarray) -> np.ndarray:
    """Return `[H, W, 3]` in [0, 1]: each channel takes its colour's complement from white."""
    share = values / max(float(values.max()), 1e-12)
    colours = np.asarray([[int(c[i : i + 2], 16) / 255 for i in (1, 3, 5)] for c in COLOURS[:2]])
    return np.clip(1.0 - share @ (1.0 - colours), 0.0, 1.0)


def _draw_layer(panel: Axes, name: str, spikes: np.ndarray, chosen: np.ndarray) -> None:
    """Draw the spikes of chosen neurons, `[T, n]`, nearly black on white."""
    extent = (0.5, len(chosen) + 0.5, chosen.shape[1], 0)
    fired = np.where(chosen.T != 0, 0.87, 0.0)
    panel.imshow(fired, "Greys", aspect="auto", vmin=0, vmax=1, extent=extent)
    panel.grid(visible=False)
    fired_at_all, total = int(np.any(spikes != 0, axis=0).sum()), spikes[0].size
    shown = "" if total == chosen.shape[1] else f"; {chosen.shape[1]} shown"
    text = f"{name}: {fired_at_all:,} of {total:,} neurons fired{shown}"
    panel.set_title(text, color="#444444", fontsize=8)
    panel.set_yticks([])
    panel.locator_params(axis="x", integer=True)


def _choose(spikes: np.ndarray) -> np.ndarray:
    """Return `[T, neurons]` with at most `MAX_RASTER` neurons, evenly spaced.

    Of a layer with more, those are taken that fired, if they are enough to fill the picture.
    """
    flat = spikes.reshape(len(spikes), -1)
    if flat.shape[1] > MAX_RASTER:
        firing = flat[:, np.any(flat != 0, axis=0)]
        flat = firing if firing.shape[1] >= MAX_RASTER else flat
    size = flat.shape[1]
    return flat[:, np.linspace(0, size - 1, min(size, MAX_RASTER)).round().astype(int)]
