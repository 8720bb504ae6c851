"""The code that users must be able to write: ten tasks, from the installed package alone.

The lines are those that a user writes; only the network, the data and the epochs are small. What
is left out comes with the features that it needs: C code, adaptive neurons, loading by names.
"""

import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx

import jaxsnn
from jaxsnn import compress, data, export, layers, methods, metrics, models, neurons, train

pytestmark = pytest.mark.long

SHORT = {"epochs": 1, "batch_size": 32, "show": False}


@pytest.fixture(scope="module")
def digits():
    return data.load("digits", limit=160)


@pytest.fixture(scope="module")
def task(digits):
    return train.Task(digits.inputs(timesteps=2), loss="mse")


@pytest.fixture(scope="module")
def dense(digits, task):
    net = models.build("8C3-AP2-16-10", digits.shape, seed=0)
    return train.fit(task, optax.adam(1e-2), net, digits.train, **SHORT | {"epochs": 8})


def test_1_train_and_train_on(digits, task, dense):
    again = train.fit(
        task, optax.adam(1e-3), dense, digits.train, validation=digits.validation, **SHORT
    )
    assert train.evaluate(task, again, digits.test).accuracy > 0.2
    assert train.Task(digits.inputs(timesteps=2), loss="mse") == task


def test_2_a_whole_method_of_a_paper(digits, task, dense):
    options = methods.admm.Options(
        sparsity=0.9, bits=3, spike_weight=0.01, pull_epochs=1, retrain_epochs=1, batch_size=32
    )
    result = methods.admm.compress(dense, task, digits, options)
    small = result.network
    assert [row.name for row in result.report.rows][0] == "dense"
    assert result.report.rows[-1].density == pytest.approx(0.1, abs=0.02)
    assert "dense" in str(result.report) and small.steps


def test_3_a_composition_of_ones_own(digits, task, dense):
    recipe = {
        "*/kernel": compress.compose(
            compress.keep_largest(0.9), compress.uniform_grid(4, per="channel")
        )
    }
    mine = train.fit(
        task, compress.quantized(optax.adam(1e-3), recipe), dense, digits.train, **SHORT
    )
    for name, leaf in mine.quantized.items():
        layer, kernel = name.split("/")
        np.testing.assert_array_equal(leaf.decode(), mine.params[layer][kernel])
        assert np.count_nonzero(leaf.codes) <= round(0.1 * leaf.codes.size) + 1


def test_4_and_5_prune_once_and_compare(digits, task, dense):
    pruned, masks = compress.prune(dense, {"*/kernel": compress.keep_largest(0.9)})
    pruned = train.fit(
        task, compress.pruned(optax.adam(1e-3), masks), pruned, digits.train, **SHORT
    )
    compared = metrics.compare(task, digits.test, dense=dense, pruned=pruned)
    assert compared.row("dense").density == 1 and "pruned" in str(compared)
    assert compared.row("pruned").density == pytest.approx(0.1, abs=0.01)
    assert compared.row("pruned").synops < compared.row("dense").synops


def test_6_cut_channels_for_real(digits, task, dense):
    thin = methods.qp_snn.cut(
        dense,
        task,
        digits.train,
        ratios={"conv1": 0.5},
        calibration_batches=1,
        calibration_batch_size=50,
    )
    assert thin.params["conv1"]["kernel"].shape == (3, 3, 1, 4)
    assert train.predict(task, thin, digits.test.images[:3]).shape == (3, 10)


def test_7_sweep(digits, task, dense):
    def lane(point, start):
        recipe = {"*/kernel": compress.uniform_grid(point["bits"])}
        return compress.quantized(optax.adam(point["rate"]), recipe), start

    grid = {"bits": [2, 3], "rate": [1e-3, 3e-3]}
    found = jaxsnn.sweep.run(lane, grid, task, dense, digits, **SHORT)
    assert [row["bits"] for row in found.rows] == [2, 2, 3, 3]
    _, net, _ = found.lane(3)
    assert train.evaluate(task, net, digits.test).accuracy == pytest.approx(
        found.rows[3]["test_accuracy"], abs=1e-6
    )


def test_8_take_it_away(digits, task, dense, tmp_path):
    export.save(tmp_path / "small.safetensors", dense, task.inputs)
    export.save(tmp_path / "again.safetensors", dense, task.inputs)
    first, second = (
        (tmp_path / x).read_bytes() for x in ("small.safetensors", "again.safetensors")
    )
    assert first == second
    export.to_nir(dense, tmp_path / "small.nir", target="snntorch")
    back = export.load(tmp_path / "small.safetensors").network
    images = digits.test.images[:5]
    np.testing.assert_array_equal(
        train.predict(task, back, images), train.predict(task, dense, images)
    )


class Mine(nnx.Module):
    """A network with a skip of its own."""

    def __init__(self, rngs):
        self.a = layers.Conv((8, 8, 1), 8, 3, neurons=neurons.LIF(0.5), rngs=rngs)
        self.b = layers.Conv((8, 8, 8), 8, 3, neurons=neurons.AdaptiveLIF(0.5), rngs=rngs)
        self.out = layers.Dense(8, 10, neurons=layers.Integrator(), rngs=rngs)

    def __call__(self, x, tape):
        a = self.a(x, tape)
        return self.out(layers.mean_pixels(self.b(a, tape) + a), tape)


def test_9_a_network_of_ones_own(digits, task):
    net = jaxsnn.Network.of(Mine(nnx.Rngs(0)))
    net = train.fit(task, optax.adam(1e-2), net, digits.train, **SHORT)
    recipe = {"*/kernel": compress.uniform_grid(4)}
    small = train.fit(
        task, compress.quantized(optax.adam(1e-3), recipe), net, digits.train, **SHORT
    )
    compared = metrics.compare(task, digits.test, net=net, small=small)
    assert compared.row("small").bits <= 4 and compared.row("net").synops > 0
    keep = {"a": [0, 1], "b": [0, 1]}  # the skip adds them
    narrow = export.shrink(net, keep, inputs=task.inputs)
    silent = export.silence(net, keep)
    images = digits.test.images[:5]
    np.testing.assert_allclose(
        train.predict(task, narrow, images), train.predict(task, silent, images), atol=1e-6
    )


def test_10_weights_and_frameworks_of_ones_own(digits, task, dense, tmp_path):
    export.to_nir(dense, tmp_path / "elsewhere.nir", target="snntorch")
    net = export.from_nir(tmp_path / "elsewhere.nir")
    images = digits.test.images[:5]
    np.testing.assert_allclose(
        train.predict(task, net, images), train.predict(task, dense, images), atol=1e-6
    )

    def apply(params, x):
        return x.reshape(*x.shape[:2], -1) @ params["w"]

    foreign = jaxsnn.Network.wrap({"w": jnp.zeros((64, 10))}, apply)
    foreign = train.fit(task, optax.adam(1e-2), foreign, digits.train, **SHORT | {"epochs": 4})
    pruned, masks = compress.prune(foreign, {"w": compress.keep_largest(0.5)})
    pruned = train.fit(
        task, compress.pruned(optax.adam(1e-3), masks), pruned, digits.train, **SHORT
    )
    export.save(tmp_path / "foreign.safetensors", pruned, task.inputs)
    back = export.load(tmp_path / "foreign.safetensors", like=foreign).network
    np.testing.assert_array_equal(back.params["w"], pruned.params["w"])
    assert np.count_nonzero(back.params["w"]) == 320
