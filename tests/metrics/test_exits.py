"""Early exit: every count against a simulation by hand that stops where the sample does."""

from dataclasses import replace

import jax.numpy as jnp
import numpy as np
import pytest

from jaxsnn import models, train
from jaxsnn.data import Split
from jaxsnn.errors import UserError
from jaxsnn.inputs import Inputs
from jaxsnn.metrics import exits
from jaxsnn.neurons import LIF

STEPS, INPUTS, HIDDEN, CLASSES, SAMPLES = 4, 5, 6, 3, 7
NEURON = LIF(0.5, 0.4)
TASK = train.Task(Inputs((INPUTS,), STEPS, "events"))


@pytest.fixture(scope="module")
def net():
    """Return a network with some weights 0, so that spikes differ in what they cost."""
    found = models.build(f"{HIDDEN}-{CLASSES}", (INPUTS,), NEURON, seed=1, use_bias=False)
    rng = np.random.default_rng(2)
    params = {
        name: {"kernel": jnp.asarray(rng.normal(0.2, 0.5, leaf["kernel"].shape), jnp.float32)}
        for name, leaf in found.params.items()
    }
    params["dense1"]["kernel"] = params["dense1"]["kernel"].at[:, ::2].multiply(0)
    params["dense1"]["kernel"] = params["dense1"]["kernel"].at[0].multiply(0)
    params["dense2"]["kernel"] = params["dense2"]["kernel"].at[1, 1:].set(0)
    return found.replace(params=params)


@pytest.fixture(scope="module")
def split():
    rng = np.random.default_rng(3)
    frames = rng.integers(0, 2, (SAMPLES, STEPS, INPUTS)).astype(np.uint8)
    return Split(frames, rng.integers(0, CLASSES, SAMPLES).astype(np.int32))


def by_hand(net, split, threshold):
    """Simulate one sample after the other; stop when the margin is reached, count until then."""
    first, second = (np.asarray(net.params[x]["kernel"]) for x in ("dense1", "dense2"))
    spikes = synops = right = 0
    stops, margins = [], []
    for frames, label in zip(*split, strict=True):
        hidden, out = np.zeros(HIDDEN), np.zeros(CLASSES)
        total, stopped = np.zeros(CLASSES), False
        for step, x in enumerate(frames, 1):
            hidden = 0.5 * hidden * (hidden <= 0.4) + x @ first
            fired = (hidden > 0.4).astype(int)
            out = 0.5 * out * (out <= 0.4) + fired @ second
            answer = (out > 0.4).astype(int)
            total = total + answer
            best = np.sort(total / step)
            margins.append(best[-1] - best[-2])
            if stopped:
                continue
            spikes += fired.sum() + answer.sum()
            synops += sum(int(n) * np.count_nonzero(row) for n, row in zip(x, first, strict=True))
            synops += sum(n * np.count_nonzero(row) for n, row in zip(fired, second, strict=True))
            if best[-1] - best[-2] >= threshold or step == STEPS:
                stopped = True
                stops.append(step)
                right += total.argmax() == label
    size = len(split.labels)
    return {
        "timesteps": np.mean(stops), "spikes_per_sample": spikes / size, "synops": synops / size,
        "accuracy": right / size,
    }, np.asarray(margins).reshape(size, STEPS).T  # fmt: skip


@pytest.mark.parametrize("threshold", [0.0, 0.3, 0.6, float("inf")])
def test_what_ran_until_each_sample_stopped_is_what_is_counted(net, split, threshold):
    expected, margins = by_hand(net, split, threshold)
    report = exits.early_exit(TASK, net, split, threshold, batch_size=4)
    found = exits.decisions(TASK, net, split, batch_size=4)
    np.testing.assert_allclose(found.margins, margins, rtol=1e-6)
    for field, value in expected.items():
        assert getattr(report, field) == pytest.approx(value, rel=1e-12), field
    assert report.macs == 0 and sum(report.extra["exit"]["share_at_step"]) == pytest.approx(1)
    assert report.spike_rate == pytest.approx(
        expected["spikes_per_sample"] / (HIDDEN + CLASSES) / expected["timesteps"]
    )


@pytest.mark.long
def test_who_never_stops_is_evaluated_as_ever(net, split):
    never = exits.early_exit(TASK, net, split, float("inf"))
    whole = train.evaluate(TASK, net, split)
    assert never.timesteps == STEPS and isinstance(never.timesteps, int)
    assert never.accuracy == whole.accuracy
    np.testing.assert_allclose(never.accuracy_over_time, whole.accuracy_over_time)


def test_some_samples_stop_and_some_do_not(net, split):
    """Else the test above would show little."""
    assert 1 < exits.early_exit(TASK, net, split, 0.6).timesteps < STEPS


def test_the_threshold_is_the_best_of_those_above_which_all_will_do():
    rng = np.random.default_rng(4)
    margins = rng.random((3, 40)).astype(np.float32)
    right = rng.random((3, 40)) < np.asarray([[0.6], [0.7], [0.8]])
    for tolerance in (0.0, 0.05, 1.0):
        found = exits.choose_threshold(exits.Decisions(margins, right), tolerance)
        fewest = 3.0
        for each in sorted([*np.unique(margins[:-1]), np.inf], reverse=True):
            at = exits.exit_steps(margins, each)
            lost = right[-1].mean() - right[at - 1, np.arange(40)].mean()
            if lost > tolerance + 1e-9:
                break
            fewest = min(fewest, at.mean())
        assert exits.exit_steps(margins, found).mean() == fewest
    assert exits.choose_threshold(exits.Decisions(margins[:1], right[:1]), 0.5) == np.inf


MISTAKES = {
    "no sample": (lambda net, split: exits.choose_threshold(
        exits.Decisions(np.zeros((2, 0)), np.zeros((2, 0), bool)), 0.1), "no held-out"),
    "tolerance": (lambda net, split: exits.choose_threshold(
        exits.Decisions(np.zeros((2, 1)), np.zeros((2, 1), bool)), 2), "tolerance"),
    "threshold": (lambda net, split: exits.early_exit(TASK, net, split, -1.0), "threshold"),
    "active": (lambda net, split: exits.decisions(replace(TASK, active=2), net, split), "only 2"),
    "one class": (lambda net, split: exits.decisions(
        TASK, models.build("4-1", (INPUTS,)), Split(split.images, 0 * split.labels)), "only one"),
}  # fmt: skip


@pytest.mark.parametrize("mistake", MISTAKES)
def test_a_mistake_is_one_line(mistake, net, split):
    call, culprit = MISTAKES[mistake]
    with pytest.raises(UserError, match=culprit):
        call(net, split)
