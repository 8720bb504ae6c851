"""What follows what: facts of a pass over any topology, whatever its layers are called."""

import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from jaxsnn import Network, layers, models
from jaxsnn.encode import Signal, direct
from jaxsnn.errors import UserError
from jaxsnn.inputs import Inputs
from jaxsnn.layers import Integrator, Tape
from jaxsnn.neurons import LIF

SHAPE = (4, 4, 1)


def test_a_chain_is_one_layer_after_the_other_past_poolings():
    net = models.build("2C3-AP2-3C3-MP2-5R-4", SHAPE, readout="current")
    flow = net.flow(Inputs(SHAPE, 3))
    assert flow.order == net.order == ("conv1", "conv2", "dense1", "dense2")
    assert flow.inputs == ("conv1",) and flow.readout == ("dense2",)
    assert [flow.followers(name) for name in flow.order] == [
        ("conv2",), ("dense1",), ("dense1", "dense2"), (),
    ]  # fmt: skip
    # A recurrent layer hears itself; a real-valued constant input is computed once.
    assert flow.feeds["dense1/recurrent"].sources == ("dense1",)
    assert flow.analog == flow.cached == ("conv1/kernel",)
    assert flow.feeds["conv2/kernel"].shape == (2, 2, 2)
    assert flow.feeds["conv2/kernel"].outputs == (2, 2, 3)


def test_the_input_decides_what_is_analog_and_what_is_computed_once():
    net = models.build("2C3-4", SHAPE)
    events = net.flow(Inputs(SHAPE, 3, "events"))
    assert events.analog == events.cached == ()
    moving = net.flow(Signal(jnp.ones((3, 1, *SHAPE)), 3, analog=True))
    assert moving.analog == ("conv1/kernel",) and moving.cached == ()


def test_a_residual_block_is_read_by_what_comes_behind_its_sum():
    net = models.build("2C3-2B3-4B3S2P-4", SHAPE)
    flow = net.flow(Inputs(SHAPE, 2))
    assert flow.inputs == ("conv1",) and flow.readout == ("dense1",)
    assert flow.followers("conv1") == ("block1/conv1",)
    assert flow.feeds["block2/projection/kernel"].sources == ("block1/conv2",)
    assert flow.followers("block1/conv2") == ("block2/conv1", "block2/projection")
    assert flow.analog == ("conv1/kernel",)


class Skip(nnx.Module):
    """A topology of one's own: a skip around a convolution, two ends added."""

    def __init__(self, rngs):
        self.z = layers.Conv(1, 3, neurons=LIF(0.5, 0.3), rngs=rngs)
        self.a = layers.Conv(3, 3, neurons=LIF(0.5, 0.3), rngs=rngs)
        self.heads = nnx.List(
            [layers.Dense(3, 2, neurons=Integrator(), rngs=rngs) for _ in range(2)]
        )

    def __call__(self, x, tape):
        first = self.z(x, tape)
        both = layers.mean_pixels(self.a(first, tape) + first)
        return self.heads[0](both, tape) + self.heads[1](both, tape)


def test_an_own_topology_has_its_own_facts():
    net = Network.of(Skip(nnx.Rngs(0)))
    flow = net.flow(Inputs(SHAPE, 2))
    assert flow.order == ("z", "a", "heads/0", "heads/1")
    assert set(net.order) == set(flow.order)
    assert flow.followers("z") == ("a", "heads/0", "heads/1")
    assert flow.feeds["heads/0/kernel"].sources == ("a", "z")
    assert flow.readout == ("heads/0", "heads/1") and flow.inputs == ("z",)
    assert flow.feeds["heads/1/kernel"].shape == (3,)


@pytest.mark.long
def test_the_activity_of_a_pass_knows_its_time_and_its_analog_kernels():
    net = models.build("2C3-AP2-4", SHAPE)
    image = direct(jnp.ones((2, *SHAPE)), 5)
    activity = net(image).activity
    assert activity.timesteps == 5
    assert activity.analog == activity.cached == ("conv1/kernel",)
    assert net(jnp.ones((5, 2, *SHAPE))).activity.analog == ()
    np.testing.assert_array_equal(activity.events["conv1/kernel"], 5 * image.value)


@pytest.mark.long
def test_a_layer_that_runs_twice_is_refused():
    class Twice(nnx.Module):
        def __init__(self, rngs):
            self.a = layers.Dense(3, 3, neurons=LIF(), rngs=rngs)

        def __call__(self, x, tape):
            return self.a(self.a(x, tape), tape)

    net = Network.of(Twice(nnx.Rngs(0)))
    with pytest.raises(UserError, match="layer 'a' runs twice in one pass: give each place"):
        net(jnp.ones((2, 1, 3)))


def test_signals_that_cannot_be_added_are_refused():
    a, b = (Signal(jnp.ones((2, 1, 3)), 2, events_per_unit=n) for n in (1, 4))
    with pytest.raises(UserError, match="average poolings over 1 and 4 neurons cannot be added"):
        a + b
    with pytest.raises(UserError, match=r"shapes \(3,\) and \(2,\) cannot be added"):
        a + Signal(jnp.ones((2, 1, 2)), 2)
    constant = direct(jnp.ones((1, 2)), 3)
    total = constant + constant
    assert total.constant and total.analog and total.value.tolist() == [[2.0, 2.0]]


def test_a_foreign_function_has_no_flow():
    net = Network.wrap({"w": jnp.ones((3, 2))}, lambda params, x: x @ params["w"])
    for ask in (lambda: net.flow(Inputs((3,), 2)), lambda: net.order):
        with pytest.raises(UserError, match="a wrapped foreign function has no layers"):
            ask()
    with pytest.raises(UserError, match="a wrapped foreign function has no module"):
        net.module  # noqa: B018
    assert net.synapses == {} and not net.has_norms


def test_what_does_not_fit_the_first_layer_is_named():
    net = models.build("2C3-4", SHAPE)
    for shape in ((4, 4, 3), (16,)):
        with pytest.raises(UserError, match=r"layer 'conv1' takes images \[H, W, 1\]"):
            net.flow(Inputs(shape, 2))
    dense = models.build("4", (3,))
    with pytest.raises(UserError, match="layer 'dense1' takes 3 features, found an input"):
        dense(jnp.ones((2, 1, 4)))


def test_a_tape_is_bare_without_a_network():
    tape = Tape()
    assert not tape.train and tape.feeds == [] and tape.activity.spikes == {}
