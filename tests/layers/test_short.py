"""A network in bfloat16: what its training step keeps and moves, and what stays float32."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from jax.interpreters import partial_eval

from jaxsnn import compress, inputs, layers, models, neurons, surrogate, train, tree
from jaxsnn.compress import Step
from jaxsnn.native import processor
from jaxsnn.train import loop

T, B = 6, 5
PLAIN = surrogate.triangle()


@pytest.fixture
def fast(monkeypatch, tmp_path):
    """Let this processor be one that multiplies bfloat16; nothing is run on it."""
    path = tmp_path / "cpuinfo"
    path.write_text("flags : amx_bf16\n")
    monkeypatch.setattr(processor, "CPUINFO", path)
    processor.flags.cache_clear()
    yield
    processor.flags.cache_clear()


def loss_of(layout, shape, encoding, *, norm=False, dtype=jnp.bfloat16, **neuron):
    """Return a training loss of a network's parameters, and its arguments as shapes."""
    lif = neurons.LIF(0.8, 0.5, surrogate=PLAIN, **neuron)
    net = models.build(layout, shape, lif, norm=norm, dtype=dtype)
    task = train.Task(inputs.Inputs(shape, T, encoding), loss="ce", spike_weight=0.1)
    keys = jax.random.split(jax.random.key(1), B)

    def loss(params, images, labels):
        x = task.prepare(jax.random.key(0), images, True)
        output = task.run(net.replace(params=params), x, train=True, key=keys)
        return task.objective(output, labels, x)

    images = jax.ShapeDtypeStruct((B, *task.inputs.sample_shape), jnp.uint8)
    return loss, (net.params, images, jax.ShapeDtypeStruct((B,), jnp.int32))


def is_long(array):
    """Return whether an array has a value for each step, sample and at least two neurons."""
    return array.dtype == jnp.float32 and array.size >= 2 * T * B and T * B in (
        array.shape[0], *(array.shape[0] * n for n in array.shape[1:2])
    )  # fmt: skip


NETWORKS = [
    ("4C3-AP2-3C3-MP2-7-3", (8, 8, 2), "events", {}),
    ("4C3-AP2-3C3-D0.2-7-3", (4, 4, 2), "bernoulli", {"norm": True}),
    ("4C3-4C3-3", (4, 4, 2), "direct", {"order": "fire_then_integrate", "detach_reset": True}),
    ("7R-3", (8,), "events", {}),
]


@pytest.mark.long
@pytest.mark.parametrize(("layout", "shape", "encoding", "options"), NETWORKS)
def test_a_step_keeps_nothing_of_every_step_in_float32(layout, shape, encoding, options):
    def kept(dtype):
        loss, arguments = loss_of(layout, shape, encoding, dtype=dtype, **options)

        def pull(params, *batch):
            return jax.vjp(lambda p: loss(p, *batch), params)[1]

        return jax.tree.leaves(jax.eval_shape(pull, *arguments))

    assert any(map(is_long, kept(jnp.float32)))
    short = kept(jnp.bfloat16)
    assert [each for each in short if is_long(each)] == []
    # One potential for each layer of neurons: spikes and surrogates are computed from it again.
    firing = layout.count("-") + 1 - sum(layout.count(word) for word in ("AP", "MP", "D0"))
    potentials = [each for each in short if each.dtype == jnp.bfloat16 and each.shape[:2] == (T, B)]
    assert len(potentials) == firing + ("D0" in layout)  # a dropout keeps what it multiplied with


def equations(jaxpr):
    """Yield the equations of a program, those of its loops and functions among them."""
    for equation in jaxpr.eqns:
        yield equation
        for value in jax.tree.leaves(
            list(equation.params.values()), is_leaf=lambda x: hasattr(x, "eqns")
        ):
            inner = getattr(value, "jaxpr", value)
            if hasattr(inner, "eqns"):
                yield from equations(inner)


MOVERS = {"scan", "while", "dot_general", "concatenate", "gather", "transpose", "pad", "sort"}


@pytest.mark.usefixtures("fast")
@pytest.mark.parametrize("layout", ["9-7-3", "7R-3"])
@pytest.mark.long
def test_a_step_moves_nothing_of_every_step_in_float32(layout):
    def moved(dtype):
        loss, arguments = loss_of(layout, (8,), "events", dtype=dtype)
        program = jax.make_jaxpr(jax.grad(loss))(*arguments).jaxpr
        program, _ = partial_eval.dce_jaxpr(program, [True] * len(program.outvars))
        found = [e for e in equations(program) if e.primitive.name in MOVERS]
        assert found
        return [
            (e.primitive.name, v.aval)
            for e in found
            for v in (*e.invars, *e.outvars)
            if hasattr(v.aval, "dtype") and is_long(v.aval)
        ]

    assert moved(jnp.float32)
    assert moved(jnp.bfloat16) == []


@pytest.mark.long
def test_weights_gradients_read_out_and_record_are_float32():
    loss, (params, images, labels) = loss_of("4C3-AP2-6-V3", (4, 4, 2), "events")
    random = np.random.default_rng(0)
    images = jnp.asarray(random.integers(0, 2, images.shape), jnp.uint8)
    labels = jnp.asarray(random.integers(0, 3, B), jnp.int32)
    short = jax.jit(jax.value_and_grad(loss))(params, images, labels)
    exact_loss, _ = loss_of("4C3-AP2-6-V3", (4, 4, 2), "events", dtype=jnp.float32)
    exact = jax.jit(jax.value_and_grad(exact_loss))(params, images, labels)
    assert {leaf.dtype for leaf in jax.tree.leaves(short)} == {jnp.dtype("float32")}
    assert abs(short[0] - exact[0]) < 0.05 * abs(exact[0])
    for a, b in zip(jax.tree.leaves(short[1]), jax.tree.leaves(exact[1]), strict=True):
        cosine = jnp.vdot(a, b) / jnp.maximum(jnp.linalg.norm(a) * jnp.linalg.norm(b), 1e-12)
        assert cosine > 0.9 or jnp.abs(b).max() == 0


# --- Quantized layers -----------------------------------------------------------------------------


def quantized(layout, dtype, scale):
    """Return a network with weights on 8-bit grids, of a scale, and its input of spikes."""
    net = models.build(
        layout, (6, 6, 2), neurons.LIF(0.75, 1.0, surrogate=PLAIN), readout="current", dtype=dtype
    )
    random = np.random.default_rng(0)
    step = Step.of(jnp.float32(scale), bits=8)

    def on_grid(name, leaf):
        codes = step.with_codes(jnp.asarray(random.integers(-127, 128, leaf.shape)))
        return codes.decode() if name.endswith("kernel") else leaf

    params = tree.map_named(on_grid, net.params)
    steps = {name: step for name in tree.named_leaves(params) if name.endswith("kernel")}
    x = jnp.asarray(random.random((T, B, 6, 6, 2)) < 0.4, jnp.float32)
    return net.replace(params=params, steps=steps), x


@pytest.mark.long
@pytest.mark.parametrize("remat", [None, 3])
def test_a_network_of_codes_is_that_of_float32_bit_for_bit(remat):
    layout, scale = "4C3-AP2-7-3", 2.0**-7  # with it no sum of float32 weights is rounded either

    def outputs(dtype):
        net, x = quantized(layout, dtype, scale)
        wave = jnp.asarray(np.random.default_rng(1).integers(-2, 3, (T, B, 3)), jnp.float32)

        def loss(params):
            output = net.replace(params=params, steps=net.steps)(x, train=True, remat=remat)
            return jnp.vdot(output.readout, wave), (output.readout, output.activity.spikes)

        gradient, seen = jax.jit(jax.grad(loss, has_aux=True))(net.params)
        return seen, gradient

    (short, gradient), (exact, right) = outputs(jnp.bfloat16), outputs(jnp.float32)
    assert 0.05 < exact[1]["conv1"].mean() / T < 0.95
    jax.tree.map(np.testing.assert_array_equal, short, exact)
    # The read-out's error is whole here. Behind a surrogate an error is rounded, and the gradient.
    jax.tree.map(np.testing.assert_array_equal, gradient["dense2"], right["dense2"])
    for name in ("conv1", "dense1"):
        a, b = gradient[name]["kernel"], right[name]["kernel"]
        np.testing.assert_allclose(a, b, rtol=0, atol=2**-6 * float(jnp.abs(b).max()))
        assert (a != b).any()


@pytest.mark.long
def test_the_scale_of_codes_stands_behind_an_exact_sum():
    net, _ = quantized("5-3", jnp.bfloat16, 0.0123)
    step, layer = net.steps["dense1/kernel"], net.module.dense1
    codes = np.asarray(step.encode(net.params["dense1"]["kernel"]).codes)
    x = (np.random.default_rng(0).random((4, 72)) < 0.5).astype(np.float32)
    tape = layers.Tape(steps=net.steps)
    expected = (x.astype(int) @ codes).astype(np.float32) * np.float32(0.0123)
    expected += np.asarray(net.params["dense1"]["bias"])
    np.testing.assert_array_equal(layer.current(jnp.asarray(x), tape), expected)
    rounded = layer.current(jnp.asarray(x), layers.Tape())  # of weights that bfloat16 rounds
    assert (rounded != expected).any()


GRIDS = {
    "fitted": lambda: compress.quantized(optax.sgd(0.1), {"*/kernel": compress.uniform_grid(8)}),
    "learned": lambda: compress.learned_scales(
        optax.sgd(0.1), {"*/kernel": 8}, per="channel"
    ),
}  # fmt: skip


@pytest.mark.long
@pytest.mark.parametrize("kind", GRIDS)
def test_a_quantized_training_multiplies_codes_from_its_second_step_on(kind):
    net, x = quantized("5-3", jnp.bfloat16, 0.0123)
    phase, task = GRIDS[kind](), train.Task(inputs.Inputs((6, 6, 2), T, "events"), loss="ce")
    random = np.random.default_rng(2)
    images, labels = x.swapaxes(0, 1).astype(jnp.uint8), jnp.asarray(random.integers(0, 3, B))
    step = jax.jit(lambda state: loop.train_step(task, phase.optimizer, state, images, labels))
    state = loop.init(net, phase, jax.random.key(0))
    assert float(state.net.steps["dense1/kernel"].scale.max()) == 0  # none is known yet
    state, first = step(state)
    shown = loop.end_phase(phase, state)
    for name, grid in shown.steps.items():
        np.testing.assert_allclose(state.net.steps[name].scale, grid.scale, rtol=1e-6)

    def loss(net):
        return jax.jit(lambda: task.objective(task.run(net, x, train=True), labels, x))()

    assert step(state)[1].loss == loss(shown.replace(params=shown.params, steps=state.net.steps))
    assert step(state)[1].loss != loss(shown.replace(params=shown.params))  # which rounds weights
    assert np.isfinite(first.loss)
    wide, _ = quantized("5-3", jnp.float32, 0.0123)
    assert loop.init(wide, phase, jax.random.key(0)).net.steps == {}
