"""The scale of a grid against brute force: all levels that there are, or 64 starts."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxsnn import compress, models, tree
from jaxsnn.compress import fitting, grids
from jaxsnn.neurons import LIF

DRAW = np.random.default_rng(0)
GRIDS = {
    "ternary": (grids.ternary_grid, range(2)),
    "uniform 3": (lambda **how: grids.uniform_grid(3, **how), range(4)),
    "uniform 4": (lambda **how: grids.uniform_grid(4, **how), range(8)),
    "uniform 8": (lambda **how: grids.uniform_grid(8, **how), range(128)),
    "pow2 3": (lambda **how: grids.pow2_grid(3, **how), [0, 1, 2, 4]),
    "pow2 4": (lambda **how: grids.pow2_grid(4, **how), [0, *2.0 ** np.arange(7)]),
}
LEAVES = {
    "normal": lambda size: DRAW.normal(size=size),
    "heavy tails": lambda size: DRAW.standard_t(2, size=size),
    "uniform": lambda size: DRAW.uniform(-1, 1, size),
    "one outlier": lambda size: np.append(DRAW.normal(size=size - 1), 30.0),
    "mostly zero": lambda size: DRAW.normal(size=size) * (DRAW.random(size) < 0.2),
}


def error(leaf, shown):
    return np.sum((np.asarray(leaf, np.float64) - np.asarray(shown, np.float64)) ** 2)


def least_error(leaf, levels):
    """Return the least squared error over all scales, exactly.

    Between two scales at which some weight changes its level, the levels stand still, and the best
    scale for them leaves `<v, v> - <v, q>**2 / <q, q>`. All such levels are tried.
    """
    magnitude = np.abs(np.asarray(leaf, np.float64))
    magnitude, levels = magnitude[magnitude > 0].reshape(-1, 1), np.asarray(levels, np.float64)
    if magnitude.size == 0:
        return 0.0
    turns = (levels[1:] + levels[:-1]) / 2 / magnitude  # 1 / scale at which a level is left
    order = np.argsort(turns, axis=None)
    product = np.cumsum((magnitude * np.diff(levels)).ravel()[order])
    square = np.cumsum(np.broadcast_to(np.diff(levels**2), turns.shape).ravel()[order])
    return np.sum(magnitude**2) - np.max(product**2 / square)


@pytest.mark.parametrize("name", GRIDS)
def test_small_leaves_are_within_a_hundredth_of_the_nearest_point(name):
    make, levels = GRIDS[name]
    project = jax.jit(make())
    for size in (7, 60):
        for kind, draw in LEAVES.items():
            for _ in range(3):
                leaf = draw(size).astype(np.float32)
                slack = 1e-10 * np.sum(leaf.astype(np.float64) ** 2)
                least = least_error(leaf, levels)
                assert error(leaf, project(leaf)) <= 1.01 * least + slack, (kind, size)


@pytest.mark.long
def test_each_channel_of_a_small_leaf_is_within_a_hundredth():
    leaf = (DRAW.normal(size=(12, 5)) * [1, 100, 0.01, 3, 1]).astype(np.float32)
    for name, (make, levels) in GRIDS.items():
        shown = make(per="channel")(jnp.asarray(leaf))
        for channel in range(5):
            least = least_error(leaf[:, channel], levels)
            assert error(leaf[:, channel], shown[:, channel]) <= 1.01 * least + 1e-9, name


def of_many_starts(leaf, make, starts=64):
    """Return the least error of the alternation from so many starts, 20 rounds each."""
    grid = make()
    magnitude = np.abs(leaf)
    low, high = magnitude[magnitude > 0].mean() / float(grid.top), magnitude.max()

    @jax.jit
    def from_start(scale):
        how = {"nearest": grid.nearest, "sweeps": 20, "keep_zeros": False}
        alpha, levels = fitting.alternate(leaf, grid.top, first=lambda *_: scale[None], **how)
        return jnp.sum((leaf - alpha * levels) ** 2)

    return min(float(from_start(scale)) for scale in np.geomspace(low, high, starts))


@pytest.mark.long
@pytest.mark.parametrize(
    ("name", "kind"),
    [("uniform 4", "normal"), ("uniform 8", "heavy tails"), ("ternary", "heavy tails"),
     ("uniform 4", "one outlier"), ("uniform 8", "normal"), ("pow2 3", "normal")],
)  # fmt: skip
def test_large_leaves_are_no_worse_than_64_starts(name, kind):
    make = GRIDS[name][0]
    leaf = jnp.asarray(LEAVES[kind](200_704), jnp.float32)
    found, one_start = (
        make()(leaf),
        grids.Grid(make().nearest, make().top, 8, first=fitting.largest, sweeps=20)(leaf),
    )
    least = of_many_starts(leaf, make)
    assert error(leaf, found) <= 1.01 * least
    assert error(leaf, found) <= 1.0001 * error(leaf, one_start)


@pytest.mark.long
def test_it_is_traceable_and_the_same_mapped_and_with_traced_levels():
    leaves = jnp.asarray(DRAW.normal(size=(3, 50)), jnp.float32)
    mapped = jax.jit(jax.vmap(grids.uniform_grid(4)))(leaves)
    for leaf, shown in zip(leaves, mapped, strict=True):
        np.testing.assert_allclose(shown, grids.uniform_grid(4)(leaf), rtol=1e-6)
    bits = jnp.asarray([2.0, 4.0, 8.0])
    leaf = leaves.T
    swept = jax.jit(jax.vmap(lambda b: grids.uniform_grid(b, per="channel").quantize(leaf)))(bits)
    for i, b in enumerate((2, 4, 8)):
        single = grids.uniform_grid(b, per="channel").quantize(leaf)
        np.testing.assert_array_equal(swept.codes[i], single.codes)


@pytest.mark.long
@pytest.mark.parametrize("per", ["leaf", "channel"])
def test_a_leaf_on_the_grid_stays_where_it_is(per):
    for name, (make, _) in GRIDS.items():
        leaf = jnp.asarray(DRAW.normal(size=(40, 3)), jnp.float32)
        once = make(per=per).quantize(leaf)
        again = make(per=per).quantize(once.decode())
        full = jnp.abs(once.codes).max(None if per == "leaf" else 0, keepdims=True) == make().top
        same = jnp.where(full, again.codes == once.codes, True)  # others may have another scale
        assert bool(same.all()) or "pow2" in name, name
        np.testing.assert_allclose(again.decode(), once.decode(), rtol=1e-6, err_msg=name)


@pytest.mark.long
def test_one_outlier_silences_its_channel_at_most():
    net = models.build("20-10", (30,), LIF(0.5, 0.2), seed=0, use_bias=False)
    kernel = net.params["dense1"]["kernel"]
    spoilt = {"dense1/kernel": kernel.at[0, 0].set(-200 * jnp.abs(kernel).max())}
    net = net.replace(params=tree.substitute(net.params, spoilt))
    x = jnp.asarray(DRAW.random((8, 5, 30)) < 0.5, jnp.float32)

    def rate(net):
        return np.mean(net(x).activity.spikes["dense1"]) / 8

    rates = {
        per: rate(compress.project(net, {"dense1/kernel": grids.uniform_grid(4, per=per)}))
        for per in ("leaf", "channel")
    }
    assert rates["leaf"] < 0.1 * rate(net)
    assert rates["channel"] == pytest.approx(rate(net), rel=0.25)


@pytest.mark.long
def test_memory_does_not_grow_with_the_scales_that_are_tried():
    for shape, per in (
        ((1 << 21,), "leaf"),
        ((1 << 10, 1 << 11), "channel"),
        ((60, 99), "channel"),
    ):
        leaf = jax.ShapeDtypeStruct(shape, "f4")
        for grid in (grids.uniform_grid(4, per=per), grids.pow2_grid(4, per=per)):
            used = jax.jit(grid).lower(leaf).compile().memory_analysis().temp_size_in_bytes
            assert used <= 4 * max(6 * leaf.size, 16 * fitting.WORK)
