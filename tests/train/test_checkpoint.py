"""What is saved comes back to the bit, or one line says why not."""

import time
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from jaxsnn.errors import UserError
from jaxsnn.train.checkpoint import Checkpoints


class Inner(NamedTuple):
    flags: jax.Array
    counts: jax.Array


class State(NamedTuple):
    params: dict[str, Any]
    inner: Inner
    empty: optax.EmptyState
    nothing: tuple
    key: jax.Array
    step: jax.Array


def state(seed=0, size=5):
    draw = np.random.default_rng(seed)
    return State(
        params={
            "conv1": {"kernel": jnp.asarray(draw.normal(size=(3, size)), jnp.float32)},
            "half": jnp.asarray(draw.normal(size=4), jnp.bfloat16),
        },
        inner=Inner(jnp.asarray(draw.random((2, 3)) < 0.5), jnp.arange(4) + seed),
        empty=optax.EmptyState(),
        nothing=(),
        key=jax.random.key_data(jax.random.key(seed)),
        step=jnp.int32(seed),
    )


def assert_same(found, expected):
    assert jax.tree.structure(found) == jax.tree.structure(expected)
    for leaf, other in zip(jax.tree.leaves(found), jax.tree.leaves(expected), strict=True):
        assert isinstance(leaf, jax.Array)
        assert leaf.dtype == other.dtype
        np.testing.assert_array_equal(leaf, other)


@pytest.fixture
def checkpoints(tmp_path):
    opened = Checkpoints(tmp_path / "phase")
    yield opened
    opened.close()


@pytest.fixture
def saved(tmp_path):
    """Return the folder of a checkpoint that another process could have written."""
    writer = Checkpoints(tmp_path / "phase")
    writer.save(3, state(3))
    writer.close()
    return tmp_path / "phase"


def restore(folder, like):
    reader = Checkpoints(folder)
    try:
        return reader.restore(like)
    finally:
        reader.close()


def test_every_type_and_empty_parts_come_back(saved):
    assert_same(restore(saved, state(0)), state(3))


def test_the_newest_are_kept_and_each_can_be_restored(tmp_path):
    checkpoints = Checkpoints(tmp_path, keep=2)
    assert checkpoints.latest() is None
    for epoch in range(1, 5):
        checkpoints.save(epoch, state(epoch))
    assert checkpoints.latest() == 4
    assert sorted(path.name for path in tmp_path.iterdir() if path.is_dir()) == ["3", "4"]
    assert_same(checkpoints.restore(state()), state(4))
    assert_same(checkpoints.restore(state(), 3), state(3))
    checkpoints.close()


def test_the_state_may_be_overwritten_as_soon_as_save_returns(checkpoints):
    donated = state(1)
    checkpoints.save(1, donated)
    update = jax.jit(lambda tree: jax.tree.map(jnp.zeros_like, tree), donate_argnums=0)
    update(donated)
    mutable = {"weights": np.ones(1000, np.float32)}
    assert_same(checkpoints.restore(state()), state(1))
    checkpoints.save(2, mutable)
    mutable["weights"][:] = 7
    assert_same(checkpoints.restore(mutable), {"weights": jnp.ones(1000)})


def test_nothing_to_restore_is_an_error(checkpoints):
    with pytest.raises(UserError, match="no checkpoint in .*phase"):
        checkpoints.restore(state())


def test_all_leaves_that_do_not_fit_are_named_at_once(saved):
    other = state(0, size=6)
    params = {"conv1": other.params["conv1"], "extra": {"bias": jnp.zeros(2)}}
    counts = other.inner.counts.astype(jnp.float32)
    other = other._replace(params=params, inner=other.inner._replace(counts=counts))
    with pytest.raises(UserError) as caught:
        restore(saved, other)
    message = str(caught.value)
    assert "\n" not in message
    assert f"{saved / '3'} does not fit this run" in message
    for part in (
        "params/extra/bias is missing",
        "params/half is not expected",
        "params/conv1/kernel is float32[3, 5], not float32[3, 6]",
        "inner/counts is int32[4], not float32[4]",
    ):
        assert part in message
    assert message.count(";") == 3


def truncate(path):
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def garble(path):
    path.write_bytes(bytes(byte ^ 0x5A for byte in path.read_bytes()))


# When one array fails, Orbax closes its event loop; threads that read the others then complain.
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
@pytest.mark.parametrize("damage", [truncate, garble])
@pytest.mark.parametrize("which", ["**/_METADATA", "**/d/*", "**/manifest.ocdbt", "**/*"])
def test_a_damaged_checkpoint_is_one_line_that_names_it(saved, damage, which):
    files = [path for path in (saved / "3").glob(which) if path.is_file()]
    assert files
    for path in files:
        damage(path)
    with pytest.raises(UserError) as caught:
        restore(saved, state())
    time.sleep(0.1)  # until those threads have ended, so that no other test hears of them
    message = str(caught.value)
    assert f"checkpoint {saved / '3'} is damaged" in message
    assert "\n" not in message
    assert len(message) < 400


def test_a_checkpoint_that_was_not_finished_is_not_there(saved):
    (saved / "3").rename(saved / "3.orbax-checkpoint-tmp")
    checkpoints = Checkpoints(saved)
    assert checkpoints.latest() is None
    checkpoints.close()
