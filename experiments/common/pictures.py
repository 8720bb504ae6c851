"""The pictures of a run; one that cannot be drawn costs a line, never the report."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import jax
import numpy as np

from jaxsnn import layers
from jaxsnn.methods import Result, Trained
from jaxsnn.network import Network
from jaxsnn.report import plots

Picture = tuple[str, Callable[[Path], None]]  # name of the file without ending, what draws it


def draw(folder: Path, wanted: Iterable[Picture]) -> list[str]:
    """Draw pictures to PNG files, and return a line for each that could not be drawn."""
    failed = []
    for name, picture in wanted:
        try:
            picture(folder / f"{name}.png")
        except Exception as error:  # whatever it is: the results matter more than a picture
            reason = " ".join(str(error).split())[:200]
            failed.append(f"picture {name} was not drawn: {type(error).__name__}: {reason}")
    return failed


def of_result(
    log: Sequence[Mapping[str, Any]],
    result: Result,
    rows: Sequence[Mapping[str, Any]],
    samples: np.ndarray | None = None,
    compared: str | None = None,
) -> list[Picture]:
    """Return the pictures of a method's result.

    Args:
      log: records of all epochs.
      result: networks, the baseline first.
      rows: of results.json; those of the result are its last.
      samples: test samples; the spikes on the first are drawn.
      compared: which network is drawn beside the baseline; the last if left out.
    """
    names = list(result.networks)
    first, last = names[0], compared or names[-1]
    rows = rows[-len(names) :]
    over_time = {row["name"]: row["accuracy_over_time"] for row in rows}
    before, after = result.networks[first], result.networks[last]
    pair = [row for row in rows if row["name"] in (first, last)]
    found: list[Picture] = []
    if log:
        found.append(("curves", partial(plots.plot_curves, log)))
    if any(key.startswith("primal/") for record in log for key in record):
        found.append(("residuals", partial(plots.plot_residuals, log)))
    found += [
        ("layers", partial(plots.plot_layers, pair)),
        ("histograms", partial(plots.plot_histograms, before.network.params, after.network.params)),
        ("accuracy_over_time", partial(plots.plot_accuracy_over_time, over_time)),
    ]
    if samples is not None:
        found.append(("raster", partial(_raster, after, samples[0], last)))
    return found


def _raster(trained: Trained, sample: np.ndarray, name: str, path: Path) -> None:
    kind = "events" if trained.task.inputs.encoding == "events" else "image"
    title = f"spikes of {name} on one test sample"
    plots.plot_raster(spikes(trained, sample), path, title=title, **{kind: sample})


def spikes(trained: Trained, sample: np.ndarray) -> dict[str, np.ndarray]:
    """Return the spikes `[T, *neurons]` of each layer on one sample, first layer first."""
    net, task = trained.network, trained.task
    watched = Network.of(layers.watch(net.module))

    @jax.jit
    def trains(net: Network, sample: jax.Array) -> dict[str, jax.Array]:
        x = task.prepare(jax.random.key(0), sample[None], False)
        return net(x).activity.trains

    found = trains(watched, sample)  # sorted by name, as jit's dicts are
    order = [*(name for name in net.order if name in found), *found]
    return {name: np.asarray(found[name])[:, 0] for name in dict.fromkeys(order)}
