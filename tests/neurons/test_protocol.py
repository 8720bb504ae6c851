"""What every neuron keeps: the unrolled time axis against one step after another, and the facts."""

from dataclasses import dataclass, replace
from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxsnn import layers, surrogate
from jaxsnn.errors import UserError
from jaxsnn.native import convolutions
from jaxsnn.neurons import LIF, PLIF, AdaptiveLIF, Membrane, Neuron, SynapticLIF, unroll
from jaxsnn.neurons.neuron import POSITIVE, SHARE
from jaxsnn.options import Range

PLAIN = surrogate.triangle(2.0)
THIRDS = jnp.asarray([0.5, 0.3, 0.8])


@dataclass(frozen=True)
class Resonator(Neuron):
    """A neuron of a user: two coupled states, spikes by a method of its own."""

    class State(NamedTuple):
        """Potential and the current that swings with it."""

        potential: jax.Array
        swing: jax.Array

    ranges = {"decay": SHARE, "pull": Range(-1.0, 1.0)}
    decay: float = 0.8
    pull: float = 0.4

    def advance(self, state, current):
        left = state.potential * (1.0 - self.spikes(state))
        swing = self.decay * state.swing - self.pull * left
        return Resonator.State(self.decay * left + self.pull * state.swing + current, swing)

    def spikes(self, state):
        return surrogate.fire(state.potential, jnp.ones_like(state.potential), PLAIN)


NEURONS = {  # of a `long` test the default tier has the first three
    "adaptive": AdaptiveLIF(0.8, 0.5, THIRDS, 0.9, "soft", surrogate=PLAIN),
    "own": Resonator(0.8, THIRDS),
    "plif": PLIF(jnp.asarray([0.0, -1.0, 2.0]), 0.3, surrogate=PLAIN),
    "delayed": SynapticLIF(0.5, THIRDS, 0.6, delayed=True, detach_reset=True, surrogate=PLAIN),
    "synaptic": SynapticLIF(THIRDS, 0.7, 0.6, "soft_undecayed", surrogate=PLAIN),
    "plain plif": PLIF(0.5, THIRDS, "soft", input_gain=False, surrogate=PLAIN),
    "lif": LIF(THIRDS, 0.7, "soft", surrogate=PLAIN),
}
SLOW = pytest.mark.slow
each_neuron = pytest.mark.parametrize("name", NEURONS)


def problem(neuron, steps, *, constant=False):
    """Return a current, a state to start from, feedback, and weights of all outputs."""
    random = np.random.default_rng(steps)
    current = random.normal(0.4, 0.6, (2, 3) if constant else (steps, 2, 3))
    start = neuron.State(*(random.uniform(0, 1, (2, 3)) for _ in neuron.State._fields))
    feedback = 0.3 * random.normal(size=(3, 3))
    weights = random.normal(size=(2, steps, 2, 3)), random.normal(size=(2, 3))
    as_float = partial(jax.tree.map, lambda x: jnp.asarray(x, jnp.float32))
    return as_float((neuron, current, start, feedback)), as_float(weights)


def by_steps(neuron, current, start, feedback, timesteps=None):
    """Return what `unroll` should, from the neuron's step alone."""
    neuron = jax.tree.map(lambda x: x.reshape(-1, x.size), neuron)
    if timesteps:
        current = jnp.broadcast_to(current[None], (timesteps, *current.shape))
    state, heard, outputs = start, neuron.spikes(start), []
    for drive in current:
        state, heard = neuron.step(state, drive + (0 if feedback is None else heard @ feedback))
        outputs.append((heard, state.potential))
    return *(jnp.stack(series) for series in zip(*outputs, strict=True)), state


def by_unroll(neuron, current, start, feedback, timesteps=None):
    return unroll(neuron, current, initial=start, feedback=feedback, timesteps=timesteps)


def outputs_and_gradients(run, arguments, weights):
    def loss(arguments):
        spikes, potential, last = run(*arguments)
        value = jnp.vdot(spikes, weights[0][0]) + jnp.vdot(potential, weights[0][1])
        return value + jnp.vdot(last.potential, weights[1]), (spikes, potential, last)

    return jax.grad(loss, has_aux=True)(arguments)


def assert_same(found, expected):
    np.testing.assert_array_equal(found[1][0], expected[1][0], err_msg="spikes")
    pairs = zip(jax.tree.leaves(found), jax.tree.leaves(expected), strict=True)
    for ours, theirs in pairs:
        np.testing.assert_allclose(ours, theirs, rtol=1e-4, atol=1e-5)


@pytest.mark.long
@pytest.mark.parametrize(
    "name",
    [*("own", "plif"), *(pytest.param(x, marks=SLOW) for x in NEURONS if x not in ("own", "plif"))],
)
def test_unroll_is_one_step_after_another_in_values_and_gradients(name):
    """With feedback and a state to begin with, by every constant, current and weight."""
    arguments, weights = problem(NEURONS[name], 3)
    with jax.disable_jit():
        found = outputs_and_gradients(by_unroll, arguments, weights)
        expected = outputs_and_gradients(by_steps, arguments, weights)
    assert_same(found, expected)
    assert 0 < found[1][0].mean() < 1


@pytest.mark.long
@pytest.mark.parametrize(("name", "constant"), [("delayed", True), ("adaptive", False)])
def test_a_long_time_axis_is_scanned_to_the_same_gradients(name, constant):
    arguments, weights = problem(NEURONS[name], 6, constant=constant)
    steps = {"timesteps": 6 if constant else None}
    found = jax.jit(partial(outputs_and_gradients, partial(by_unroll, **steps)))(arguments, weights)
    with jax.disable_jit():
        expected = outputs_and_gradients(partial(by_steps, **steps), arguments, weights)
    assert_same(found, expected)


@pytest.mark.long
@each_neuron
def test_a_constant_current_is_the_same_one_repeated_and_bfloat16_rounds_no_spike(name):
    (neuron, current, start, _), _ = problem(NEURONS[name], 3, constant=True)
    spikes, potential, last = unroll(neuron, current, timesteps=3, initial=start)
    expected = by_steps(neuron, current, start, None, 3)
    short = unroll(neuron, current, timesteps=3, initial=start, dtype=jnp.bfloat16)
    assert (short[0].dtype, short[1].dtype) == (jnp.bfloat16, jnp.float32)
    np.testing.assert_array_equal(spikes, expected[0])
    np.testing.assert_array_equal(short[0].astype(jnp.float32), spikes)
    np.testing.assert_allclose(potential, expected[1], rtol=1e-6)
    for each in (last, short[2]):
        jax.tree.map(partial(np.testing.assert_allclose, rtol=1e-6), each, expected[2])


@pytest.mark.long
@each_neuron
def test_a_neuron_continues_where_it_ended_and_begins_with_zeros(name):
    (neuron, current, *_), _ = problem(NEURONS[name], 4)
    whole, at_rest = unroll(neuron, current), neuron.begin((2, 3), jnp.float32)
    first = unroll(neuron, current[:2], initial=at_rest)
    second = unroll(neuron, current[2:], initial=first[2])
    np.testing.assert_array_equal(whole[0], jnp.concatenate([first[0], second[0]]))
    assert not neuron.spikes(at_rest).any() and neuron.State._fields[0] == "potential"


@pytest.mark.long
def test_a_gradient_moves_at_most_a_fifth_more_than_that_of_lif_for_each_state():
    """What a step costs, counted: bytes that XLA's program moves, whatever the machine."""
    current = jnp.zeros((8, 16, 64))

    def bytes_of(gradient, *arguments):
        with convolutions.off():
            compiled = jax.jit(gradient).lower(*arguments).compile()
        return compiled.cost_analysis()["bytes accessed"]

    def moved(neuron):
        return bytes_of(jax.grad(lambda x: unroll(neuron, x)[0].sum()), current)

    least = moved(LIF())
    for neuron in (SynapticLIF(), AdaptiveLIF()):
        assert moved(neuron) <= 1.2 * len(neuron.State._fields) * least

    def spikes(decay, x):
        return unroll(replace(LIF(), decay=decay), x)[0].sum()

    assert bytes_of(jax.grad(spikes, (0, 1)), jnp.float32(0.9), current) <= 1.2 * least


@pytest.mark.parametrize("name", [name for name, each in NEURONS.items() if each.scaled])
def test_what_is_scaled_leaves_all_spikes(name):
    """The law by which norms are folded: a factor on the current is one on the constants."""
    (neuron, current, *_), _ = problem(NEURONS[name], 4)
    factor = jnp.asarray([0.5, 2.0, 4.0])
    spikes, potential, _ = unroll(neuron, current)
    divided = neuron.divided(np.asarray(factor))
    found = unroll(divided, current / factor.reshape(1, 1, 3))
    np.testing.assert_array_equal(found[0], spikes)
    np.testing.assert_allclose(found[1] * factor.reshape(1, 1, 3), potential, rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize("name", [name for name, each in NEURONS.items() if not each.not_lif])
def test_the_lif_neuron_that_stands_for_another_fires_as_it_does(name):
    (neuron, current, *_), _ = problem(NEURONS[name], 4)
    found = unroll(neuron.as_lif(), current)[0]
    np.testing.assert_array_equal(found, unroll(neuron, current)[0])


def test_plain_cases_are_lif():
    (lif, current, *_), _ = problem(LIF(0.5, 0.4, surrogate=PLAIN), 4)
    expected = unroll(lif, current)
    for same in (SynapticLIF(0.5, 0.4, 0.0), AdaptiveLIF(0.5, 0.4, 0.0), PLIF(0.0, 0.2)):
        np.testing.assert_array_equal(unroll(same, current)[0], expected[0])


def test_a_neuron_is_a_pytree_of_its_constants():
    for neuron in NEURONS.values():
        assert len(jax.tree.leaves(neuron)) == len(neuron.ranges)
        zeros = jax.tree.map(jnp.zeros_like, neuron)
        assert jax.tree.structure(neuron) == jax.tree.structure(zeros)


# --- What is refused ------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: SynapticLIF(synaptic_decay=1.5), r"synaptic_decay must be in \[0, 1\], found 1.5"),
        (lambda: AdaptiveLIF(adaptation=-1.0), r"adaptation must be in \[0, inf\), found -1.0"),
        (lambda: PLIF(float("nan")), "leak must be in"),
        (lambda: PLIF(reset="zero"), "reset 'zero' is unknown; choose one of hard, soft"),
        (
            lambda: unroll(AdaptiveLIF(), jnp.ones((2, 1)), initial=Membrane(jnp.ones(1))),
            "initial must be a AdaptiveState, the state of AdaptiveLIF, found Membrane",
        ),
        (lambda: type("Mine", (LIF,), {}), "neuron Mine extends LIF"),
        (lambda: type("Mine", (Neuron,), {"kind": "lif"}), "neuron Mine has the kind 'lif', that"),
        (lambda: layers.Neurons(LIF(), ["beta"]), "trained 'beta' is no constant of LIF; choose"),
        (
            lambda: layers.Neurons(SynapticLIF(detach_reset=True, surrogate=surrogate.stdb())),
            "surrogate stdb needs LIF neurons, found SynapticLIF",
        ),
        (lambda: Resonator(0.8).level(Membrane(jnp.ones(1))), "neuron Resonator has no threshold"),
    ],
)
def test_what_is_wrong_is_named(make, message):
    with pytest.raises(UserError, match=message):
        make()


@dataclass(frozen=True)
class Lame(Neuron):
    """A neuron without a step."""

    threshold: float = 1.0


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({}, "neuron Lame has no method advance"),
        ({"ranges": {"beta": SHARE}}, "neuron Lame: ranges names 'beta', which is no field"),
        ({"learned": ("beta",)}, "neuron Lame: learned names 'beta', which has no range"),
        ({"State": tuple}, "neuron Lame: State must be a NamedTuple that begins with potential"),
    ],
)
def test_a_class_that_breaks_the_protocol_is_refused_by_a_layer(change, message, monkeypatch):
    for name, value in change.items():
        monkeypatch.setattr(Lame, name, value)
    with pytest.raises(UserError, match=message):
        layers.Neurons(object.__new__(Lame))


@pytest.mark.parametrize(
    ("advance", "message"),
    [
        (lambda self, state, current: current, "advance must return a Membrane, found "),
        (lambda self, state, current: Membrane(current[0]), r"potential is float32\[3\] for a"),
        (lambda self, state, current: state.leak, "cannot make a step: 'Membrane' object has no"),
        (
            lambda self, state, current: Membrane(current),
            "cannot make a step: neuron Odd has no surrogate",
        ),
    ],
)
def test_a_step_that_breaks_the_protocol_is_refused_by_a_layer(advance, message):
    body = {"advance": advance, "threshold": 1.0, "__annotations__": {"threshold": float}}
    odd = dataclass(frozen=True)(type("Odd", (Neuron,), body))
    with pytest.raises(UserError, match=f"neuron Odd.*{message}"):
        layers.Neurons(odd())


def test_a_neuron_must_be_a_frozen_dataclass():
    class Loose(Neuron):
        ranges = {"threshold": POSITIVE}

    with pytest.raises(UserError, match=r"neuron Loose must be a dataclass\(frozen=True\)"):
        layers.Neurons(Loose())
