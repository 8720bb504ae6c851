"""From samples to inputs: normalisation, encoding, and what is refused."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxsnn.encode import Signal
from jaxsnn.errors import UserError
from jaxsnn.inputs import Inputs

KEY = jax.random.key(0)
PIXELS = np.random.default_rng(0).integers(0, 256, (2, 3, 3, 2), dtype=np.uint8)


def test_direct_inputs_are_one_copy_of_normalised_values():
    inputs = Inputs((3, 3, 2), 4, "direct", (0.5, 0.25), (0.5, 0.125))
    x = inputs.prepare(KEY, PIXELS)
    assert isinstance(x, Signal) and x.constant and x.analog and x.timesteps == 4
    expected = (PIXELS / 255 - [0.5, 0.25]) / [0.5, 0.125]
    np.testing.assert_allclose(x.value, expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("encoding", ["bernoulli", "poisson"])
def test_spikes_are_drawn_with_the_values_as_probabilities(encoding):
    inputs = Inputs((3, 3, 2), 400, encoding)
    x = np.asarray(inputs.prepare(KEY, jnp.asarray(PIXELS)))
    assert x.shape == (400, 2, 3, 3, 2) and set(np.unique(x)) <= {0, 1}
    # Five standard deviations of a share of 400.
    np.testing.assert_allclose(x.mean(0), PIXELS / 255, atol=5 * 0.5 / 400**0.5)


def test_frames_of_events_are_taken_as_they_are_time_first():
    frames = np.random.default_rng(0).integers(0, 3, (2, 5, 3, 3, 2), dtype=np.uint8)
    inputs = Inputs((3, 3, 2), 5, "events")
    assert inputs.sample_shape == (5, 3, 3, 2)
    np.testing.assert_array_equal(inputs.prepare(KEY, frames), frames.swapaxes(0, 1))


def test_an_abstract_input_has_the_shape_and_the_facts_of_a_real_one():
    inputs = Inputs((3, 3, 2), 4)
    abstract, real = inputs.abstract(2), inputs.prepare(KEY, PIXELS)
    assert abstract.value.shape == real.value.shape
    assert abstract.analog and abstract.constant and abstract.timesteps == 4
    assert Inputs((3, 3, 2), 5, "events").abstract(7).shape == (5, 7, 3, 3, 2)


def test_inputs_compare_by_value_and_survive_json():
    inputs = Inputs((3, 3, 2), 4, "poisson", (0.5, 0.5), (0.5, 0.5))
    same = Inputs((3, 3, 2), 4, "poisson", (0.5, 0.5), (0.5, 0.5))
    assert inputs == same and hash(inputs) == hash(same)
    assert inputs != dataclasses.replace(inputs, timesteps=5)
    assert Inputs.from_data(inputs.to_data()) == inputs


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"timesteps": 0}, r"timesteps of the input must be in \[1, 1048576\], found 0"),
        ({"encoding": "rate"}, "encoding 'rate' is unknown; choose one of direct, bernoulli"),
        ({"mean": (0.5, 0.5)}, "normalised by mean and std together, found only one"),
        ({"mean": (0.5,), "std": (0.5,)}, "mean and std need one number a channel"),
        ({"mean": (0.5, 0.5), "std": (0.5, 0.0)}, "std of the input must be in"),
        (
            {"mean": (0.5, 0.5), "std": (1.0, 1.0), "encoding": "events"},
            "mean and std are for the encodings direct and poisson, not events",
        ),
    ],
)
def test_what_does_not_fit_is_refused(options, message):
    with pytest.raises(UserError, match=message):
        Inputs(**({"shape": (3, 3, 2), "timesteps": 4} | options))


def test_a_field_of_a_file_that_does_not_fit_is_named():
    data = Inputs((3, 3, 2), 4).to_data()
    with pytest.raises(UserError, match="the input: field 'timesteps' is 'four', expected a whole"):
        Inputs.from_data(data | {"timesteps": "four"})
    with pytest.raises(UserError, match="the input has the field 'more', unknown to this jaxsnn"):
        Inputs.from_data(data | {"more": 1})
