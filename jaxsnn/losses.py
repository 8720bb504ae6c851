"""Losses: of the read-out against the labels or a teacher, and of the spikes that it took.

Read-outs are `[T, B, classes]`; the score of a class is its mean over time (the firing rate, or the
accumulated potential divided by T). Labels are integers `[B]`.
"""

from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from typing import Literal

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax import Array

from jaxsnn.arrays import Number, check_range
from jaxsnn.errors import UserError
from jaxsnn.layers import Activity

__all__ = [
    "cross_entropy",
    "distillation",
    "mean_squared_error",
    "rate",
    "spike_count",
    "summed_cross_entropy",
]

# Attention maps of smaller norm are divided by this: silence stays zero and has a slope.
SMALLEST_NORM = 1e-6


def rate(readout: Array) -> Array:
    """Return the scores of the classes, the mean over time, `[B, classes]`.

    >>> rate(jnp.asarray([[[1.0, 0.0]], [[0.0, 0.0]]])).tolist()
    [[0.5, 0.0]]

    Raises:
      UserError: unless the read-out is `[T, B, classes]`.
    """
    if jnp.ndim(readout) != 3:
        raise UserError(
            f"readout must be [T, B, classes], found the shape {jnp.shape(readout)}: scores that "
            "are means over time already are readout[None]"
        )
    return readout.mean(0)


def check_labels(labels: Array | np.ndarray, batch: int, what: str = "labels") -> None:
    """Raise unless the labels are whole numbers, one for each sample.

    Args:
      labels: `[B]`, may be traced.
      batch: B.
      what: how the labels are called, for the message.

    Raises:
      UserError: for another shape, one-hot vectors among them, or numbers with fractions.
    """
    shape, dtype = jnp.shape(labels), jnp.result_type(labels)
    if shape != (batch,):
        hint = ": of one-hot labels take labels.argmax(-1)" if len(shape) == 2 else ""
        raise UserError(
            f"{what} must be whole numbers [{batch}], one a sample, found the shape {shape}{hint}"
        )
    if not jnp.issubdtype(dtype, jnp.integer):
        raise UserError(f"{what} must be whole numbers, found {dtype}")


def _check(readout: Array, labels: Array) -> None:
    """Raise unless the read-out is `[T, B, classes]` and the labels are whole numbers `[B]`."""
    rate(readout)
    check_labels(labels, readout.shape[1])


def mean_squared_error(readout: Array, labels: Array) -> Array:
    """Return `mean (rate - onehot)^2` over batch and classes (Wu et al., STBP, 2018).

    >>> readout = jnp.asarray([[[1.0, 0.0]], [[0.0, 0.0]]])  # the scores are 0.5 and 0
    >>> float(mean_squared_error(readout, jnp.asarray([0])))
    0.125

    Args:
      readout: `[T, B, classes]`.
      labels: whole numbers `[B]`.

    Raises:
      UserError: for other shapes or types.
    """
    _check(readout, labels)
    scores = rate(readout)
    target = jax.nn.one_hot(labels, scores.shape[-1], dtype=scores.dtype)
    return jnp.mean(jnp.square(scores - target))


def cross_entropy(readout: Array, labels: Array) -> Array:
    """Return the softmax cross-entropy of the scores, its mean over the batch.

    >>> readout = jnp.asarray([[[1.0, 0.0]]] * 4)
    >>> round(float(cross_entropy(readout, jnp.asarray([0]))), 3)  # log(1 + exp(-1))
    0.313

    Args:
      readout: `[T, B, classes]`.
      labels: whole numbers `[B]`.

    Raises:
      UserError: for other shapes or types.
    """
    _check(readout, labels)
    loss: Array = optax.softmax_cross_entropy_with_integer_labels(rate(readout), labels).mean()
    return loss


def summed_cross_entropy(readout: Array, labels: Array) -> Array:
    """Return the softmax cross-entropy of the read-out's sum over time.

    Its mean over the batch. The loss of Rathi et al. 2020 for converted networks, whose scores a
    step are small.

    >>> readout = jnp.asarray([[[1.0, 0.0]]] * 4)
    >>> round(float(summed_cross_entropy(readout, jnp.asarray([0]))), 3)  # log(1 + exp(-4))
    0.018

    Args:
      readout: `[T, B, classes]`.
      labels: whole numbers `[B]`.

    Raises:
      UserError: for other shapes or types.
    """
    _check(readout, labels)
    loss: Array = optax.softmax_cross_entropy_with_integer_labels(readout.sum(0), labels).mean()
    return loss


@dataclass(frozen=True)
class Smoothed:
    """Softmax cross-entropy of the scores against labels that are not quite sure.

        t_k = 1 - s + s / K  of the class itself        t_k = s / K  of the other K - 1

    Two of one smoothing are equal, so that tasks with them share compiled programs.

    >>> readout, labels = jnp.asarray([[[1.0, 0.0]]] * 4), jnp.asarray([0])
    >>> round(float(Smoothed(0.2)(readout, labels)), 3)  # log(1 + exp(-1)) + 0.1
    0.413

    Attributes:
      smoothing: `s`, in [0, 1); with 0 it is `cross_entropy`.

    References: Szegedy et al. 2016, https://arxiv.org/abs/1512.00567, section 7.
    """

    smoothing: float

    def __post_init__(self) -> None:
        check_range("smoothing", self.smoothing, 0.0, 1.0, open_high=True)

    def __call__(self, readout: Array, labels: Array) -> Array:
        """Return the mean over the batch, `[]`, for `[T, B, classes]` and whole numbers `[B]`."""
        _check(readout, labels)
        scores = rate(readout)
        target = jax.nn.one_hot(labels, scores.shape[-1], dtype=scores.dtype)
        target = optax.smooth_labels(target, self.smoothing)
        loss: Array = optax.softmax_cross_entropy(scores, target).mean()
        return loss


READOUT = {"mse": mean_squared_error, "ce": cross_entropy, "ce_sum": summed_cross_entropy}


def readout_loss(name: str) -> Callable[[Array, Array], Array]:
    """Return the read-out loss of that name, "mse", "ce" or "ce_sum".

    >>> readout_loss("ce") is cross_entropy
    True

    Raises:
      UserError: for another name.
    """
    if name not in READOUT:
        raise UserError(f"loss {name!r} is unknown; choose one of {', '.join(READOUT)}")
    return READOUT[name]


def spike_count(activity: Activity, *, exclude: Collection[str] = ()) -> Array:
    """Return the mean firing rate, spikes per neuron and step: a regularizer.

        R = 1 / (B T sum_l N_l) * sum over batch, time, layers and neurons of o

    Input spikes are data, not activity, and do not count. Deng et al., 1911.00822; the paper's
    normalisation is not public, this one is ours.

    >>> activity = Activity(spikes={"conv1": jnp.asarray([[3.0, 1.0]])}, timesteps=4)
    >>> float(spike_count(activity))
    0.5

    Args:
      activity: what the network did.
      exclude: layers that are free to fire, such as the output, whose target is a spike.

    Returns:
      A scalar in [0, 1]; its gradient is the spikes' surrogate.

    Raises:
      UserError: if no spiking layer is left.
    """
    layers = [spikes for name, spikes in activity.spikes.items() if name not in exclude]
    if not layers:
        raise UserError(f"no spiking layer is left after excluding {sorted(exclude)}")
    total = jnp.stack([spikes.sum() for spikes in layers]).sum()
    return total / (float(sum(spikes.size for spikes in layers)) * activity.steps)


def attention_map(activation: Array) -> Array:
    """Return where a stage looks: its energy over the channels, of norm 1 for each sample.

        Q = vec(sum_c |A_c|^2)        map = Q / max(||Q||_2, 1e-6)

    The map of a silent sample is zero, and so is its gradient.

    Args:
      activation: output of a stage, `[B, H, W, C]`: after the ReLU, or spikes summed over time.

    Returns:
      `[B, H * W]`, >= 0. A factor on a sample, and so a mean over channels or time, cancels.

    Raises:
      UserError: if the activation has no positions, as that of a dense layer.

    References: Zagoruyko and Komodakis 2017, https://arxiv.org/abs/1612.03928, section 3.1, p = 2.
    """
    if activation.ndim != 4:
        raise UserError(
            f"an attention map needs an activation [B, H, W, C], found the shape {activation.shape}"
        )
    energy = jnp.sum(jnp.square(activation.astype(jnp.float32)), axis=-1)
    energy = energy.reshape(energy.shape[0], -1)
    norm: Array = optax.safe_norm(energy, SMALLEST_NORM, axis=-1, keepdims=True)
    return energy / norm


def attention_distance(
    maps: Array, teacher_maps: Array, distance: Literal["mse", "l2"] = "mse"
) -> Array:
    """Return how far two attention maps are apart.

        mse = mean over batch and positions of (a - b)^2        l2 = mean over batch of ||a - b||_2

    The paper on attention transfer prints the second, its code has the first. The slope of the
    second at `a = b` is 0 here.

    Args:
      maps: of `attention_map`, `[B, N]`.
      teacher_maps: `[B, N]`.
      distance: "mse" or "l2".
    """
    if distance not in ("mse", "l2"):
        raise UserError(f"distance must be 'mse' or 'l2', found {distance!r}")
    gap = maps - teacher_maps
    return jnp.mean(jnp.square(gap) if distance == "mse" else optax.safe_norm(gap, 0.0, axis=-1))


def attention_transfer(
    stages: Mapping[str, Array],
    teacher_stages: Mapping[str, Array],
    distance: Literal["mse", "l2"] = "mse",
) -> Array:
    """Return the distances of the attention maps, summed over the student's stages.

    Args:
      stages: name -> activation `[B, H, W, C]`; which to compare, usually the ends of stages.
      teacher_stages: those of the teacher, and maybe more; its channels may differ.
      distance: "mse" or "l2".

    Raises:
      UserError: if there is no stage, or the teacher lacks one or has another batch or size there;
        the message names the stage.
    """
    if not stages:
        raise UserError("attention transfer needs at least one stage")
    distances = []
    for name, activation in stages.items():
        if name not in teacher_stages:
            known = ", ".join(teacher_stages) or "none"
            raise UserError(f"the teacher has no stage {name!r}; its stages are: {known}")
        teacher = jax.lax.stop_gradient(teacher_stages[name])
        if activation.shape[:-1] != teacher.shape[:-1]:
            raise UserError(
                f"stage {name!r} has the shape {activation.shape}, that of the teacher "
                f"{teacher.shape}; batch, height and width must agree"
            )
        maps = attention_map(activation), attention_map(teacher)
        distances.append(attention_distance(*maps, distance))
    return jnp.stack(distances).sum()


def distillation(readout: Array, teacher_readout: Array, temperature: Number = 4.0) -> Array:
    """Return how far the scores are from a teacher's, mean over the batch.

        rho^2 KL(softmax(z_u / rho) || softmax(z_c / rho))

    With the factor the gradient keeps its size whatever the temperature.

    >>> teacher = jnp.asarray([[[1.0, 0.0]]])
    >>> round(float(distillation(jnp.zeros((4, 1, 2)), teacher, temperature=1.0)), 3)
    0.111

    Args:
      readout: of the student, whose scores are `z_c`, `[T, B, classes]`.
      teacher_readout: of the teacher, `z_u`, `[T', B, classes]`; a constant.
      temperature: `rho`, greater than 0, may be traced.

    Raises:
      UserError: if the temperature is out of range or the scores have different shapes.

    References: Hinton et al. 2015, https://arxiv.org/abs/1503.02531, section 2.
    """
    check_range("temperature", temperature, 0, float("inf"), open_low=True, open_high=True)
    scores, target = rate(readout), jax.lax.stop_gradient(rate(teacher_readout))
    if scores.shape != target.shape:
        raise UserError(
            f"the read-out has the scores {scores.shape}, that of the teacher {target.shape}"
        )
    divergence: Array = optax.losses.kl_divergence_with_log_targets(
        jax.nn.log_softmax(scores / temperature), jax.nn.log_softmax(target / temperature)
    )
    return jnp.square(temperature) * divergence.mean()


def attention_guided(
    readout: Array,
    labels: Array,
    teacher_readout: Array | None = None,
    stages: Mapping[str, Array] | None = None,
    teacher_stages: Mapping[str, Array] | None = None,
    *,
    alpha: Number | None = 0.9,
    temperature: Number = 4.0,
    beta: Number | None = 2000.0,
    distance: Literal["mse", "l2"] = "mse",
) -> Array:
    """Return the loss under which a compressed network follows its uncompressed teacher.

        L = (1 - alpha) CE + alpha rho^2 KL + (beta / 2) sum over stages of D

    with `cross_entropy`, `distillation` and `attention_transfer`. The published weights are not
    public; the defaults are those of attention transfer's code, whose 1000 is `beta / 2`.

    Args:
      readout: of the student, `[T, B, classes]`.
      labels: integers `[B]`.
      teacher_readout: `[T', B, classes]` of the same batch, in evaluation mode; a constant.
      stages: name -> activation `[B, H, W, C]` of the student.
      teacher_stages: name -> activation of the teacher; constants.
      alpha: in [0, 1], may be traced; None leaves distillation out, and 1 cross-entropy.
      temperature: `rho`, greater than 0, may be traced.
      beta: at least 0, may be traced; None leaves attention out.
      distance: "mse" or "l2".

    Raises:
      UserError: if a term lacks what it needs, a number is out of range, or a stage of the teacher
        does not match (named).

    References: Kundu et al. 2021, Spike-Thrift, WACV, pp. 3953-3962 (attention maps of a
    meta-model; this form is ours); Zagoruyko and Komodakis 2017, https://arxiv.org/abs/1612.03928.
    """
    loss = cross_entropy(readout, labels)
    if alpha is not None:
        check_range("alpha", alpha, 0, 1)
        if teacher_readout is None:
            raise UserError("distillation needs teacher_readout; alpha=None leaves it out")
        loss = (1 - alpha) * loss + alpha * distillation(readout, teacher_readout, temperature)
    if beta is not None:
        check_range("beta", beta, 0, float("inf"), open_high=True)
        if stages is None or teacher_stages is None:
            raise UserError("attention needs stages and teacher_stages; beta=None leaves it out")
        loss = loss + beta / 2 * attention_transfer(stages, teacher_stages, distance)
    return loss
