"""How wide a layer must be: the dimensions in which its potentials vary, by principal components.

Chowdhury et al. 2021, "Spatio-Temporal Pruning and Quantization for Low-latency Spiking Neural
Networks", https://arxiv.org/abs/2104.12528, after Garg et al. 2018,
https://arxiv.org/abs/1812.06224, who do so for ANNs. In a trained network, dropout off, every
position of every training image is a row and every channel a column of

    "drive"      A_l = (1/T) sum_t W_l o_{l-1}[t]     potential gathered without leak and reset
    "potential"  A_l = (1/T) sum_t u_l[t]             the potential before its reset

With `e_1 >= e_2 >= ...` the eigenvalues of the covariance of the columns, centred but not scaled,

    c_k = (e_1 + ... + e_k) / (e_1 + ... + e_C)       K_l = min{k : c_k >= threshold}

is the width that the layer gets in a new network, trained from the start. It says how many channels
are needed, not which. A pass is `drive` or `mean_potential` of each batch (`calibrate.each_batch`),
folded by `update`; its memory is a matrix `[C, C]` for each layer, whatever the number of images.

Where the sources differ:
- The paper speaks of the "average accumulated membrane potential" and prints no formula that we
  know; "drive" is ours, "potential" the other reading.
- The authors' group counts the `c_k` below the threshold, one fewer (`rule="count_below"`).
- The cut of the depth is the ANN paper's; whether the SNN paper uses it is not known.

All but the averages runs on the host, in float64: a threshold of 0.999 asks for small eigenvalues,
and the products cost little beside the network's. Shapes: `B` samples, `T` steps, `C` channels.
"""

from collections.abc import Callable, Mapping
from fractions import Fraction
from math import ceil, prod
from typing import Literal, NamedTuple

import jax
import numpy as np

from jaxsnn.arrays import Array, check_range, check_whole
from jaxsnn.errors import UserError

__all__ = [
    "Moments",
    "depth_cut",
    "drive",
    "explained",
    "finish",
    "images_needed",
    "no_moments",
    "mean_potential",
    "merge",
    "significant",
    "update",
    "widths",
]

Rule = Literal["at_least", "count_below"]

ROWS_PER_CHANNEL = 100  # the ANN paper's rule, at second hand


class Moments(NamedTuple):
    """What is kept of many rows: their number, their mean, their spread about it."""

    rows: int
    mean: np.ndarray  # float64 [C]
    scatter: np.ndarray  # float64 [C, C], sum of (row - mean) (row - mean)^T


def drive(
    synapses: Mapping[str, Callable[[Array, Array], Array]],
    kernels: Mapping[str, Array],
    events: Mapping[str, Array],
    timesteps: int,
) -> dict[str, Array]:
    """Return the mean synaptic drive of each neuron, `(1/T) sum_t W o[t] = W (sum_t o[t]) / T`.

    One linear map of the summed spikes, in place of one for each step. Biases, norms and shortcuts
    are not in it (a bias would change no covariance). Behind an average pooling over n neurons the
    record counts n events for a value of 1, which scales a whole layer and changes no width.

    Args:
      synapses: kernel name -> linear map (`Network.synapses`).
      kernels: kernel name -> weights (`tree.named_leaves(params)`).
      events: kernel name -> events at each input, summed over time, `[B, ...]`: those of
        `Activity.events` whose layers are to be measured. Signed spikes keep their sign.
      timesteps: number of time steps T.

    Returns:
      Layer -> `[B, ..., C]`.
    """
    check_whole("timesteps", timesteps, 1, float("inf"))
    with jax.default_matmul_precision("highest"):
        return {
            name.rpartition("/")[0]: synapses[name](total, kernels[name]) / timesteps
            for name, total in events.items()
        }


def mean_potential(potential: Mapping[str, Array], timesteps: int) -> dict[str, Array]:
    """Return the mean potential before reset of each neuron, `[B, ..., C]` for each layer.

    Args:
      potential: layer -> potential summed over time, `[B, ..., C]`, of `Activity.potential`.
      timesteps: number of time steps T.
    """
    check_whole("timesteps", timesteps, 1, float("inf"))
    return {layer: total / timesteps for layer, total in potential.items()}


def no_moments(channels: int) -> Moments:
    """Return the moments of no rows."""
    return Moments(0, np.zeros(channels), np.zeros((channels, channels)))


def update(
    moments: Mapping[str, Moments], values: Mapping[str, Array | np.ndarray]
) -> dict[str, Moments]:
    """Add a batch to the moments of all layers.

    Each batch is centred on its own mean and merged (`merge`), so that no digits cancel.

    Args:
      moments: layer -> moments of the batches before; layers that are not in it begin with `init`.
      values: layer -> `[..., C]`; every entry of the leading axes is a row.

    Returns:
      Layer -> moments, for the layers of both.

    Raises:
      UserError: if a value is not finite or the channels are not those of before.
    """
    found = dict(moments)
    for layer, value in values.items():
        rows = np.asarray(value, np.float64)
        rows = rows.reshape(-1, rows.shape[-1])
        if not np.isfinite(rows).all():
            raise UserError(f"the potentials of layer {layer!r} are not finite; training diverged")
        before = found.get(layer, no_moments(rows.shape[1]))
        if rows.shape[1] != before.mean.size:
            raise UserError(
                f"layer {layer!r} has {rows.shape[1]} channels, but had {before.mean.size} before"
            )
        found[layer] = merge(before, _moments(rows))
    return found


def _moments(rows: np.ndarray) -> Moments:
    """Return the moments of the rows of a matrix, float64 `[N, C]`."""
    if not len(rows):
        return no_moments(rows.shape[1])
    mean = rows.mean(0)
    centred = rows - mean.reshape(1, -1)
    return Moments(len(rows), mean, centred.T @ centred)


def merge(one: Moments, other: Moments) -> Moments:
    """Return the moments of the rows of both.

        n = n_1 + n_2      d = mean_2 - mean_1      mean = mean_1 + d n_2 / n
        scatter = scatter_1 + scatter_2 + d d^T n_1 n_2 / n

    References: Chan, Golub and LeVeque 1983, "Algorithms for computing the sample variance", The
    American Statistician 37(3), the pairwise update.
    """
    rows = one.rows + other.rows
    share = other.rows / max(rows, 1)
    apart = other.mean - one.mean
    between = np.outer(apart, apart) * (one.rows * share)
    return Moments(rows, one.mean + apart * share, one.scatter + other.scatter + between)


def finish(moments: Moments) -> np.ndarray:
    """Return the covariance of the channels, `scatter / N`, float64 `[C, C]`.

    Raises:
      UserError: if there are no rows.
    """
    if not moments.rows:
        raise UserError("a covariance needs rows: update the moments with a batch first")
    return moments.scatter / moments.rows


def explained(covariance: np.ndarray) -> np.ndarray:
    """Return the share of variance in the first k principal components, `c_k`, float64 `[C]`.

    >>> explained(np.diag([0.95, 90, 0.05, 9])).round(4).tolist()
    [0.9, 0.99, 0.9995, 1.0]

    Args:
      covariance: `[C, C]`; eigenvalues that rounding made negative count as 0.

    Raises:
      UserError: if nothing varies, so that there are no shares.
    """
    eigenvalues = np.maximum(np.linalg.eigvalsh(covariance)[::-1], 0.0)
    sums = np.cumsum(eigenvalues)
    if not sums[-1] > 0:
        raise UserError("nothing varies between the rows: all channels are constant")
    shares: np.ndarray = sums / sums[-1]
    return shares


def significant(shares: np.ndarray, threshold: float, *, rule: Rule = "at_least") -> int:
    """Return the number of significant dimensions K, at least 1.

    Args:
      shares: of variance, `c_k` of `explained`, `[C]`.
      threshold: share of the variance that the K dimensions hold, in (0, 1].
      rule: "at_least" takes the smallest `k` with `c_k >= threshold`; "count_below" the number of
        `c_k` below it, one fewer, as the authors' group.

    Raises:
      UserError: if the threshold is out of range or the rule unknown.
    """
    check_range("variance threshold", threshold, 0, 1, open_low=True)
    if rule not in ("at_least", "count_below"):
        raise UserError(f"rule {rule!r} is unknown; choose at_least or count_below")
    below = int(np.sum(shares < threshold))
    return below + 1 if rule == "at_least" else max(below, 1)


def widths(
    moments: Mapping[str, Moments],
    threshold: float = 0.999,
    *,
    rule: Rule = "at_least",
    multiple: int = 1,
    rows_per_channel: float = ROWS_PER_CHANNEL,
) -> dict[str, int]:
    """Return the width of each layer in the new network.

    Args:
      moments: layer -> moments of its potentials over the training images.
      threshold: share of the variance to keep, in (0, 1].
      rule: see `significant`.
      multiple: round up to a multiple of it, up to the layer's present width; 1 for reports.
      rows_per_channel: rows that a layer must have for each channel, >= 0; with fewer than one, K
        would be bounded by the rows.

    Returns:
      Layer -> K, in the order of `moments`.

    Raises:
      UserError: if a layer has too few rows or its channels are all constant, naming it, or an
        option is out of range.
    """
    check_whole("multiple", multiple, 1, float("inf"))
    check_range("rows_per_channel", rows_per_channel, 0, float("inf"), open_high=True)
    found = {}
    for layer, each in moments.items():
        channels = each.mean.size
        needed = max(ceil(rows_per_channel * channels), 1)
        if each.rows < needed:
            factor = ceil(10 * needed / max(each.rows, 1)) / 10
            raise UserError(
                f"layer {layer!r}: {channels} channels need {needed} rows (images x positions), "
                f"found {each.rows}: calibrate on {factor:g} times as many images, or ask for "
                f"fewer rows per channel than {rows_per_channel:g}"
            )
        try:
            shares = explained(finish(each))
        except UserError as silent:
            raise UserError(
                f"layer {layer!r}: {silent}; lower the thresholds or train longer"
            ) from None
        count = significant(shares, threshold, rule=rule)
        found[layer] = min(-(-count // multiple) * multiple, channels)
    return found


def images_needed(
    shapes: Mapping[str, tuple[int, ...]], *, rows_per_channel: float = ROWS_PER_CHANNEL
) -> int:
    """Return how many images give every layer its rows, before they are counted.

    >>> images_needed({"conv5": (4, 4, 512)}), images_needed({"conv8": (2, 2, 512)})
    (3200, 12800)

    Args:
      shapes: layer -> shape of its neurons, `(..., C)`.
      rows_per_channel: rows that a layer must have for each channel, >= 0.
    """
    check_range("rows_per_channel", rows_per_channel, 0, float("inf"), open_high=True)
    ratio = Fraction(rows_per_channel)
    return max(ceil(ratio * shape[-1] / prod(shape[:-1])) for shape in shapes.values())


def depth_cut(widths: Mapping[str, int]) -> dict[str, int]:
    """Return the layers up to the first whose width falls: what follows needs no wider space.

    >>> depth_cut({"conv1": 10, "conv2": 30, "conv3": 30, "conv4": 20, "conv5": 40})
    {'conv1': 10, 'conv2': 30, 'conv3': 30}

    Where the pooling layers of the layers that are cut go is the caller's choice.

    Args:
      widths: layer -> K, in the order of the network.

    References: Garg et al. 2018, https://arxiv.org/abs/1812.06224 (the rule of the text, as we
    know it; optional for the SNN paper's method).
    """
    kept: dict[str, int] = {}
    widest = 0
    for layer, width in widths.items():
        if width < widest:
            break
        kept[layer] = widest = width
    return kept
