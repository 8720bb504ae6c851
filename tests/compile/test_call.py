"""A compiled network inside of a JAX program gives the scores that it gives to NumPy."""

import re
import shutil
from concurrent.futures import ThreadPoolExecutor

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxsnn import compile as compiling
from jaxsnn import models
from jaxsnn.compile import handler
from jaxsnn.errors import UserError
from jaxsnn.inputs import Inputs
from jaxsnn.neurons import LIF

pytestmark = pytest.mark.skipif(shutil.which("cc") is None, reason="there is no C compiler")

INPUTS = Inputs((9,), timesteps=3)


@pytest.fixture(scope="module")
def function():
    net = models.build("5-3", INPUTS.shape, LIF(0.5, 0.3))
    return compiling.build(net, INPUTS, allow_rounding=True)


@pytest.fixture(scope="module")
def samples():
    return np.random.default_rng(0).integers(0, 256, (4, 70, 9)).astype(np.uint8)


@pytest.fixture(params=["handler", "callback"])
def road(request, monkeypatch):
    """Go by the handler in C, or by Python, as on other devices."""
    handler.missing_handler.cache_clear()
    if request.param == "callback":
        monkeypatch.setenv("JAXSNN_NATIVE", "0")
    elif (missing := handler.missing_handler()) is not None:
        pytest.skip(missing)
    yield request.param
    handler.missing_handler.cache_clear()


def test_jit_and_vmap_give_the_scores_of_numpy(road, function, samples):
    right = np.stack([function(each) for each in samples])
    for batched in (True, False):
        run = lambda x, batched=batched: function(x, batched=batched)  # noqa: E731
        np.testing.assert_array_equal(jax.jit(run)(samples[0]), right[0])
    folded = jax.jit(jax.vmap(function, in_axes=1, out_axes=1))
    np.testing.assert_array_equal(folded(samples.swapaxes(0, 1)), right.swapaxes(0, 1))
    text = folded.lower(samples.swapaxes(0, 1)).as_text()
    called = re.findall(r"custom_call @(\w+)", text)
    assert "while" not in text and len(called) == 1  # one call of all samples
    assert (called == ["jaxsnn_network"]) == (road == "handler")


def test_other_integers_are_converted_and_kept_in_range(road, function, samples):
    right = function(samples[0])
    assert jax.jit(function)(samples[0].astype(np.int32)).tolist() == right.tolist()
    beyond = samples[0].astype(np.int32)
    beyond[samples[0] == 255], beyond[samples[0] == 0] = 70_000, -5
    np.testing.assert_array_equal(jax.jit(function)(beyond), right)
    np.testing.assert_array_equal(
        jax.jit(function)(samples[0].astype(np.int8)), function(samples[0].view(np.int8).clip(0))
    )


def test_programs_and_numpy_take_turns(road, function, samples):
    """The working memory is static: calls at the same time must not meet in it."""
    right, many = function(samples[0]), jax.jit(function)
    calls = [many if i % 2 else function for i in range(16)]
    with ThreadPoolExecutor(4) as pool:
        found = list(pool.map(lambda call: np.asarray(call(samples[0])), calls))
    for each in found:
        np.testing.assert_array_equal(each, right)


@pytest.mark.parametrize(
    ("bad", "message"),
    [
        (np.zeros((2, 8), np.uint8), r"9 values each, found the shape \(2, 8\)"),
        (np.zeros((2, 9), np.float32), "whole numbers, found float32"),
    ],
)
def test_unfit_samples_are_refused_while_a_program_is_made(bad, message, function):
    with pytest.raises(UserError, match=message):
        jax.jit(function)(jnp.asarray(bad))


def test_a_program_of_another_process_says_that_it_misses_its_network(function, samples):
    if (missing := handler.missing_handler()) is not None:
        pytest.skip(missing)
    result = jax.ShapeDtypeStruct((70, 3), jnp.int32)
    for key, message in ((1, "has not built the network"), (function._machine.key, "not those of")):
        call = jax.ffi.ffi_call(handler.TARGET, result)
        with pytest.raises(jax.errors.JaxRuntimeError, match=message):
            call(samples[0, :69], key=np.int64(key), batched=np.int64(1)).block_until_ready()
