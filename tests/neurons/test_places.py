"""Every neuron in every place: what takes it works, and what does not refuses it by name.

A network has all of them, a layer each, so that one program is compiled for all.
"""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from jaxsnn import export, layers, models, sweep, tree
from jaxsnn.encode import direct
from jaxsnn.errors import UserError
from jaxsnn.export import architecture
from jaxsnn.export.ties import count_ties
from jaxsnn.inputs import Inputs
from jaxsnn.methods import balancing
from jaxsnn.models.start import firing_start
from jaxsnn.models.variants import rescale
from jaxsnn.neurons import LIF, PLIF, AdaptiveLIF, SynapticLIF
from jaxsnn.surrogate import triangle
from jaxsnn.train import Task, fit
from tests.neurons.test_protocol import Resonator

C = jnp.linspace(0.5, 0.9, 6)  # a constant for each channel
WIDE = triangle(2.0)
NEURONS = {
    "dense1": LIF(C, 0.2, "soft", surrogate=WIDE),
    "dense2": SynapticLIF(0.5, 0.2, C, "soft", surrogate=WIDE),
    "dense3": AdaptiveLIF(0.5, 0.2, 0.1 * C, C, "soft", surrogate=WIDE),
    "dense4": PLIF(0.0, 0.2 * C, surrogate=WIDE),
    "dense5": SynapticLIF(0.5, 0.2, 0.5, delayed=True, surrogate=WIDE),
}
NET = models.build("6-6-6-6-3", (4,), NEURONS, seed=1)
NORMED = models.build("6-6-6-6-3", (4,), NEURONS, seed=1, norm=True)
X = direct(jnp.asarray(np.random.default_rng(0).uniform(0.2, 1.0, (4, 4)), jnp.float32), 6)
INPUTS = Inputs((4,), 6)
INPUTS_OF_EVENTS = Inputs((4,), 2, "events")
run = jax.jit(lambda net, x: net(x))


def constant(net, name):
    return (tree.named_leaves(net.params) | tree.named_leaves(net.stats))[name]


def test_each_layer_has_its_neuron_and_plif_learns_its_leak():
    found = {name: each.neurons.options for name, each in layers.synapses(NET.module).items()}
    assert {name: type(each) for name, each in found.items()} == {
        name: type(each) for name, each in NEURONS.items()
    }
    trained = [x for x in tree.named_leaves(NET.params) if "/neurons/" in x]
    assert trained == ["dense4/neurons/leak"]
    kinds = {"dense[12]": LIF(), "*": AdaptiveLIF()}
    net = models.build("4-4-3", (4,), kinds, trained=("adaptation", "decay"))
    trained = [x for x in tree.named_leaves(net.params) if "/neurons/" in x]
    assert trained == [f"dense{x}" for x in (
        "1/neurons/decay", "2/neurons/decay", "3/neurons/adaptation", "3/neurons/decay",
    )]  # fmt: skip


@pytest.mark.parametrize(
    ("layout", "options", "message"),
    [
        ("4-3", {"neuron": {"dense1": LIF()}}, "neuron has no pattern for the layer 'dense2'"),
        ("4-3", {"neuron": {"conv*": LIF(), "*": LIF()}}, r"the pattern 'conv\*' matches no leaf"),
        ("4-3", {"neuron": {"*": 0.5}}, "neuron of layer 'dense1' must be a neuron such as"),
        ("4-3", {"trained": ("beta",)}, "trained 'beta' is no constant of these neurons"),
    ],
)
def test_a_choice_of_neurons_that_does_not_fit_is_refused(layout, options, message):
    with pytest.raises(UserError, match=message):
        models.build(layout, (4,), **options)


@pytest.mark.long
def test_all_fire_are_counted_and_return_from_a_file(tmp_path):
    output = run(NET, X)
    spikes = {name: float(jnp.mean(each)) for name, each in output.activity.spikes.items()}
    assert list(spikes) == list(NEURONS) and all(0 < each < 6 for each in spikes.values())
    export.save(tmp_path / "net", NET, INPUTS)
    again = export.load(tmp_path / "net").network
    assert again.program == NET.program
    assert jax.tree.all(jax.tree.map(jnp.array_equal, run(again, X), output))
    assert list(count_ties(NET, X)) == list(NEURONS)


@pytest.mark.long
def test_constants_of_each_channel_are_cut_with_it():
    keep = {f"dense{i}": np.arange(6) != i for i in range(1, 5)}
    small = export.shrink(NET, keep)
    assert constant(small, "dense3/neurons/adaptation").tolist() == pytest.approx(
        np.delete(np.asarray(0.1 * C), 3).tolist()
    )
    masked = run(export.silence(NET, keep), X)
    found = run(small, X)
    np.testing.assert_array_equal(found.readout, masked.readout)


@pytest.mark.long
@pytest.mark.parametrize("into", ["neuron", pytest.param("kernel", marks=pytest.mark.slow)])
def test_norms_fold_away(into):
    random = np.random.default_rng(0)
    stats = tree.map_named(
        lambda name, x: (
            jnp.asarray(random.uniform(0.5, 1.5, x.shape), jnp.float32) if "/norm/" in name else x
        ),
        NORMED.stats,
    )
    net = NORMED.replace(stats=stats)
    folded = export.fold_norms(net, into)
    assert not folded.has_norms
    # Rounding moves few potentials across a threshold, if any.
    assert float(jnp.abs(run(folded, X).readout - run(net, X).readout).mean()) < 0.05


def test_constants_are_swept_by_name():
    net = sweep.with_constants(NET, synaptic_decay=0.25, threshold=0.5)
    assert constant(net, "dense2/neurons/synaptic_decay").tolist() == [0.25] * 6
    assert constant(net, "dense3/neurons/threshold") == 0.5
    with pytest.raises(UserError, match=r"adaptation must be in \[0, inf\)"):
        sweep.with_constants(NET, adaptation=-1.0)
    with pytest.raises(UserError, match="neurons/beta"):
        sweep.with_constants(NET, beta=1.0)


def test_weights_and_all_that_is_in_units_of_the_potential_are_rescaled():
    net = rescale(NET, {name: 2.0 for name in NEURONS})
    np.testing.assert_array_equal(constant(net, "dense3/neurons/adaptation"), 0.2 * C)
    np.testing.assert_array_equal(run(net, X).readout, run(NET, X).readout)


@pytest.mark.run
def test_all_train_and_constants_stay_in_their_range():
    """A step that throws every constant out of its range leaves it on an end."""
    trained = ("decay", "synaptic_decay", "adaptation", "adaptation_decay", "threshold", "leak")
    net = models.build("6-6-6-6-3", (4,), NEURONS, seed=1, trained=trained)
    random = np.random.default_rng(0)
    split = random.integers(0, 256, (8, 4), np.uint8), random.integers(0, 3, 8, np.int32)
    after = fit(Task(INPUTS), optax.sgd(1e3), net, split, epochs=1, batch_size=4, show=False)
    moved = [
        name
        for name, leaf in tree.named_leaves(after.params).items()
        if "/neurons/" in name and not jnp.array_equal(leaf, constant(net, name))
    ]
    assert {name.rpartition("/")[2] for name in moved} == set(trained)
    for name, (low, high) in net.program.ranges.items():
        leaf = constant(after, name)
        assert bool(jnp.all((leaf >= low) & (leaf <= high))), name
    assert not [name for name in net.program.ranges if name.endswith("leak")]
    assert jnp.isfinite(run(after, X).readout).all()


@pytest.mark.long
def test_a_recurrent_layer_of_each_runs_in_chunks_as_in_one():
    """States and the spikes that are heard are carried from chunk to chunk."""
    net = models.build("6R-6R-6R-6R-3R", (4,), NEURONS, seed=1)
    whole = run(net, X)
    chunks = jax.jit(lambda net, x: net(x, remat=3))(net, X)
    np.testing.assert_array_equal(whole.readout, chunks.readout)
    for name in NEURONS:
        np.testing.assert_array_equal(whole.activity.spikes[name], chunks.activity.spikes[name])
    heard = "dense3/recurrent"
    np.testing.assert_array_equal(whole.activity.events[heard], chunks.activity.events[heard])
    assert float(whole.activity.events[heard].sum()) > 0


# --- The places that know LIF neurons only --------------------------------------------------------

OTHERS = {"SynapticLIF": SynapticLIF(), "AdaptiveLIF": AdaptiveLIF()}
CARRIED = {"SynapticLIF": "a synaptic current", "AdaptiveLIF": "a threshold that rises"}
ANN = models.build("4-3", (4,), activation="relu", readout="current", use_bias=False)


@pytest.mark.parametrize("kind", OTHERS)
def test_a_place_that_knows_lif_only_refuses_another_neuron_by_name(kind, tmp_path):
    net = models.build("4-3", (4,), OTHERS[kind], readout="current", use_bias=False)
    with pytest.raises(UserError, match=f"layer 'dense1' fires by {kind}.* know LIF neurons only"):
        balancing.convert(ANN, net, {})
    with pytest.raises(UserError, match=f"'dense1' has no exact form in lava.*{CARRIED[kind]}"):
        export.to_lava(net, tmp_path, INPUTS_OF_EVENTS, allow_rounding=True)


def test_nir_takes_what_it_has_a_node_for():
    nodes = {"PLIF": "LIF", "SynapticLIF": "CubaLIF"}
    for neuron in (PLIF(), SynapticLIF()):
        graph = export.to_nir(models.build("4-3", (4,), neuron))
        kinds = {type(node).__name__ for node in graph.nodes.values()}
        assert nodes[type(neuron).__name__] in kinds
    with pytest.raises(UserError, match="dense1: neurons AdaptiveLIF, its threshold adapts"):
        export.to_nir(models.build("4-3", (4,), AdaptiveLIF()))


def test_plif_becomes_integers_as_the_lif_neuron_that_it_is():
    net = models.build("4-3", (4,), PLIF(0.0, 0.25), use_bias=False)
    plain = models.build("4-3", (4,), LIF(0.5, 0.5), use_bias=False)
    found, expected = (export.to_integer(each, timesteps=2) for each in (net, plain))
    for ours, theirs in zip(found.stages, expected.stages, strict=True):
        np.testing.assert_array_equal(ours.neurons.level, theirs.neurons.level)
        np.testing.assert_array_equal(ours.neurons.factor, theirs.neurons.factor)


def test_a_neuron_without_facts_is_refused_by_name():
    net, plain = (models.build("4-3", (4,), Resonator(), norm=norm) for norm in (True, False))
    for place, message in (
        (lambda: export.fold_norms(net, "neuron"), "does not say how it scales"),
        (lambda: rescale(net, {"dense2": 2.0}), "does not say how it scales"),
        (lambda: export.to_integer(plain, timesteps=2), "its steps are its own"),
        (lambda: firing_start(plain, X), "has no threshold"),
        (lambda: architecture.describe(net.module), "which has no kind of its own"),
    ):
        with pytest.raises(UserError, match=f"fires by Resonator.*{message}"):
            place()
