"""Layers one after the other, under their names."""

import jax
import jax.numpy as jnp
import pytest
from flax import nnx

from jaxsnn import layers
from jaxsnn.encode import Signal
from jaxsnn.errors import UserError
from jaxsnn.layers import Tape, layer, walk
from jaxsnn.neurons import LIF, Membrane


def chain():
    rngs = nnx.Rngs(0)
    return layer.named(layers.Chain({
        "first": layers.Conv(1, 2, neurons=LIF(), rngs=rngs),
        "flat": layers.Flatten(),
        "loop": layers.Recurrent(8, 3, neurons=LIF(), rngs=rngs),
    }))  # fmt: skip


def test_a_chain_names_its_kernels_in_order():
    def run_chain():
        net, record = chain(), Tape()
        out = net(Signal(jnp.ones((3, 2, 2, 2, 1)), 3), record)
        names = ["first/kernel", "loop/kernel", "loop/recurrent"]
        maps, events = walk.maps(net), record.activity.events
        assert list(maps) == list(events) == names
        assert list(record.membranes) == list(record.activity.spikes) == ["first", "loop"]
        assert all(isinstance(membrane, Membrane) for membrane in record.membranes.values())
        # Each map, given the events and the kernel, gives a current for each neuron.
        kernels = {
            "first/kernel": net.first.kernel[...],
            "loop/kernel": net.loop.kernel[...],
            "loop/recurrent": net.loop.recurrent[...],
        }
        return out.value, [maps[name](events[name], kernels[name]) for name in names]

    out, currents = jax.eval_shape(run_chain)
    assert out.shape == (3, 2, 3)
    assert [current.shape for current in currents] == [(2, 2, 2, 2), (2, 3), (2, 3)]


def test_names_are_the_paths_of_attributes_and_the_original_stays_nameless():
    first = layers.Conv(1, 2, neurons=LIF(), rngs=nnx.Rngs(0))
    inner = layers.Chain({"conv": first})
    outer = layers.Chain({"stage1": inner, "flat": layers.Flatten()})
    named = layer.named(outer)
    assert [layer.name for layer in walk.layers_of(named)] == [
        "", "stage1", "stage1/conv", "flat",
    ]  # fmt: skip
    assert first.name == "" and list(layers.synapses(named)) == ["stage1/conv"]


@pytest.mark.parametrize("name", ["names", "children", "name", "a/b", "1st", ""])
def test_a_name_that_a_layer_cannot_have_is_refused(name):
    with pytest.raises(UserError, match="a layer cannot be called"):
        layers.Chain({name: layers.Flatten()})
