"""The spikes of one sample in one or two networks, and the sample above them."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from jaxsnn.report import svg
from jaxsnn.report.svg import Panel, Ruler, tag

__all__ = ["as_image", "plot_raster"]

MAX_RASTER = 120  # neurons drawn of one layer
MAX_FRAMES = 10  # frames drawn of a recording
# Pixels have one colour in light and in dark: these are seen on both.
SPIKES = ((128, 128, 128), (52, 138, 209))  # of the baseline, of the compressed network
EVENTS = ((0x00, 0x72, 0xB2), (0xD5, 0x5E, 0x00))  # darker, brighter


def plot_raster(
    spikes: Mapping[str, Mapping[str, Any]],
    *,
    image: Any = None,
    events: Any = None,
    about: str = "",
) -> str:
    """Draw when each neuron fired for one sample, a panel for each layer and network.

    Args:
      spikes: network -> layer -> `[T, *neurons]`, non-zero where a neuron fired. Of a large layer
        120 evenly spaced neurons are drawn, the same of all networks that have as many; of those
        that fired in one of them as many as there are.
      image: the sample, drawn above, as `as_image` takes it; or None.
      events: the sample, a recording, drawn above: of frames `[T, H, W, C]` up to 10 of them, side
        by side; of units `[T, U]`, or anything else with time first, the same panel as of a layer.
      about: which sample it is, and how it was chosen.
    """
    given = None if events is None else np.asarray(events)
    parts = [f"<p>{svg.escape(about)}</p>"] if about else []
    panels = []
    if image is not None:
        parts.append(f"<div class=strip>{_image(_pixels(as_image(image)), 'the sample')}</div>")
    if given is not None and given.ndim == 4:
        parts.append(_strip(given))
    elif given is not None:
        units = given.reshape(len(given), -1)
        panels.append(_layer("input", "units", units, units[:, _chosen([units])], 0))
    found = {name: {k: np.asarray(v) for k, v in each.items()} for name, each in spikes.items()}
    for layer in dict.fromkeys(layer for each in found.values() for layer in each):
        trains = {name: each[layer] for name, each in found.items() if layer in each}
        flat = {name: each.reshape(len(each), -1) for name, each in trains.items()}
        for i, name in enumerate(found):
            if name not in flat:
                panels.append("<div></div>")  # so that columns stay those of the networks
                continue
            alike = [each for each in flat.values() if each.shape[1] == flat[name].shape[1]]
            chosen = flat[name][:, _chosen(alike)]
            title = f"{name}, {layer}" if len(found) > 1 else layer
            panels.append(_layer(title, "neurons", flat[name], chosen, i))
    return "".join(parts) + svg.figure(panels, columns=2)


def as_image(sample: Any) -> np.ndarray:
    """Return a sample as a picture, `[H, W]` in grey or `[H, W, 3]` in colour.

    Frames of events are added up. Two channels, the events that became darker and those that became
    brighter, are blue and red on white; of other channels, one is grey, three are colours, and
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
    return np.clip(1.0 - share @ (1.0 - np.asarray(EVENTS) / 255), 0.0, 1.0)


def _pixels(image: np.ndarray) -> np.ndarray:
    """Return a picture as uint8 `[H, W, 4]`; grey goes from its least to its largest value."""
    if image.ndim == 2:
        low, high = float(image.min(initial=0)), float(image.max(initial=0))
        image = np.repeat((image[..., None] - low) / max(high - low, 1e-12), 3, -1)
    if image.dtype != np.uint8:
        image = np.rint(255 * image).astype(np.uint8)
    return np.concatenate([image, np.full((*image.shape[:2], 1), 255, np.uint8)], -1)


def _image(pixels: np.ndarray, what: str, below: str = "") -> str:
    alt = svg.escape(what)
    return f'<figure><img alt="{alt}" src="{svg.png(pixels)}">{tag("figcaption", below)}</figure>'


def _strip(frames: np.ndarray) -> str:
    """Draw up to `MAX_FRAMES` evenly spaced frames `[T, H, W, C]` side by side, in one scale."""
    count = min(len(frames), MAX_FRAMES)
    chosen = np.linspace(0, len(frames) - 1, count).round().astype(int)
    top = float(frames[chosen].max(initial=0))
    shown = []
    for step in chosen:
        two = frames.shape[-1] == 2
        image = _two_channels(frames[step], top) if two else as_image(frames[step])
        shown.append(_image(_pixels(image), f"step {step + 1}", f"step {step + 1}"))
    key = "<p class=meta>Events of both polarities: OFF blue, ON red, all steps in one scale.</p>"
    polarity = key if frames.shape[-1] == 2 else ""
    return f"<div class=strip>{''.join(shown)}</div>{polarity}"


def _layer(title: str, kind: str, spikes: np.ndarray, chosen: np.ndarray, index: int) -> str:
    """Draw the spikes of chosen neurons, `[T, n]`, of all that are `[T, neurons]`."""
    steps, shown = chosen.shape
    fired, total = int(np.any(spikes != 0, axis=0).sum()), spikes.shape[1]
    more = "" if total == shown else f"; {shown} shown"
    heading = f"{title}: {fired:,} of {total:,} {kind} fired{more}"
    pixels = np.zeros((shown, steps, 4), np.uint8)
    pixels[chosen.T != 0] = (*SPIKES[min(index, 1)], 255)
    across = Ruler.counted(steps, "time step")
    height = 58 + max(24.0, 9 * math.sqrt(shown))
    panel = Panel(heading, across, Ruler(0.0, 1.0, names={}), 420.0, height)
    return panel.svg(panel.shade(across.low, across.high), panel.image(pixels), grid="")


def _chosen(trains: Sequence[np.ndarray]) -> np.ndarray:
    """Return at most `MAX_RASTER` neurons, in their order, of networks `[T, neurons]` each.

    Of a layer with more, evenly spaced ones of those that fired are taken, and where they are too
    few, evenly spaced silent ones with all of them.
    """
    neurons = trains[0].shape[1]
    if neurons <= MAX_RASTER:
        return np.arange(neurons)
    fired = np.any([np.any(each != 0, axis=0) for each in trains], axis=0)
    firing, silent = np.flatnonzero(fired), np.flatnonzero(~fired)
    firing = _spaced(firing, MAX_RASTER)
    return np.sort(np.concatenate([firing, _spaced(silent, MAX_RASTER - len(firing))]))


def _spaced(indices: np.ndarray, most: int) -> np.ndarray:
    """Return at most so many of the indices, evenly spaced."""
    count = min(len(indices), most)
    chosen: np.ndarray = indices[np.linspace(0, len(indices) - 1, count).round().astype(int)]
    return chosen
