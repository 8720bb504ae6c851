"""What the papers on converted networks measure: several draws, published energies, noise."""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from jaxsnn import draws, metrics, train, tree
from jaxsnn.data import Dataset, Split
from jaxsnn.methods.result import Trained
from jaxsnn.metrics.published import published_energy
from jaxsnn.models.variants import rescale
from jaxsnn.network import Network
from jaxsnn.train import evaluation

__all__ = [
    "accuracies",
    "energy_ratios",
    "measured",
    "noise_sweep",
    "noise_table",
    "sparse_ratios",
    "whole_numbers",
]


def accuracies(trained: Trained, split: Split, draws: int, *, first: int = 0) -> list[float]:
    """Return the accuracy for several draws of the input's spikes; one, if nothing is random.

    Args:
      trained: network and task.
      split: images and labels.
      draws: evaluations with other random spikes, at least 1.
      first: seed of the first of them that is made, for what is known of those before.
    """
    draws = draws if trained.task.inputs.encoding == "poisson" else 1
    return [
        train.evaluate(trained.task, trained.network, split, seed=seed).accuracy
        for seed in range(first, draws)
    ]


def measured(
    networks: Mapping[str, Trained], data: Dataset, draws: int, seed: int
) -> dict[str, metrics.Report]:
    """Measure networks on the test images, with published energies and several draws.

    Args:
      networks: name of a row -> network and task.
      data: with the test images.
      draws: of the input's spikes.
      seed: of the run, for the row.

    Returns:
      Name -> report; its extra facts are those of `published_energy`, `accuracy_draws` and
      `mean_accuracy`.
    """
    rows = {}
    for name, each in networks.items():
        found = train.evaluate(each.task, each.network, data.test)
        drawn = [found.accuracy, *accuracies(each, data.test, draws, first=1)]
        extra = published_energy(each.network, each.task.inputs, found)
        extra |= {"accuracy_draws": drawn, "mean_accuracy": sum(drawn) / len(drawn)}
        rows[name] = metrics.Report.of(name, each.network, found, seed=seed, extra=extra)
    return rows


def energy_ratios(row: metrics.Report, ann: metrics.Report, kind: str) -> metrics.Report:
    """Add how many times less energy than an ANN a network needs, `energy_ratio` and `..._int32`.

    Args:
      row: of the network.
      ann: of the ANN.
      kind: which energies: "published" of all weights, "sparse" of those that are not 0.
    """
    ratios = {
        f"energy_ratio{suffix}": ann.extra[f"{kind}_energy_pj{suffix}"]
        / row.extra[f"{kind}_energy_pj{suffix}"]
        for suffix in ("", "_int32")
    }
    return replace(row, extra={**row.extra, **ratios})


def sparse_ratios(rows: Mapping[str, metrics.Report], ann: str) -> dict[str, metrics.Report]:
    """Add to each row its compression, and its energy against the ANN of the same weights.

    Args:
      rows: name -> report, from `measured`; the ANN of a row "NAME ..." is "NAME ann".
      ann: name of that of all other rows.
    """
    found = {}
    for name, row in rows.items():
        own = f"{name.partition(' ')[0]} ann"
        row = energy_ratios(row, rows[own if own in rows else ann], "sparse")
        compression = None if not row.density else 1 / row.density
        found[name] = replace(row, extra={**row.extra, "compression": compression})
    return found


def whole_numbers(product: Trained, test: Split) -> dict[str, float]:
    """Rescale weights and thresholds together to whole weights, and measure the accuracy.

    Args:
      product: a network whose kernels all stand on a known grid, with its task.
      test: images and labels.

    Returns:
      The `largest` weight, how far one is `off_whole` by rounding, and the `accuracy`.
    """
    steps, flow = product.network.steps, product.network.flow(product.task.inputs)
    factors = {
        feed.layer: float(1.0 / (steps[kernel].scale * steps[kernel].unit))
        for kernel, feed in flow.feeds.items()
    }
    whole = rescale(product.network, factors)
    leaves = [np.asarray(leaf) for leaf in tree.named_leaves(whole.params).values()]
    return {
        "largest": max(float(np.abs(leaf).max()) for leaf in leaves),
        "off_whole": max(float(np.abs(leaf - np.rint(leaf)).max()) for leaf in leaves),
        "accuracy": train.evaluate(product.task, whole, test).accuracy,
    }


def noise_sweep(
    trained: Trained, split: Split, sigmas: tuple[float, ...], *, seeds: int
) -> np.ndarray:
    """Return the accuracies on images with Gaussian noise, `[seeds, sigmas]`.

        x -> x + sigma n,    n ~ Normal(0, 1) for each value

    on the normalised image, before it is encoded: random spikes of a value beyond +-1 come at every
    step. One compiled program serves all of a network's evaluations.

    Args:
      trained: network and task.
      split: test images and their labels.
      sigmas: standard deviations, >= 0.
      seeds: draws of the noise, and of the input's spikes.

    References: Chowdhury et al. 2021, https://arxiv.org/abs/2104.12528, claim 1 to 4 points more
    for pruned networks; their noise is not known, this protocol is ours.
    """
    task, std = replace(trained.task, devices=1), trained.task.inputs.std
    unit = 255.0 * np.asarray(1.0 if std is None else std, np.float32)  # of pixels
    device = jax.device_put((split.images, split.labels))
    found = np.zeros((seeds, len(sigmas)))
    for seed in range(seeds):
        noise = draws.normal(jax.random.key(seed), split.images.shape)
        for i, sigma in enumerate(sigmas):
            found[seed, i] = _accuracy(task, trained.network, device, noise, sigma * unit, seed)
    return found


@jax.jit
def _accuracy(
    task: train.Task,
    net: Network,
    split: tuple[Array, Array],
    noise: Array,
    sigma: Array,
    seed: int,
) -> Array:
    """Do what `train.evaluate` does, for pixels with noise, which are no whole numbers."""
    images, labels = split
    noisy = images.astype(jnp.float32) + jnp.broadcast_to(sigma, noise.shape) * noise
    return evaluation.evaluate_traced(task, net, (noisy, labels), seed=seed)[0][-1]


def noise_table(
    networks: Mapping[str, Trained], split: Split, sigmas: tuple[float, ...], *, seeds: int
) -> dict[str, Any]:
    """Return the accuracies of several networks on noisy images as JSON types.

    Returns:
      `sigmas`, `images`, `seeds`; `accuracy` and `deviation` over the seeds, name -> `[sigmas]`.
    """
    found = {name: noise_sweep(each, split, sigmas, seeds=seeds) for name, each in networks.items()}
    return {
        "sigmas": list(sigmas),
        "images": len(split.labels),
        "seeds": seeds,
        "accuracy": {name: each.mean(0).tolist() for name, each in found.items()},
        "deviation": {name: each.std(0).tolist() for name, each in found.items()},
    }
