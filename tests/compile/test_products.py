"""Products of bytes give the integer network's scores and spikes, with tiles and without."""

import ctypes
import shutil
from dataclasses import replace

import jax.numpy as jnp
import numpy as np
import pytest

from jaxsnn import models, tree
from jaxsnn.compile import choice, products, source
from jaxsnn.compile.fit_costs import layer
from jaxsnn.export import to_integer
from jaxsnn.export.integer import IntegerGrid
from jaxsnn.native.builder import build
from jaxsnn.native.processor import flags as instructions
from jaxsnn.neurons import LIF, AdaptiveLIF
from tests.compile.random_networks import (
    STRICT,
    Case,
    assert_equal,
    draw,
    expected,
    run_program,
)
from tests.peers import CROSS, peer_python

pytestmark = pytest.mark.skipif(shutil.which("cc") is None, reason="there is no C compiler")

BUILDS = {
    "plain": ("-O1",),
    "avx2": ("-O2", "-mavx2"),
    "this": ("-O3", "-march=native"),
    "no tiles": ("-O2", "-march=native", "-mno-amx-tile", "-mno-amx-int8"),
}
NEEDED = {"avx2": "avx2", "no tiles": "amx_int8"}
# Channels that fill tiles and blocks, and some that do not; steps in one chunk, in some, alone.
WIDE = (
    ("20C3-AP2-36C3S2-40-5", 4, True),
    ("16C3-33C3-MP2-17-5", 3, False),
    ("16C3-32B3-AP2-32B3S2-5", 2, False),
    ("24C5V-16C3V-20", 1, True),
    ("16C2-64C3-AP2-70R-5", 9, False),
    ("18C3-16C3-AP2-6", 11, False),
)


def choose_products(case, monkeypatch):
    """Make both entries of a network products of bytes."""
    assert products.fits(case.plan)
    monkeypatch.setattr(choice, "fastest", products.emit)
    monkeypatch.setattr(choice, "many_by_products", lambda plan, one: True)


def chosen(case, monkeypatch, flags):
    """Return the library of a network, both of whose entries are products of bytes."""
    choose_products(case, monkeypatch)
    code = source.assemble(case.plan, "net", {}, target="cpu").code
    assert "LANES" not in code
    return ctypes.CDLL(str(build(code, (*STRICT, "-DNET_TRACE", *flags))))


def wide(layout: str, timesteps: int, constant: bool, top: int = 7) -> Case:
    """Return a network of a layout with weights of up to `top`, and samples below and above 0."""
    random = np.random.default_rng(timesteps)
    shape = (9, 10, 3)
    neuron = {"dense*": AdaptiveLIF(0.5, 1.0, 0.25, 0.9), "*": LIF(0.75, 1.0, reset="soft")}
    net = models.build(layout, shape, neuron if "R" in layout else neuron["*"])

    def weights(name, leaf):
        codes = random.integers(-top, top + 1, leaf.shape)
        return jnp.asarray(codes * 2.0 ** -(2 + leaf.ndim // 2) * 7 / top, jnp.float32)

    net = net.replace(params=tree.map_named(weights, net.params))
    grid = IntegerGrid(1 / 32, -100, 90)
    integers = to_integer(net, grid, timesteps, state_bits=32)
    size = (6, *shape) if constant else (6, timesteps, *shape)
    return Case(layout, integers, shape, random.integers(grid.low, grid.high + 1, size), constant)


@pytest.mark.parametrize("how", BUILDS)
@pytest.mark.parametrize(("layout", "timesteps", "constant"), WIDE)
def test_layers_of_many_channels_are_equal(layout, timesteps, constant, how, monkeypatch):
    if how in NEEDED and NEEDED[how] not in instructions():
        pytest.skip(f"this processor has no {NEEDED[how]}")
    if how != "this" and timesteps not in (2, 3, 9):
        pytest.skip("the others are built once")
    case = wide(layout, timesteps, constant)
    assert_equal(case, chosen(case, monkeypatch, BUILDS[how]))


@pytest.mark.parametrize("seed", [0, 3, 11, 12, 40])
def test_random_networks_are_equal(seed, monkeypatch):
    case = draw(seed)
    assert_equal(case, chosen(case, monkeypatch, ("-O1",)))


@pytest.mark.parametrize("how", ["avx2", "this"])
def test_two_products_beyond_16_bits_are_added_up(how, monkeypatch):
    if how in NEEDED and NEEDED[how] not in instructions():
        pytest.skip(f"this processor has no {NEEDED[how]}")
    case = wide("16C3-AP2-5", 2, True, top=127)
    layers = products.layers_of(case.plan).values()
    assert [layer.shape.endswith(", 1}") for layer in layers] == [True, False]
    assert_equal(case, chosen(case, monkeypatch, BUILDS[how]))


@pytest.mark.slow
@pytest.mark.parametrize("first", range(0, 200, 25))
def test_many_random_networks_are_equal(first, monkeypatch):
    ways = (("-O3", "-march=native"), ("-O1", "-fsanitize=undefined", "-fno-sanitize-recover"))
    for seed in range(first, first + 25):
        case = draw(seed)
        if products.fits(case.plan):
            assert_equal(case, chosen(case, monkeypatch, ways[seed % 2]))


@pytest.mark.slow
@pytest.mark.parametrize(
    "flags",
    [("-O0",), ("-O2", "-mavx2"), ("-O3", "-march=native"), ("-O2", "-target", "x86-linux-musl")],
    ids=["plain", "avx2", "this", "32 bits"],
)
def test_clang_builds_the_same(flags, monkeypatch, tmp_path):
    compiler = [peer_python(*CROSS), "-m", "ziglang", "cc"]
    for case in (*(wide(*each) for each in WIDE[:5]), draw(3), draw(12)):
        choose_products(case, monkeypatch)
        right = np.concatenate(expected(case), 1)
        found = run_program(case, tmp_path, (*flags, "-DNET_BATCH"), compiler)
        np.testing.assert_array_equal(found, np.tile(right, 2), case.layout)


def test_larger_numbers_do_not_fit():
    plan = layer(8, 4, 4, 1.0)
    step = plan.layers[0]
    assert products.fits(plan)
    for kernel, high in ((50 * step.kernel, 1), (step.kernel, 300)):
        wires = (replace(plan.signals[0], high=high), plan.signals[1])
        other = replace(plan, steps=(replace(step, kernel=kernel),), signals=wires)
        assert not products.fits(other)
