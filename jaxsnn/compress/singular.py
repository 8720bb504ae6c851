"""Channel scores from activity, and the channels that they keep: singular values of spike maps.

Wei et al. 2025, "QP-SNN: Quantized and Pruned Spiking Neural Networks", ICLR 2025,
https://arxiv.org/abs/2502.05905, section 4.2 (Eq. 7, 11 to 13, 15). A channel is worth as much as
its spike maps have singular values (SVS): with the spikes `S` of a channel `f`,

    A[b, f] = (1 / T) sum_t S[t, b, :, :, f]         the mean map of a sample, `[H, W]`
    score(f) = mean_b #{i : sigma_i(A[b, f]) > tol}  its rank, mean over samples

so a silent channel scores 0, one that is equally active everywhere 1, and none more than
`min(H, W)`. The rival is the membrane score (SCA). Per layer, the lowest scores go:

    kept = the int(C (1 - r)) highest scores, ratio `r` chosen by hand

Where the sources differ:
- The paper counts above 1e-6 in its text and the authors' code above the relative tolerance of
  `matrix_rank`; in float32 rounding alone exceeds the first on large maps. Ours is the larger of
  the two.
- The paper scores the neurons' own spikes, the authors' code those behind a following pooling. Both
  are on the record (`Activity.spikes`, `Activity.pooled`); the caller chooses.
- The paper removes `ceil(C r)` channels, the code keeps `int(C (1 - r))`, which rounding can make
  one less; ours is the code's, to which the published sizes belong.

Letters in shapes: `B` samples, `H` rows, `W` columns, `C` channels, `n` batches.
"""

from collections.abc import Mapping

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from jaxsnn.arrays import Array, Number, check_range, check_whole, safe_divide
from jaxsnn.errors import UserError

__all__ = [
    "kept_channels",
    "membrane_scores",
    "score_stability",
    "singular_scores",
]

POOLED = 200_000  # operations, of which jaxlib reckons 10 H W min(H, W) for a matrix [H, W]


def singular_scores(spikes: Array, timesteps: Number, *, tolerance: Number = 1e-6) -> Array:
    """Score each channel by the rank of its spike maps: SVS (Eq. 11 to 13).

    Singular values count above `max(tolerance, max(H, W) eps sigma_1)`, `eps` that of float32. They
    are taken of the sums over time, which are whole numbers, and divided by T only then.

    >>> maps = jnp.stack([jnp.eye(3), jnp.ones((3, 3)), jnp.zeros((3, 3))], axis=-1)
    >>> singular_scores(maps[None], timesteps=4).tolist()
    [3.0, 1.0, 0.0]

    Args:
      spikes: spikes summed over time, `[B, H, W, C]`: one of `Activity.spikes` or `.pooled`.
      timesteps: number of time steps T.
      tolerance: of a singular value of the mean map, >= 0.

    Returns:
      float32 `[C]`, in [0, min(H, W)].

    Raises:
      UserError: if the spikes are no maps (a dense layer has none: its channels are single numbers
        of rank 0 or 1), or a number is out of range.
    """
    if spikes.ndim != 4:
        raise UserError(
            f"singular scores need spike maps [B, H, W, C], found the shape {spikes.shape}"
        )
    check_whole("timesteps", timesteps, 1, float("inf"))
    check_range("tolerance", tolerance, 0, float("inf"), open_high=True)
    samples, height, width, channels = spikes.shape
    maps = jnp.moveaxis(spikes, 3, 1).reshape(-1, height, width).astype(jnp.float32)
    sigma = lax.platform_dependent(maps, cpu=_in_small_batches, default=_singular) / timesteps
    rounding = max(height, width) * float(np.finfo(np.float32).eps) * sigma[:, :1]
    ranks = jnp.sum(sigma > jnp.maximum(tolerance, rounding), axis=1, dtype=jnp.float32)
    return ranks.reshape(samples, channels).mean(0)


def _singular(maps: Array) -> Array:
    """Return the singular values of each map, `[N, H, W] -> [N, min(H, W)]`, largest first."""
    return jnp.linalg.svd(maps, compute_uv=False)


def _in_small_batches(maps: Array) -> Array:
    """Return `_singular(maps)`, so few maps at a time that one thread of a CPU does them.

    jaxlib 0.10 and 0.11.0 spread a batch over a pool of threads if it has `POOLED` operations, and
    wait in the same pool for its end: two such calls, of two devices or two layers, can wait for
    each other for ever. Measured on two cores, small batches are as fast.
    """
    size = max(1, (POOLED - 1) // (10 * maps[0].size * min(maps.shape[1:])))
    found: Array = lax.map(_singular, maps, batch_size=size)
    return found


def membrane_scores(magnitude: Array, timesteps: Number) -> Array:
    """Score each channel by the size of its potentials: SCA (Eq. 7, after Li et al. 2024).

        score(f) = (1 / (B T)) sum_b sum_t ||u[t, b, :, :, f]||_1

    >>> membrane_scores(jnp.asarray([[4.0, 0.0], [8.0, 2.0]]), timesteps=2).tolist()
    [3.0, 0.5]

    Args:
      magnitude: absolute potential before reset, summed over time, `[B, ..., C]`: one of
        `Activity.magnitude`.
      timesteps: number of time steps T.

    Returns:
      `[C]`, >= 0.
    """
    check_whole("timesteps", timesteps, 1, float("inf"))
    samples, channels = magnitude.shape[0], magnitude.shape[-1]
    return magnitude.reshape(samples, -1, channels).sum(1).mean(0) / timesteps


def kept_channels(
    scores: Mapping[str, Array], ratios: Mapping[str, float]
) -> dict[str, np.ndarray]:
    """Choose the channels of each layer that stay, `int(C (1 - r))` of the highest scores.

    Among equal scores the lower index goes first. On the host: what it returns makes shapes.

    >>> kept_channels({"conv1": np.array([3, 1, 2, 0])}, {"conv1": 0.5})
    {'conv1': array([0, 2])}

    Args:
      scores: layer -> score of each channel, `[C]`.
      ratios: layer -> share of its channels to remove, in [0, 1); layers left out keep all.

    Returns:
      Layer -> indices of the kept channels, ascending, for the layers of `ratios`.

    Raises:
      UserError: if a layer has no scores, its ratio is out of range or leaves no channel, or a
        score is no finite number; the message names the layer.
    """
    kept = {}
    for layer, ratio in ratios.items():
        if layer not in scores:
            known = ", ".join(scores)
            raise UserError(f"no layer {layer!r} was scored; the scored layers are: {known}")
        check_range(f"ratio of {layer!r}", ratio, 0, 1, open_high=True)
        values = np.asarray(scores[layer])
        if values.ndim != 1:
            raise UserError(f"the scores of {layer!r} must be [C], found the shape {values.shape}")
        if not np.isfinite(values).all():
            channel = int(np.argmin(np.isfinite(values)))
            raise UserError(f"score {channel} of {layer!r} is {values[channel]}: no finite number")
        count = int(values.size * (1 - float(ratio)))
        if count == 0:
            raise UserError(
                f"ratio of {layer!r}: {ratio} of {values.size} channels leaves none; one must stay"
            )
        order = np.argsort(values, kind="stable")
        kept[layer] = np.sort(order[values.size - count :])
    return kept


def score_stability(scores: Array) -> Array:
    """Measure how alike the scores of different batches are, mean pairwise cosine (Eq. 15).

        (2 / (n (n - 1))) sum_{i < j} <s_i, s_j> / (||s_i|| ||s_j||)

    >>> round(float(score_stability(jnp.asarray([[1.0, 0.0], [0.0, 2.0], [0.0, 1.0]]))), 3)
    0.333

    Args:
      scores: of a layer, `[n, C]`, a row for each batch, n >= 2. A row of zeros is like nothing.

    Returns:
      float32 `[]`, in [0, 1] for scores that are not negative.

    Raises:
      UserError: if there are fewer than two batches.
    """
    if scores.ndim != 2 or scores.shape[0] < 2:
        raise UserError(
            f"score stability compares two batches or more, [n, C], found the shape {scores.shape}"
        )
    stability: Array = _mean_cosine(scores)
    return stability


@jax.jit
def _mean_cosine(scores: Array) -> Array:
    norms = jnp.linalg.norm(scores, axis=1, keepdims=True)
    unit = safe_divide(scores, jnp.broadcast_to(norms, scores.shape))
    cosines = jnp.matmul(unit, unit.T, precision=lax.Precision.HIGHEST)
    pairs = jnp.triu_indices(scores.shape[0], k=1)
    return cosines[pairs].mean()
