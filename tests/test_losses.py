"""Losses of read-outs and of spikes."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxsnn import losses
from jaxsnn.errors import UserError
from jaxsnn.layers import Activity

READOUT = jnp.asarray([[[1.0, 0, 0], [0, 1, 1]], [[1, 0, 1], [0, 1, 0]]])  # [T=2, B=2, 3]
LABELS = jnp.asarray([0, 2])


def test_scores_are_means_over_time():
    assert losses.rate(READOUT).tolist() == [[1, 0, 0.5], [0, 1, 0.5]]


def test_mean_squared_error_is_that_of_rates_and_onehot_targets():
    # Errors (0, 0, 0.5) and (0, 1, -0.5) over 6 numbers.
    assert float(losses.mean_squared_error(READOUT, LABELS)) == pytest.approx(1.5 / 6)


def test_cross_entropy_is_that_of_the_softmax_of_rates():
    scores = np.asarray(losses.rate(READOUT), np.float64)
    expected = np.mean(np.log(np.exp(scores).sum(1)) - scores[[0, 1], [0, 2]])
    assert float(losses.cross_entropy(READOUT, LABELS)) == pytest.approx(expected, rel=1e-6)


def test_the_summed_cross_entropy_sees_scores_t_times_as_large():
    expected = losses.cross_entropy(2 * READOUT, LABELS)
    assert losses.summed_cross_entropy(READOUT, LABELS) == pytest.approx(float(expected), rel=1e-6)


def test_smoothed_labels_are_shared_with_all_classes():
    draw = np.random.default_rng(3)
    readout, labels = draw.normal(size=(4, 5, 3)), np.asarray([0, 2, 1, 1, 0])
    scores = readout.mean(0)
    chances = np.exp(scores) / np.exp(scores).sum(1, keepdims=True)
    target = np.full((5, 3), 0.3 / 3)
    target[np.arange(5), labels] += 0.7
    expected = -(target * np.log(chances)).sum(1).mean()
    found = losses.Smoothed(0.3)(jnp.asarray(readout), jnp.asarray(labels))
    assert found == pytest.approx(expected, rel=1e-5)
    plain = losses.cross_entropy(jnp.asarray(readout), jnp.asarray(labels))
    assert losses.Smoothed(0.0)(jnp.asarray(readout), jnp.asarray(labels)) == pytest.approx(plain)
    assert losses.Smoothed(0.3) == losses.Smoothed(0.3) != losses.Smoothed(0.2)
    with pytest.raises(UserError, match=r"smoothing must be in \[0, 1\), found 1"):
        losses.Smoothed(1.0)


def test_losses_by_name():
    assert losses.readout_loss("mse") is losses.mean_squared_error
    assert losses.readout_loss("ce") is losses.cross_entropy
    assert losses.readout_loss("ce_sum") is losses.summed_cross_entropy
    with pytest.raises(UserError, match="loss 'hinge' is unknown; choose one of mse, ce"):
        losses.readout_loss("hinge")


@pytest.mark.parametrize("name", losses.READOUT)
@pytest.mark.parametrize(
    ("readout", "labels", "message"),
    [
        (READOUT[0], LABELS, r"readout must be \[T, B, classes\], found the shape \(2, 3\)"),
        (READOUT[:, :1], LABELS, r"labels must be whole numbers \[1\], .*found the shape \(2,\)"),
        (READOUT, jnp.eye(3)[LABELS], r"found the shape \(2, 3\): of one-hot labels take lab"),
        (READOUT, LABELS.astype(float), "labels must be whole numbers, found float32"),
    ],
)
def test_shapes_are_checked_at_the_door(name, readout, labels, message):
    with pytest.raises(UserError, match=message):
        losses.readout_loss(name)(readout, labels)
    with pytest.raises(UserError, match=message):
        jax.jit(losses.readout_loss(name))(readout, labels)


def activity(spikes, timesteps=4):
    return Activity(spikes, timesteps=timesteps)


def test_activity_trace_all_ones():
    """All-ones spikes give R = 1, and dR/do = 1/(B T N) for each of them."""
    timesteps, batch = 5, 2
    spikes = {
        "conv1": jnp.ones((timesteps, batch, 3, 4)),
        "dense1": jnp.ones((timesteps, batch, 8)),
    }

    def regularizer(spikes):
        return losses.spike_count(activity({k: v.sum(0) for k, v in spikes.items()}, timesteps))

    value, gradients = jax.value_and_grad(regularizer)(spikes)
    assert float(value) == 1.0
    for gradient in gradients.values():
        np.testing.assert_allclose(gradient, 1 / (batch * timesteps * 20), rtol=1e-6)


def test_excluded_layers_are_free_to_fire():
    spikes = activity({"dense1": jnp.full((2, 3), 1.0), "dense2": jnp.full((2, 5), 4.0)})
    assert float(losses.spike_count(spikes)) == pytest.approx((6 + 40) / (4 * 16))
    assert float(losses.spike_count(spikes, exclude=("dense2",))) == pytest.approx(0.25)
    with pytest.raises(UserError, match=r"after excluding \['dense1', 'dense2'\]"):
        losses.spike_count(spikes, exclude=("dense1", "dense2"))


def test_silence_costs_nothing():
    assert float(losses.spike_count(activity({"dense1": jnp.zeros((2, 3))}))) == 0.0


# ---- attention and distillation ----

# One sample, [C, H, W] -> [B, H, W, C].
A = jnp.asarray([[[1.0, 0], [0, 2]], [[1, 0], [0, 0]]]).transpose(1, 2, 0)[None]
B = jnp.asarray([[[1.0, 1], [1, 1]], [[0, 0], [0, 0]]]).transpose(1, 2, 0)[None]


def test_an_attention_map_is_the_energy_of_each_position():
    expected = [[0.44721, 0, 0, 0.89443]]  # Q = (2, 0, 0, 4)
    np.testing.assert_allclose(losses.attention_map(A), expected, atol=1e-5)
    np.testing.assert_allclose(losses.attention_map(B), [[0.5] * 4], rtol=1e-6)


def test_an_attention_map_does_not_know_the_scale_of_its_stage():
    both = jnp.concatenate([A, B])
    scaled = both * jnp.asarray([7.0, 0.01]).reshape(2, 1, 1, 1)
    np.testing.assert_allclose(losses.attention_map(scaled), losses.attention_map(both), rtol=1e-6)


def test_distances_of_attention_maps():
    maps = losses.attention_map(A), losses.attention_map(B)
    assert float(losses.attention_distance(*maps, "l2")) == pytest.approx(0.811393, abs=1e-6)
    assert float(losses.attention_distance(*maps, "mse")) == pytest.approx(0.164590, abs=1e-6)
    for distance in ("l2", "mse"):
        assert float(losses.attention_distance(maps[0], maps[0], distance)) == 0.0


SLOPE = jax.jit(jax.value_and_grad(losses.attention_transfer), static_argnums=2)


@pytest.mark.long
@pytest.mark.parametrize("distance", ["l2", "mse"])
@pytest.mark.parametrize("silent", ["student", "teacher", "both", "neither"])
def test_attention_has_finite_gradients_where_maps_vanish_or_agree(distance, silent):
    student = {"conv1": A * (silent not in ("student", "both"))}
    teacher = {"conv1": A * (silent not in ("teacher", "both"))}
    value, gradient = SLOPE(student, teacher, distance)
    assert jnp.all(jnp.isfinite(gradient["conv1"]))
    expected = 0 if silent in ("both", "neither") else {"l2": 1, "mse": 0.25}[distance]
    assert float(value) == pytest.approx(expected, rel=1e-6)
    if silent != "teacher":
        assert not jnp.any(gradient["conv1"])


@pytest.mark.long
@pytest.mark.parametrize("distance", ["l2", "mse"])
def test_the_gradient_of_attention_is_the_slope(distance):
    direction = jnp.asarray(np.random.default_rng(0).normal(size=A.shape), jnp.float32)

    def along(step):
        return losses.attention_transfer({"s": A + step * direction}, {"s": B}, distance)

    slope = (float(along(0.01)) - float(along(-0.01))) / 0.02
    assert float(jax.grad(along)(0.0)) == pytest.approx(slope, rel=2e-3)
    of_teacher = jax.grad(losses.attention_transfer, argnums=1)({"s": A}, {"s": B}, distance)
    assert not jnp.any(of_teacher["s"])


def test_distillation_is_a_divergence_at_a_temperature():
    student, teacher = jnp.zeros((1, 1, 2)), jnp.asarray([[[2.0, 0.0]]])
    at_1 = losses.distillation(student, teacher, 1.0)
    at_4 = losses.distillation(student, teacher, 4.0)
    np.testing.assert_allclose([at_1, at_4], [0.327813, 0.484798], atol=1e-6)
    assert float(losses.distillation(teacher, teacher)) == 0.0
    # Of the scores, which are means over time: a teacher may take other timesteps.
    slow = jnp.asarray([[[4.0, 0.0]], [[0.0, 0.0]]])
    assert float(losses.distillation(student, slow, 1.0)) == pytest.approx(float(at_1))


@pytest.mark.long
def test_the_gradient_of_distillation_is_the_gap_of_the_probabilities():
    student, teacher = jnp.asarray([[[1.0, 0, 2]]]), jnp.asarray([[[0.0, 3, 1]]])
    gradient = jax.grad(losses.distillation, argnums=(0, 1))(student, teacher, 2.0)
    gap = jax.nn.softmax(student / 2) - jax.nn.softmax(teacher / 2)
    np.testing.assert_allclose(gradient[0], 2 * gap, rtol=1e-5)
    assert not jnp.any(gradient[1])


@pytest.mark.long
def test_attention_guided_loss_is_the_sum_of_the_terms_that_are_on():
    teacher = READOUT[:, :, ::-1] * 3
    stages, teachers = {"conv1": A}, {"conv1": B, "conv2": B}
    ce, kl = losses.cross_entropy(READOUT, LABELS), losses.distillation(READOUT, teacher, 2.0)
    at = losses.attention_transfer(stages, teachers)

    def loss(alpha, beta, *rest):
        return float(
            losses.attention_guided(READOUT, LABELS, *rest, alpha=alpha, beta=beta, temperature=2.0)
        )

    assert loss(None, None) == float(ce)
    assert loss(0.3, None, teacher) == pytest.approx(float(0.7 * ce + 0.3 * kl), rel=1e-6)
    assert loss(None, 8.0, None, stages, teachers) == pytest.approx(float(ce + 4 * at), rel=1e-6)
    everything = float(0.7 * ce + 0.3 * kl + 4 * at)
    assert loss(0.3, 8.0, teacher, stages, teachers) == pytest.approx(everything, rel=1e-6)
    assert loss(1.0, None, teacher) == pytest.approx(float(kl), rel=1e-6)


def test_attention_adds_up_over_stages_of_unequal_channels():
    teacher = {"conv1": jnp.concatenate([B, B, B], -1), "conv2": A}
    found = losses.attention_transfer({"conv1": A, "conv2": B}, teacher)
    assert float(found) == pytest.approx(2 * 0.164590, abs=1e-6)


@pytest.mark.parametrize(
    ("arguments", "options", "message"),
    [
        ((None, {}, {}), {}, "distillation needs teacher_readout; alpha=None"),
        ((READOUT,), {}, "attention needs stages and teacher_stages; beta=None"),
        ((READOUT, {}, {}), {}, "needs at least one stage"),
        ((READOUT, {"conv2": A}, {"conv1": A}), {}, "no stage 'conv2'; its stages are: conv1"),
        (
            (READOUT, {"conv1": A}, {"conv1": A[:, :1]}),
            {},
            r"stage 'conv1' has the shape \(1, 2, 2, 2\), that of the teacher \(1, 1, 2, 2\)",
        ),
        (
            (READOUT, {"d": A[0, 0]}, {"d": A[0, 0]}),
            {},
            r"\[B, H, W, C\], found the shape \(2, 2\)",
        ),
        ((READOUT, {"a": A}, {"a": A}), {"distance": "l1"}, "'mse' or 'l2', found 'l1'"),
        ((READOUT[..., :2],), {}, r"scores \(2, 3\), that of the teacher \(2, 2\)"),
        ((READOUT,), {"alpha": 1.5}, r"alpha must be in \[0, 1\], found 1.5"),
        ((READOUT,), {"temperature": 0.0}, r"temperature must be in \(0, inf\)"),
        ((READOUT,), {"beta": -1.0}, r"beta must be in \[0, inf\)"),
    ],
)
def test_mistakes_in_the_guided_loss_are_named(arguments, options, message):
    with pytest.raises(UserError, match=message):
        losses.attention_guided(READOUT, LABELS, *arguments, **options)
