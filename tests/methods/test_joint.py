"""The joint pipeline: every stage adds a set, and all later ones stay in it."""

from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from jaxsnn import compress as sets
from jaxsnn import data, export, layers, models, train, tree
from jaxsnn.encode import Signal
from jaxsnn.errors import UserError
from jaxsnn.methods import channels, gains, joint, pipeline
from jaxsnn.methods.result import Trainer
from jaxsnn.metrics import Comparison
from jaxsnn.models.variants import in_dtype
from jaxsnn.neurons import LIF
from jaxsnn.surrogate import triangle

SHORT = {
    f"{stage}_epochs": 1
    for stage in ("channels", "pull", "connections", "bits", "timesteps", "spikes")
}
OPTIONS = joint.Options(
    pruning="magnitude", sparsity=0.5, tolerance=1.0, timesteps_schedule=(2,), batch_size=30,
    learning_rate=0.02, calibration_batches=2, calibration_batch_size=30, **SHORT,
)  # fmt: skip
OTHER = replace(
    OPTIONS, stages=("bits", "connections", "channels"), together=("bits", "connections"),
    levels="ternary",
)  # fmt: skip


@pytest.fixture(scope="module")
def digits():
    return data.load("digits", limit=300)


@pytest.fixture(scope="module")
def task(digits):
    return train.Task(digits.inputs(timesteps=3), loss="ce")


@pytest.fixture(scope="module")
def fresh(digits):
    """Return a network with its start values."""
    neuron = LIF(0.5, 1.0, surrogate=triangle())
    options = {"norm": True, "use_bias": "readout", "readout": "current"}
    return models.build("4C3-AP4-8-10", digits.shape, neuron, **options)


@pytest.fixture(scope="module")
def dense(digits, task, fresh):
    short = {"epochs": 6, "batch_size": 30, "show": False}
    return train.fit(task, optax.adam(0.02), fresh, digits.train, **short)


@pytest.fixture(scope="module")
def result(dense, task, digits):
    """Return what all stages in the default order make of the network."""
    return joint.compress(dense, task, digits, OPTIONS)


@pytest.fixture(scope="module")
def other(dense, task, digits):
    """Return what another order makes of it, two stages trained together."""
    return joint.compress(dense, task, digits, OTHER)


def kernels(result, name):
    leaves = tree.named_leaves(result.networks[name].network.params)
    return {x: np.asarray(leaf) for x, leaf in leaves.items() if x.endswith("/kernel")}


@pytest.mark.thorough  # all stages, which the experiment runs, too
def test_stages_come_in_the_order_given_and_the_last_is_the_product(result):
    names = ["dense", "dense control", "channels", "connections", "bits", "timesteps", "compressed"]
    assert list(result.networks) == names and [row.name for row in result.report.rows] == names
    assert result.network is result.networks["compressed"].network
    assert result.report.row("dense").accuracy > 0.3


@pytest.mark.thorough  # all stages, which the experiment runs, too
def test_a_smaller_network_stays_small(result):
    assert kernels(result, "dense")["conv1/kernel"].shape == (3, 3, 1, 4)
    for name in ("channels", "connections", "bits", "timesteps", "compressed"):
        shapes = [kernel.shape for kernel in kernels(result, name).values()]
        assert shapes == [(3, 3, 1, 2), (8, 4), (4, 10)]


@pytest.mark.thorough  # all stages, which the experiment runs, too
def test_what_was_pruned_stays_zero(result):
    pruned = kernels(result, "connections")
    left = sum(np.count_nonzero(x) for x in pruned.values())
    assert left == pytest.approx((18 + 32 + 40) / 2, abs=3 / 2)  # rounded in each layer
    for name in ("bits", "timesteps", "compressed"):
        for layer, kernel in kernels(result, name).items():
            # The rescaled levels have no zero, so what is zero is what was pruned.
            np.testing.assert_array_equal(kernel == 0, pruned[layer] == 0)


@pytest.mark.thorough  # all stages, which the experiment runs, too
def test_quantized_weights_stay_on_their_grid_and_it_is_known(result):
    for name in ("bits", "timesteps", "compressed"):
        net = result.networks[name].network
        for layer, kernel in kernels(result, name).items():
            for channel in kernel.reshape(-1, kernel.shape[-1]).T:
                levels = np.unique(np.abs(channel[channel != 0]))  # of 2 bits: gamma / 3 and gamma
                assert len(levels) <= 2
                if len(levels) == 2:
                    assert levels[1] / levels[0] == pytest.approx(3, rel=1e-5)
            np.testing.assert_array_equal(net.quantized[layer].decode(), kernel)


@pytest.mark.parametrize("levels", ["rescaled", "uniform"])
def test_layers_have_bits_of_their_own_and_the_read_out_one_scale(levels, fresh, task):
    chosen = joint.Options(levels=levels, bits=2, layer_bits={"conv1": 4}, per="channel")
    seen = sets.project(fresh, pipeline.level_recipe(chosen, chosen.bits, fresh, task))
    steps = seen.steps
    assert {name: int(step.bits.max()) for name, step in steps.items()} == {
        "conv1/kernel": 4, "dense1/kernel": 2, "dense2/kernel": 2,
    }  # fmt: skip
    assert steps["dense2/kernel"].scale.size == 1 and steps["conv1/kernel"].scale.size == 4


def test_a_product_is_computed_in_float32_whatever_it_was_trained_with(fresh, task, digits):
    net = in_dtype(fresh, jnp.bfloat16)
    tidy = replace(OPTIONS, tidy=True, constant_bits=8)
    for chosen in (OPTIONS, tidy):
        there = pipeline.Pipeline(chosen, Trainer(train.fit, digits, 30, 0), (net, task))
        held = there.enter("bits", pipeline.Held(net, net, task))
        product = there.packed(held.seen)
        types = {layer.dtype.name for layer in layers.synapses(product.module).values()}
        assert types == {"float32"}
        whole = there.packed(in_dtype(held.seen, jnp.float32))
        jax.tree.map(np.testing.assert_array_equal, product.params, whole.params)
    images = jnp.asarray(digits.test.images)
    integers = export.to_integer(product, task.inputs)
    scores = export.run_integer(integers, Signal(images, 3, constant=True)).readout.sum(0)
    found = np.asarray(train.predict(task, product, digits.test.images))
    np.testing.assert_array_equal(found.argmax(-1), np.asarray(scores).argmax(-1))


def test_quantized_weights_have_a_step_size_of_their_own(fresh, task, digits, monkeypatch):
    rates = []
    monkeypatch.setattr(
        Trainer, "cosine", lambda _, rate, epochs, size=None: rates.append(rate) or 0.1
    )
    monkeypatch.setattr(Trainer, "__call__", lambda _, name, task, phase, net, epochs, **more: net)
    for rate in (None, 0.001):
        chosen = replace(OPTIONS, bits_learning_rate=rate)
        there = pipeline.Pipeline(chosen, Trainer(train.fit, digits, 30, 0), (fresh, task))
        held = there.tune("before", pipeline.Held(fresh, fresh, task), 1)
        there.tune("behind", there.enter("bits", held), 1)
    assert rates == [0.02, 0.02, 0.02, 0.001]


@pytest.mark.thorough  # trains in another order
def test_pruning_quantized_weights_keeps_both_sets(other):
    assert list(other.networks) == ["dense", "dense control", "bits and connections", "compressed"]
    for name in list(other.networks)[2:]:
        assert all(np.unique(np.abs(x)).size <= 2 for x in kernels(other, name).values())
    pruned = kernels(other, "bits and connections")
    assert sum(np.count_nonzero(x) for x in pruned.values()) <= (36 + 128 + 80) // 2
    small = kernels(other, "compressed")
    assert [x.shape for x in small.values()] == [(3, 3, 1, 2), (8, 4), (4, 10)]
    assert all(np.count_nonzero(small[x]) <= np.count_nonzero(pruned[x]) for x in small)


@pytest.mark.thorough  # all stages, which the experiment runs, too
def test_timesteps_fall_and_stay_low(result):
    assert [row.timesteps for row in result.report.rows] == [3, 3, 3, 3, 3, 2, 2]
    tried = next(x["tried"] for x in result.found["stages"] if x["stage"] == "timesteps")
    assert [each["timesteps"] for each in tried] == [3, 2] and tried[-1]["accepted"]
    assert result.task.inputs.timesteps == 2 and result.task.spike_weight == 1.0


@pytest.mark.thorough  # all stages, which the experiment runs, too
def test_rows_say_what_each_stage_cost_and_gained(result):
    dense, _, *stages = (row.to_row() for row in result.report.rows)
    rows = [dense, *stages]
    for before, row in zip(rows, rows[1:], strict=False):
        assert row["cost"]["accuracy"] == pytest.approx(before["accuracy"] - row["accuracy"])
        for measure in gains.MEASURES:
            assert row["gain"][measure] == pytest.approx(before[measure] / row[measure])
            assert row["gain_in_all"][measure] == pytest.approx(rows[0][measure] / row[measure])
    assert isinstance(result.report, Comparison)


# --- Parts of it, which train nothing -------------------------------------------------------------


def pipeline_of(digits, chosen, dense=(None, None)):
    """Return a pipeline whose phases are only begun and finished."""

    def begun_and_finished(task, phase, net, split, **options):
        del task, split, options
        params = phase.begin(net.params)
        params, steps = phase.finish(params, phase.optimizer.init(net.params))
        return net.replace(params=params, steps=steps)

    trainer = Trainer(begun_and_finished, digits, chosen.batch_size, chosen.seed)
    return pipeline.Pipeline(chosen, trainer, dense)


def test_masks_lose_the_channels_that_the_network_loses(fresh, task, digits, monkeypatch):
    scores = {"conv1": np.array([[3.0, 1, 2, 0]]), "dense1": np.arange(8.0)[None]}
    monkeypatch.setattr(channels, "scores", lambda *_, **__: scores)
    random = np.random.default_rng(0)
    left = jax.tree.map(lambda leaf: random.random(leaf.shape) < 0.5, fresh.params)
    held = pipeline.Held(fresh, fresh, task, left)
    found = pipeline_of(digits, OPTIONS).cut_channels(held)
    # 8 x 8 pixels are pooled to 2 x 2: 4 inputs of each channel, channels last.
    inputs = np.array([4 * pixel + channel for pixel in (0, 1, 2, 3) for channel in (0, 2)])
    for small, whole in ((found.masks, left), (found.free.params, fresh.params)):
        np.testing.assert_array_equal(
            small["conv1"]["kernel"], np.asarray(whole["conv1"]["kernel"])[..., [0, 2]]
        )
        np.testing.assert_array_equal(
            small["dense1"]["kernel"], np.asarray(whole["dense1"]["kernel"])[inputs][:, 4:]
        )
        np.testing.assert_array_equal(
            small["dense2"]["kernel"], np.asarray(whole["dense2"]["kernel"])[4:]
        )


@pytest.mark.parametrize(
    ("accuracies", "timesteps", "tried"),
    [((0.9, 0.895, 0.85), 2, 2), ((0.9, 0.8), 3, 1), ((0.9, 0.91, 0.9), 1, 2)],
)
def test_timesteps_fall_until_the_validation_accuracy_does(
    fresh, task, digits, monkeypatch, accuracies, timesteps, tried
):
    chosen = replace(OPTIONS, tolerance=0.01, timesteps_schedule=(2, 1))
    found = iter(accuracies)
    monkeypatch.setattr(pipeline.Pipeline, "validate", lambda *_: next(found))
    held = pipeline.Held(fresh, fresh, task)
    shorter, more = pipeline_of(digits, chosen).shorten(held)
    assert shorter.task.inputs.timesteps == timesteps
    assert [each["accuracy"] for each in more["tried"]] == list(accuracies)
    assert len(more["tried"]) == 1 + tried


def test_the_groups_keep_the_order_given():
    order = ("bits", "connections", "channels", "spikes", "timesteps")
    chosen = joint.Options(stages=order, together=("channels", "connections", "spikes"))
    assert joint.groups(chosen) == [
        ("bits",), ("connections", "channels", "spikes"), ("timesteps",)
    ]  # fmt: skip


OUT_OF_RANGE = {
    "stage": ({"stages": ("bits", "chanels")}, "stages 'chanels'"),
    "stage twice": ({"stages": ("bits", "spikes", "bits")}, "stages has 'bits' twice"),
    "no stage": ({"stages": ()}, "stages needs"),
    "together unknown": ({"stages": ("bits",), "together": ("bits", "spikes")}, "'spikes'"),
    "together alone": ({"together": ("bits",)}, "together 'bits' is alone"),
    "together apart": ({"together": ("channels", "bits")}, "next to each other"),
    "no timesteps": ({"timesteps_schedule": ()}, "timesteps_schedule needs"),
    "ratio": ({"channel_ratios": 1.0}, "channel_ratios must be in"),
    "sparsity": ({"sparsity": 1.0}, "sparsity must be in"),
    "bits": ({"bits": 9}, "bits must be in"),
    "bits of the levels": ({"levels": "pow2", "bits": 1}, "bits of levels pow2"),
    "bits of a layer": ({"layer_bits": {"conv1": 9}}, "layer_bits must be in"),
    "bits of a layer's levels": (
        {"levels": "uniform", "layer_bits": {"conv1": 1}}, "layer_bits of levels uniform"
    ),
    "bits of levels without": ({"levels": "ternary", "layer_bits": 2}, "levels ternary take none"),
    "spare": ({"spare": -0.1}, "spare must be in"),
    "bits of norms": ({"constant_bits": 8}, "constant_bits 8 counts on folded norms: ask for tidy"),
    "spike weight": ({"spike_weight": -1}, "spike_weight must be in"),
    "exit alone": ({"stages": ("exit",)}, "behind another stage"),
    "exit too early": ({"stages": ("exit", "bits")}, "exit trains nothing"),
    "learned bits first": (
        {"levels": "learned", "stages": ("bits", "connections")}, "put connections before"
    ),
    "two budgets": ({"bytes": 900, "points": 1.0}, "give one of them"),
    "budget of learned bits": ({"bytes": 900, "levels": "learned"}, "found learned"),
    "budget without bits": ({"points": 1.0, "stages": ("connections",)}, "points needs the stages"),
    "bits that are tried": (
        {"bytes": 900, "levels": "pow2", "search_bits": (1,)}, "search_bits of levels pow2"
    ),
}  # fmt: skip


@pytest.mark.parametrize("mistake", OUT_OF_RANGE)
def test_options_out_of_range_are_refused_when_they_are_made(mistake):
    options, culprit = OUT_OF_RANGE[mistake]
    with pytest.raises(UserError, match=culprit):
        joint.Options(**options)


UNFIT = {
    "rising timesteps": ({"timesteps_schedule": (5,)}, "timesteps"),
    "no such layer": ({"channel_ratios": {"conv9": 0.5}}, "conv9"),
    "ratio that empties": ({"channel_ratios": 0.8}, "conv1"),
    "sparsity that empties": ({"sparsity": 0.995}, "conv1/kernel"),
    "calibration": ({"calibration_batches": 100}, "calibration_batches"),
    "bits of no such layer": ({"layer_bits": {"conv9": 3}}, "layer_bits: .*conv9.* or give None"),
    "bytes that nobody reaches": ({"bytes": 50}, "the smallest file that was reached takes"),
}


@pytest.mark.parametrize("mistake", UNFIT)
def test_what_does_not_suit_the_network_is_refused_before_training(mistake, fresh, task, digits):
    options, culprit = UNFIT[mistake]

    def never(*_, **__):
        raise AssertionError("something was trained")

    with pytest.raises(UserError, match=culprit):
        joint.compress(fresh, task, digits, replace(OPTIONS, **options), fit=never)


def test_a_teacher_is_compared_by_its_scores_alone(fresh, task, digits):
    with pytest.raises(UserError, match="loss ce trains, found the loss 'mse'"):
        joint.check(fresh, replace(task, loss="mse"), digits, replace(OPTIONS, distill=0.5))


def test_every_phase_follows_the_dense_network_and_nothing_is_reported_with_it(fresh, task, digits):
    chosen = replace(OPTIONS, distill=0.7, temperature=2.0)
    stages = pipeline_of(digits, chosen, (fresh, task))
    seen = []

    def note(name, task, phase, net, epochs):
        seen.append((name, task.guide, task.inputs.timesteps))
        return stages.trainer.fit(task, phase, net, None)

    stages = replace(stages, trainer=Recorder(stages.trainer, note))
    held = pipeline.Held(fresh, fresh, task)
    for stage in ("connections", "bits", "spikes"):
        held, _ = stages.stage(stage, (stage,), held)
    held, _ = stages.stage("two", ("timesteps", "spikes"), held)
    assert [name for name, *_ in seen] == ["connections", "bits", "spikes", "two"]
    scores = train.predict(task, fresh, digits.train.images)
    for _, guide, _ in seen:
        np.testing.assert_allclose(guide.scores, scores, atol=1e-6)
        assert guide is seen[0][1] and guide.teacher is None  # asked once
        assert (guide.alpha, guide.temperature, guide.beta) == (0.7, 2.0, None)
    assert task.inputs.timesteps == 3
    assert seen[-1][2] == 2 and held.task.guide is None
    shifted = pipeline_of(digits, chosen, (fresh, replace(task, augment="crop-flip")))
    guide = shifted.guided(task).guide
    assert guide.teacher is fresh and guide.timesteps == 3 and guide.scores is None
    without = pipeline_of(digits, replace(chosen, distill=0.0), (fresh, task))
    own = replace(task, guide=guide)
    assert without.guided(own) is own


class Recorder:
    """A trainer that hands every phase to a function."""

    def __init__(self, trainer, note):
        self.trainer, self.note = trainer, note

    def __call__(self, *args):
        return self.note(*args)

    def __getattr__(self, name):
        return getattr(self.trainer, name)


@pytest.mark.slow  # compiles what learns
def test_learned_bits_stay_what_they_were_when_their_stage_ended(fresh, task, digits):
    chosen = replace(OPTIONS, levels="learned", stages=("connections", "bits", "spikes"))
    stages = pipeline_of(digits, chosen, (fresh, task))
    held = pipeline.Held(fresh, fresh, task)
    for stage in chosen.stages:
        held, _ = stages.stage(stage, (stage,), held)
    found = tree.named_leaves(held.seen.params)
    kernels = [name for name in found if name.endswith("/kernel")]
    for name in kernels:
        bits = np.asarray(held.seen.steps[name].bits).ravel()
        assert bits.tolist() == held.widths[name].tolist() and bits.size == found[name].shape[-1]
        mask = np.asarray(tree.named_leaves(held.masks)[name])
        assert not np.asarray(found[name])[~np.broadcast_to(mask, found[name].shape)].any()
    kept = sum(int(np.sum(tree.named_leaves(held.masks)[name])) for name in kernels)
    spent = sum(
        float((np.asarray(tree.named_leaves(held.masks)[name]).sum(
            tuple(range(found[name].ndim - 1))) * held.widths[name]).sum())
        for name in kernels
    )  # fmt: skip
    assert 0 < spent <= chosen.bits * kept * (1 + 1e-5)


def test_without_held_out_images_nobody_can_tell_how_short_is_enough(fresh, task, digits):
    empty = replace(digits, validation=data.Split(*(x[:0] for x in digits.validation)))
    with pytest.raises(UserError, match="held out"):
        joint.check(fresh, task, empty, OPTIONS)
