"""Budgets: sizes are those of real files, masks those of networks that were really cut."""

from dataclasses import replace

import numpy as np
import pytest

from jaxsnn import data, models, train, tree
from jaxsnn.errors import UserError
from jaxsnn.methods import budgets, joint, pipeline
from jaxsnn.methods.controls import file_bytes
from jaxsnn.methods.result import Trainer
from jaxsnn.neurons import LIF
from jaxsnn.surrogate import triangle

OPTIONS = joint.Options(
    stages=("channels", "connections", "bits"), pruning="magnitude", batch_size=20,
    calibration_batches=1, calibration_batch_size=20, learning_rate=0.01, channels_epochs=0,
    connections_epochs=0, bits_epochs=1, search_channels=(0.0, 0.5), search_bits=(2,),
    search_sparsity=(0.3, 0.8), search_samples=40, search_epochs=1, control=False,
)  # fmt: skip


@pytest.fixture(scope="module")
def digits():
    return data.load("digits", limit=120)


@pytest.fixture(scope="module")
def task(digits):
    return train.Task(digits.inputs(timesteps=2), loss="ce")


@pytest.fixture(scope="module")
def net(digits):
    neuron = LIF(0.5, 1.0, surrogate=triangle())
    options = {"norm": True, "use_bias": "readout", "readout": "current"}
    found = models.build("6C3-AP4-48-10", digits.shape, neuron, **options)
    rng = np.random.default_rng(0)  # norms that were trained, which take bytes
    params, stats = (
        tree.map_named(
            lambda name, x: (
                x * rng.uniform(0.5, 1, x.shape).astype(np.float32)
                + 0.01 * rng.normal(size=x.shape).astype(np.float32) * ("norm" in name)
            ),
            each,
        )
        for each in (found.params, found.stats)
    )
    return found.replace(params=params, stats=stats)


@pytest.fixture
def stages_of(digits, net, task):
    def of(**options):
        chosen = replace(OPTIONS, **options)
        return pipeline.Pipeline(
            chosen, Trainer(train.fit, digits, chosen.batch_size, 0), (net, task)
        )

    return of


@pytest.fixture
def whole(stages_of, net):
    """Return the network with all of its channels."""
    return budgets._cut(stages_of(), net, {}, 0.0)


@pytest.mark.long
def test_the_masks_of_a_candidate_are_the_weights_of_the_cut_network(stages_of, net):
    stages = stages_of(bytes=1)
    scores = {"conv1": np.arange(6.0)[None], "dense1": np.arange(48.0)[None]}
    narrow = budgets._cut(stages, net, scores, 0.5)
    found = budgets._sized(stages, narrow, 0.5, 2, 0.6)
    masks, leaves = tree.named_leaves(found.masks), tree.named_leaves(net.params)
    small = tree.named_leaves(narrow.net.params)
    assert small["conv1/kernel"].shape == (3, 3, 1, 3)
    for name, leaf in leaves.items():
        kept = np.sort(np.abs(np.asarray(leaf)[masks[name]]))
        every = np.sort(np.abs(np.asarray(small[name]).ravel()))
        np.testing.assert_array_equal(kept, every[every.size - kept.size :])
        if not name.endswith("/kernel"):
            assert kept.size == every.size
    assert not masks["conv1/kernel"][..., :3].any() and not masks["conv1/norm/bias"][:3].any()
    whole = sum(small[x].size for x in small if x.endswith("/kernel"))
    kept = sum(masks[x].sum() for x in masks if x.endswith("/kernel"))
    assert kept == pytest.approx(0.4 * whole, abs=2)


@pytest.mark.long
def test_the_least_sparsity_that_fits_is_found(stages_of, whole):
    stages = stages_of(search_channels=(0.0,))
    sizes = [budgets._sized(stages, whole, 0.0, 2, s).num_bytes for s in (0.9, 0.5)]
    budget = sum(sizes) // 2
    stages = replace(stages, chosen=replace(stages.chosen, bytes=budget))
    least = budgets._sparsest(stages, whole, 0.0, 2)
    found = budgets._solved(stages, whole, least)
    assert 0.97 * budget <= found.num_bytes <= budget and 0.5 < found.sparsity < 0.9
    stages = replace(stages, chosen=replace(stages.chosen, spare=0.1))
    larger = budgets._solved(stages, whole, least)
    assert 1.06 * budget <= larger.num_bytes <= 1.1 * budget and larger.sparsity < found.sparsity


def test_the_bytes_of_biases_and_thresholds_count(stages_of, net, task):
    held = pipeline.Held(net, net, task)
    sizes = []
    for options in ({"tidy": True}, {"tidy": True, "constant_bits": 8}):
        stages = stages_of(**options)
        bits = stages.enter("bits", held)
        sizes.append(stages.bytes_of(bits))
        assert sizes[-1] == file_bytes(stages.packed(bits.seen), task.inputs, "digits")
    # Scales, biases and thresholds of 6 + 48 channels; a bias of 10.
    assert 54 * (4 + 3 + 3) <= sizes[0] - sizes[1] <= 54 * (4 + 3 + 3) + 100


@pytest.mark.slow  # trains
def test_a_budget_of_bytes_is_met_by_the_file(stages_of, net, task, digits, whole):
    budget = budgets._sized(stages_of(), whole, 0.0, 2, 0.8).num_bytes
    chosen, kept = replace(OPTIONS, bytes=budget), {}

    def keep(name, compute):
        kept[name] = compute()
        return kept[name]

    result = joint.compress(net, task, digits, chosen, keep=keep)
    found = result.found["budget"]
    assert file_bytes(result.network, result.task.inputs, "digits") <= budget
    assert [each["channels"] for each in found["candidates"]] == [0.0, 0.5]
    for each in found["candidates"]:
        assert each["num_bytes"] <= budget
        assert each["num_bytes"] >= 0.97 * budget or each["sparsity"] == 0
    best = max(each["accuracy"] for each in found["candidates"])
    assert found["chosen"]["accuracy"] == best

    again, facts = budgets.settle(stages_of(bytes=budget), lambda name, _: kept[name])
    assert facts == {name: found[name] for name in facts}
    assert again.sparsity == found["chosen"]["sparsity"]
    assert again.channel_ratios == found["chosen"]["channels"] and again.bits == 2


def test_points_choose_the_smallest_file_that_loses_no_more(stages_of):
    arrays = {
        "channels": np.asarray([0.0, 0.5, 0.5]), "bits": np.asarray([4, 2, 2]),
        "sparsity": np.asarray([0.3, 0.3, 0.8]), "num_bytes": np.asarray([900, 600, 500]),
        "accuracy": np.asarray([0.895, 0.897, 0.85]), "dense": np.asarray(0.9),
    }  # fmt: skip
    chosen, found = budgets.settle(stages_of(points=0.5), lambda *_: arrays)
    assert (chosen.channel_ratios, chosen.bits, chosen.sparsity) == (0.5, 2, 0.3)
    assert chosen.tolerance == pytest.approx(0.002) and found["chosen"]["num_bytes"] == 600
    with pytest.raises(UserError, match=r"points 0.1: .* loses 0.30 points with 600 bytes"):
        budgets.settle(stages_of(points=0.1), lambda *_: arrays)


@pytest.mark.slow  # packs many files
def test_a_file_that_training_made_too_large_loses_its_smallest_weights(stages_of, net, task):
    stages = stages_of()
    held = replace(stages, chosen=replace(stages.chosen, sparsity=0.5)).enter(
        "connections", pipeline.Held(net, net, task)
    )
    held = stages.enter("bits", held)
    size = stages.bytes_of(held)
    tight = replace(stages, chosen=replace(stages.chosen, bytes=size - 15))
    found = budgets.trim(tight, held)
    assert budgets.CLOSE * (size - 15) <= stages.bytes_of(found) <= size - 15
    before, after = (tree.named_leaves(each.seen.params) for each in (held, found))
    for name in (x for x in before if x.endswith("/kernel")):
        gone = (np.asarray(before[name]) != 0) & (np.asarray(after[name]) == 0)
        assert gone.sum() < 0.4 * np.count_nonzero(before[name])
        assert not ((np.asarray(before[name]) == 0) & (np.asarray(after[name]) != 0)).any()


@pytest.mark.parametrize(
    "size_of",
    [lambda share: 1000 * share**3, lambda share: 640 * (share < 0.9) + 380 * share],
    ids=["faster than the weights", "at once"],
)
def test_no_more_is_cut_than_the_budget_needs(monkeypatch, size_of):
    monkeypatch.setattr(budgets, "_kept", lambda pipeline, held, share: held_of(size_of(share)))
    found = budgets.trim(Stages(bytes=800), held_of(1000))
    shares = np.linspace(0, 1, 10_001)
    most = max(size for size in map(size_of, shares) if size <= 800)
    assert min(budgets.CLOSE * 800, 0.99 * most) <= found.epochs <= 800


def test_what_no_cut_makes_small_enough_is_cut_as_far_as_it_goes(monkeypatch):
    monkeypatch.setattr(budgets, "_kept", lambda pipeline, held, share: held_of(900 + 100 * share))
    assert 900 < budgets.trim(Stages(bytes=800), held_of(1000)).epochs < 905


class Stages:
    """A pipeline that trains nothing, and notes what it is asked for; a held network is a size."""

    dense = (None, None)

    def __init__(self, **options):
        self.chosen, self.asked = replace(OPTIONS, **options), []

    def bytes_of(self, held):
        return held.epochs

    def tune(self, name, held, epochs):
        self.asked.append((name, held.epochs, epochs))
        return replace(held, epochs=held.epochs + 3)

    def stage(self, name, group, held):
        self.asked.append((name, held.epochs))
        return replace(
            held, epochs=held.epochs + 20, quantized=held.quantized or "bits" in group
        ), {}

    def packed(self, seen):
        return seen


@pytest.fixture
def cut(monkeypatch):
    """Trim by setting the size to the budget's."""

    def trim(pipeline, held):
        return replace(held, epochs=min(held.epochs, pipeline.chosen.bytes))

    monkeypatch.setattr(budgets, "trim", trim)


def held_of(size, **parts):
    return pipeline.Held(None, None, None, epochs=size, **parts)


def test_a_product_that_is_cut_by_more_than_a_little_is_trained_once_more(cut):
    stages = Stages(bytes=100)
    assert budgets.fit_file(stages, "bits", held_of(105), 8).epochs == 100 and not stages.asked
    assert budgets.fit_file(stages, "bits", held_of(106), 8).epochs == 100
    assert stages.asked == [("bits trimmed", 100, 8)]


def test_a_file_is_cut_to_its_size_before_the_last_stages_and_these_train_it(cut, monkeypatch):
    stages = Stages(bytes=25, stages=("connections", "bits", "spikes"), spikes_epochs=4)
    monkeypatch.setattr(joint, "Held", lambda *_: held_of(0))
    held, networks = joint._through(stages, [])
    # 40 bytes behind the stage of the bits are cut to 25 before the next one is trained.
    assert stages.asked == [
        ("connections", 0), ("bits", 20), ("spikes", 25), ("spikes trimmed", 25, 4)
    ]  # fmt: skip
    assert held.epochs == 25 and list(networks) == ["connections", "bits", "compressed"]
