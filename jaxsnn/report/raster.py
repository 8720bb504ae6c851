"""The spikes of one sample, and the sample beside or above them."""

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
MAX_FRAMES = 10  # frames drawn of a recording


def plot_raster(
    spikes: Mapping[str, Any],
    path: str | Path,
    *,
    image: Any = None,
    events: Any = None,
    title: str = "",
) -> None:
    """Draw when each neuron fired for one sample, a panel for each layer.

    Args:
      spikes: layer -> `[T, *neurons]`, non-zero where a neuron fired; of a large layer 120 evenly
        spaced neurons are drawn, of those that fired as many as there are.
      path: the PNG to write.
      image: the sample, drawn beside, as `as_image` takes it; or None.
      events: the sample, a recording, drawn above: of frames `[T, H, W, C]` up to 10 of them, side
        by side; of units `[T, U]`, or anything else with time first, the same panel as of a layer.
      title: written above.
    """
    given = None if events is None else np.asarray(events)
    frames = given if given is not None and given.ndim == 4 else None
    panels = {name: (np.asarray(each), "neurons") for name, each in spikes.items()}
    if given is not None and frames is None:
        panels = {"input": (given.reshape(len(given), -1), "units"), **panels}
    drawn = [_choose(each) for each, _ in panels.values()]
    heights = [max(0.5, math.sqrt(each.shape[1]) / 8) for each in drawn]
    if frames is not None:
        heights = [0.3 + 7.0 / min(len(frames), MAX_FRAMES), *heights]
    with lend_figure(path, 7.6, 0.9 + sum(heights)) as figure:
        widths = [1.0] if image is None else [1.0, 3.2]
        parts = figure.add_gridspec(
            len(heights), len(widths), width_ratios=widths, height_ratios=heights
        )
        if frames is not None:
            _draw_strip(parts[0, :], frames)
        top, first = len(heights) - len(panels), None
        for i, (name, (each, kind)) in enumerate(panels.items()):
            first = panel = figure.add_subplot(parts[top + i, -1], sharex=first)
            _draw_layer(panel, name, kind, each, drawn[i])
            panel.tick_params(labelbottom=i == len(panels) - 1)
        panel.set_xlabel("time step")
        if image is not None:
            view = figure.add_subplot(parts[top:, 0])
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
        `[features]`, drawn as one column. Axes before the last four are frames, too.
    """
    values: np.ndarray = np.asarray(sample)
    if values.ndim < 2:
        values = values.reshape(-1, 1)
    if values.ndim >= 4:
        values = values.reshape(-1, *values.shape[-3:]).sum(0, dtype=np.float64)
    channels = values.shape[2] if values.ndim == 3 else 1
    if channels == 2:
        return _two_channels(values, float(values.max(initial=0)))
    if channels != 3:
        grey: np.ndarray = values.reshape(*values.shape[:2], channels).mean(-1)
        return grey
    if values.dtype == np.uint8:
        return values
    return np.clip(values / max(float(values.max()), 1.0), 0.0, 1.0)


def _two_channels(values: np.ndarray, top: float) -> np.ndarray:
    """Return `[H, W, 3]` in [0, 1]: each channel takes its colour's complement from white.

    Args:
      values: `[H, W, 2]`, in [0, top].
      top: the value that has its colour in full.
    """
    share = values / max(top, 1e-12)
    colours = np.asarray([[int(c[i : i + 2], 16) / 255 for i in (1, 3, 5)] for c in COLOURS[:2]])
    return np.clip(1.0 - share @ (1.0 - colours), 0.0, 1.0)


def _draw_strip(place: Any, frames: np.ndarray) -> None:
    """Draw up to `MAX_FRAMES` evenly spaced frames `[T, H, W, C]` side by side, in one scale."""
    count = min(len(frames), MAX_FRAMES)
    chosen = np.linspace(0, len(frames) - 1, count).round().astype(int)
    top = float(frames[chosen].max(initial=0)) if frames.shape[-1] == 2 else None
    views = place.subgridspec(1, count).subplots(squeeze=False)[0]
    for view, step in zip(views, chosen, strict=True):
        if top is None:
            view.imshow(as_image(frames[step]), cmap="gray")
        else:
            view.imshow(_two_channels(frames[step], top))
        view.set_title(f"step {step + 1}", color="#444444", fontsize=8)
        view.set_xticks([])
        view.set_yticks([])
        view.grid(visible=False)
        view.spines[:].set_visible(True)
    views[0].set_ylabel("input" if top is None else "OFF blue\nON red", fontsize=7)


def _draw_layer(panel: Axes, name: str, kind: str, spikes: np.ndarray, chosen: np.ndarray) -> None:
    """Draw the spikes of chosen neurons, `[T, n]`, nearly black on white."""
    extent = (0.5, len(chosen) + 0.5, chosen.shape[1], 0)
    fired = np.where(chosen.T != 0, 0.87, 0.0)
    panel.imshow(fired, "Greys", aspect="auto", vmin=0, vmax=1, extent=extent)
    panel.grid(visible=False)
    fired_at_all, total = int(np.any(spikes != 0, axis=0).sum()), spikes[0].size
    shown = "" if total == chosen.shape[1] else f"; {chosen.shape[1]} shown"
    text = f"{name}: {fired_at_all:,} of {total:,} {kind} fired{shown}"
    panel.set_title(text, color="#444444", fontsize=8)
    panel.set_yticks([])
    panel.locator_params(axis="x", integer=True)


def _choose(spikes: np.ndarray) -> np.ndarray:
    """Return `[T, neurons]` with at most `MAX_RASTER` neurons in their order.

    Of a layer with more, evenly spaced ones of those that fired are taken, and where they are too
    few, evenly spaced silent ones with all of them.
    """
    flat = spikes.reshape(len(spikes), -1)
    if flat.shape[1] <= MAX_RASTER:
        return flat
    fired = np.any(flat != 0, axis=0)
    firing, silent = np.flatnonzero(fired), np.flatnonzero(~fired)
    firing = _spaced(firing, MAX_RASTER)
    chosen = np.sort(np.concatenate([firing, _spaced(silent, MAX_RASTER - len(firing))]))
    return flat[:, chosen]


def _spaced(indices: np.ndarray, most: int) -> np.ndarray:
    """Return at most so many of the indices, evenly spaced."""
    count = min(len(indices), most)
    chosen: np.ndarray = indices[np.linspace(0, len(indices) - 1, count).round().astype(int)]
    return chosen
