"""The pictures of a run that its results.json is not enough for."""

from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any, NamedTuple

import jax
import numpy as np

from jaxsnn import layers
from jaxsnn.data import Split
from jaxsnn.methods import Result, Trained
from jaxsnn.network import Network
from jaxsnn.report import plots
from jaxsnn.report.comparisons import Picture
from jaxsnn.train import Task


def of_result(
    log: Sequence[Mapping[str, Any]],
    result: Result,
    samples: Split | None = None,
    compared: str | None = None,
) -> list[Picture]:
    """Return the pictures of a method's result.

    Args:
      log: records of all epochs.
      result: networks, the baseline first.
      samples: the test set; the spikes on its first sample are drawn.
      compared: which network is drawn beside the baseline; the last if left out.
    """
    names = list(result.networks)
    pair = {name: result.networks[name] for name in (names[0], compared or names[-1])}
    params = [each.network.params for each in pair.values()]
    found: list[Picture] = []
    if log:
        found.append(("curves", partial(plots.plot_curves, log)))
    if any(key.startswith("primal/") for record in log for key in record):
        found.append(("residuals", partial(plots.plot_residuals, log)))
    found.append(("histograms", partial(plots.plot_histograms, params[0], params[-1])))
    if samples is not None:
        found.append(("raster", partial(_raster, pair, samples)))
    return found


def _raster(networks: Mapping[str, Trained], samples: Split) -> str:
    """Draw the spikes of networks on the first sample, whatever it looks like."""
    sample, label = samples.images[0], int(samples.labels[0])
    seen = {name: watched(each, sample) for name, each in networks.items()}
    decided = ", ".join(f"{name} decides for {each.decided}" for name, each in seen.items())
    about = (
        "The sample is the first of the test set; nobody chose it. "
        f"Its class is {label}; {decided}."
    )
    is_events = list(networks.values())[0].task.inputs.encoding == "events"
    kind = "events" if is_events else "image"
    trains = {name: each.spikes for name, each in seen.items()}
    return plots.plot_raster(trains, about=about, **{kind: sample})


class Watched(NamedTuple):
    """What a network does with one sample."""

    spikes: dict[str, np.ndarray]  # layer -> [T, *neurons], the first layer first
    decided: int  # the class


def watched(trained: Trained, sample: np.ndarray) -> Watched:
    """Return the spikes of each layer on one sample, and the class that is decided for."""
    net = trained.network
    found, readout = _trains(trained.task, Network.of(layers.watch(net.module)), sample[None])
    # Sorted by name, as jit's dicts are.
    order = [*(name for name in net.order if name in found), *found]
    spikes = {name: np.asarray(found[name])[:, 0] for name in dict.fromkeys(order)}
    return Watched(spikes, int(np.asarray(readout).mean(0)[0].argmax()))


@jax.jit
def _trains(task: Task, net: Network, samples: jax.Array) -> tuple[dict[str, jax.Array], jax.Array]:
    """Return spikes and read-out; networks of the same shapes share the program."""
    output = net(task.prepare(jax.random.key(0), samples, False))
    return output.activity.trains, output.readout
