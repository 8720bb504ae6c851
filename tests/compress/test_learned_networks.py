"""Networks on learned and mixed grids, in every place that reads a grid."""

import jax.numpy as jnp
import numpy as np
import optax
import pytest

from jaxsnn import compress, export, models, tree
from jaxsnn.compress import mixed
from jaxsnn.export.integer import SPIKES
from jaxsnn.metrics import facts
from jaxsnn.neurons import LIF

pytestmark = pytest.mark.run

STEPS, X = 3, (np.random.default_rng(0).random((3, 2, 6, 6, 2)) < 0.5).astype(np.float32)
NET = models.build("4C3-AP2-6-3", (6, 6, 2), LIF(0.5, 0.5), seed=0)
SGD, KERNELS = optax.sgd(0.1), "*/kernel"
BITS = {"conv1/kernel": np.array([0, 3, 2, 4]), "*/kernel": 4}

PHASES = {
    "learned scales": lambda: compress.learned_scales(SGD, {KERNELS: 3}),
    "learned scales per channel": lambda: compress.learned_scales(SGD, BITS, per="channel"),
    "learned bits": lambda: compress.learned_bits(SGD, {KERNELS: 1 / 8}, 150.0),
    "mixed": lambda: compress.quantized(SGD, mixed.recipe(BITS, per="channel")),
}


def landed(name):
    """Return the network that a phase leaves without any training."""
    phase = PHASES[name]()
    done = phase.finish(phase.begin(NET.params), phase.optimizer.init(NET.params))
    return NET.replace(params=done.params, steps=done.steps)


FIRST = "learned scales per channel"  # what the default tier looks at
CASES = [pytest.param(name, marks=() if name == FIRST else pytest.mark.slow) for name in PHASES]


@pytest.fixture(scope="module", params=CASES)
def net(request):
    return landed(request.param)


def assert_on_grid(net):
    leaves = tree.named_leaves(net.params)
    assert set(net.steps) == {name for name in leaves if name.endswith("kernel")}
    for name, found in net.quantized.items():
        np.testing.assert_array_equal(found.decode(), leaves[name])


def test_a_packed_file_returns_weights_and_steps(net, tmp_path):
    export.save(tmp_path / "net", net)
    again = export.load(tmp_path / "net").network
    assert_on_grid(again)
    for name, step in net.steps.items():
        np.testing.assert_array_equal(tree.named_leaves(again.params)[name],
                                      tree.named_leaves(net.params)[name])  # fmt: skip
        np.testing.assert_array_equal(again.steps[name].bits, step.bits)
        np.testing.assert_array_equal(again.steps[name].scale, step.scale)


def test_reports_have_the_mean_of_the_bits(net):
    found = facts.stored(net)
    for name, step in net.steps.items():
        leaf = np.asarray(tree.named_leaves(net.params)[name])
        each = np.broadcast_to(np.asarray(step.bits), leaf.shape)[leaf != 0]
        assert found.layers[name.removesuffix("/kernel")]["bits"] == pytest.approx(each.mean())
    assert found.network["weight_bytes"] < 4 * sum(
        x.size for x in tree.named_leaves(net.params).values()
    )


def test_shrinking_and_folding_keep_the_grids(net):
    assert_on_grid(export.fold_norms(net))
    small = export.shrink(net, {"conv1": [0, 2, 3]})
    assert_on_grid(small)
    step = small.steps["conv1/kernel"]
    assert step.scale.shape in ((), (1, 1, 1, 3)) and step.bits.shape in ((), (1, 1, 1, 3))


def test_integers_are_the_codes(net):
    integers = export.to_integer(net, SPIKES, STEPS)
    kernels = {stage.name: stage.kernel for stage in integers.stages if hasattr(stage, "kernel")}
    for name, found in net.quantized.items():
        np.testing.assert_array_equal(kernels[name.removesuffix("/kernel")], found.codes)
    found = export.run_integer(integers, jnp.asarray(X, jnp.int32))
    assert found.readout.shape == (STEPS, 2, 3)


def test_nir_and_npz_hold_the_same_weights(net, tmp_path):
    export.to_nir(net, tmp_path / "net.nir", (6, 6, 2))
    again = export.from_nir(tmp_path / "net.nir")
    kernels = [leaf for n, leaf in tree.named_leaves(again.params).items() if n.endswith("kernel")]
    for kernel, found in zip(kernels, net.quantized.values(), strict=True):
        np.testing.assert_array_equal(kernel, found.decode())
    export.save_npz(tmp_path / "net.npz", net)
    with np.load(tmp_path / "net.npz") as file:
        for name, found in net.quantized.items():
            np.testing.assert_array_equal(file[f"params/{name}#integers"], found.codes)


def test_a_read_out_whose_scales_are_powers_of_two_is_exact_in_integers():
    codes = jnp.asarray(np.random.default_rng(1).integers(-60, 61, (6, 3)))
    step = compress.Step.of(jnp.asarray([[0.5, 0.0625, 0.25]]), bits=7)
    kernel = step.with_codes(codes).decode()
    net = models.build("6-3", (4,), LIF(0.5, 0.5), readout="current", seed=0)
    net = net.replace(
        params=tree.substitute(net.params, {"dense2/kernel": kernel}),
        steps={"dense2/kernel": step},
    )
    found = export.to_integer(net, SPIKES, STEPS).stages[-1].kernel
    np.testing.assert_array_equal(found, codes * jnp.asarray([[8, 1, 4]]))
