"""A rehearsal compiles what follows, and changes nothing."""

import threading
import time
from functools import partial

import jax
import numpy as np
import optax
import pytest

from jaxsnn import compress as sets
from jaxsnn import data, models, train
from jaxsnn.methods import admm
from jaxsnn.train import host, loop, rehearsal
from jaxsnn.train.rehearsal import rehearse, rehearsed

FEW = admm.Options(
    sparsity=0.5, bits=3, order="together", pull_epochs=2, retrain_epochs=1, batch_size=30
)


@pytest.fixture(autouse=True)
def two_cores(monkeypatch):
    monkeypatch.setattr(host, "cores", lambda: 2)


@pytest.fixture(scope="module")
def problem():
    digits = data.load("digits", limit=150)
    net = models.build("12-10", digits.shape, seed=0)
    return net, train.Task(digits.inputs(timesteps=2)), digits


def phases():
    """Return one of each kind: a plain optimizer, a pull, a grid, masks."""
    recipe = {"*/kernel": sets.uniform_grid(3)}
    few = {"*/kernel": sets.keep_largest(0.5)}
    adam = optax.adam(1e-3)
    return {
        "adam": lambda params: adam,
        "pulled": lambda params: sets.pulled(adam, few, 1e-2, every=1),
        "quantized": lambda params: sets.quantized(adam, recipe),
        "pruned": lambda params: sets.pruned(adam, sets.prune(params, few)[1]),
    }


@pytest.mark.parametrize("kind", phases())
def test_what_was_rehearsed_is_not_compiled_again(problem, kind):
    net, task, digits = problem
    phase = phases()[kind](net.params)
    options = {"epochs": 2, "batch_size": 30, "validation": digits.validation, "name": kind}
    compiled = loop._run_steps._cache_size()
    rehearse(task, phase, net, digits.train, **options)
    assert loop._run_steps._cache_size() == compiled + 1
    train.fit(task, phase, net, digits.train, **options, show=False)
    assert loop._run_steps._cache_size() == compiled + 1


def test_a_rehearsal_takes_no_step(problem):
    net, task, digits = problem
    seen = rehearse(task, optax.adam(1e-1), net, digits.train, epochs=3, batch_size=30)
    jax.tree.map(np.testing.assert_array_equal, seen.params, net.params)


def test_the_method_gives_the_same_after_its_rehearsal(problem):
    net, task, digits = problem
    compress = partial(admm.compress, net, task, digits, FEW)
    quiet = partial(train.fit, show=False)
    alone = compress(fit=quiet)
    with rehearsed(lambda fit: compress(fit=fit)):
        pass
    after = compress(fit=quiet)
    jax.tree.map(np.testing.assert_array_equal, alone.network.params, after.network.params)
    assert alone.report.row("compressed").accuracy == after.report.row("compressed").accuracy


def test_a_rehearsal_leaves_out_what_nobody_waits_for(problem, monkeypatch):
    entered, begun = threading.Event(), []

    def slow(*, name):
        begun.append(name)
        entered.set()
        time.sleep(1)  # much longer than the block takes to end

    monkeypatch.setattr(rehearsal, "rehearse", slow)

    def method(fit):
        fit(name="first")
        fit(name="second")

    with rehearsed(method):
        entered.wait(30)
    assert begun == ["first"]


def test_a_mistake_in_a_rehearsal_is_left_to_the_method():
    def method(fit):
        begun.append("rehearsal")
        raise ValueError("not yet")

    begun = []
    with rehearsed(method):
        pass
    assert begun == ["rehearsal"]


def test_a_mistake_beside_a_rehearsal_ends_both():
    with pytest.raises(KeyError), rehearsed(lambda fit: None):
        raise KeyError("here")
    assert not [each for each in threading.enumerate() if each.name == "rehearsal"]


def test_on_one_core_nothing_is_rehearsed(monkeypatch):
    monkeypatch.setattr(host, "cores", lambda: 1)
    begun = []
    with rehearsed(begun.append):
        pass
    assert not begun
