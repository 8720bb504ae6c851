"""What is saved comes back to the bit, or one line says why not."""

import random
import shutil
import subprocess
import sys
from collections import Counter
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
    for epoch in (2, 4):
        with pytest.raises(UserError, match=f"of epoch {epoch} or later already"):
            checkpoints.save(epoch, state())
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


# --- Damage ---------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def two(tmp_path_factory):
    """Return a folder with the checkpoints of epochs 1 and 2."""
    folder = tmp_path_factory.mktemp("two")
    writer = Checkpoints(folder)
    writer.save(1, state(1))
    writer.save(2, state(2))
    writer.close()
    return folder


def files_of(checkpoint):
    return sorted(path for path in checkpoint.rglob("*") if path.is_file())


def flip(content, draw):
    at = draw.randrange(len(content))
    return content[:at] + bytes([content[at] ^ 1 << draw.randrange(8)]) + content[at + 1 :]


def insert(content, draw):
    at = draw.randrange(len(content))
    return content[:at] + draw.randbytes(4) + content[at:]


DAMAGES = {
    "flip": flip,
    "truncate": lambda content, draw: content[: draw.randrange(len(content))],
    "garble": lambda content, _: bytes(byte ^ 0x5A for byte in content),
    "insert": insert,
    "delete": None,
}


def damage(path, kind, draw):
    if kind == "delete":
        path.unlink()
    elif content := path.read_bytes():
        path.write_bytes(DAMAGES[kind](content, draw))


def check_damaged(folder, capsys):
    """Restore from a folder whose newest checkpoint was damaged; return which epoch came back.

    What comes back must be one of the two states to the bit. If it is the older one, one line must
    name the newer.
    """
    capsys.readouterr()
    reader = Checkpoints(folder)
    found = reader.restore(state())
    reader.close()
    epoch = int(found.step)
    assert_same(found, state(epoch))
    said = capsys.readouterr().err
    if epoch == 1 and said:  # a checkpoint that lost the mark of its end is not there: no line
        assert said.startswith(f"checkpoint {folder / '2'} is damaged: ")
        assert said.endswith("; going on from epoch 1\n") and said.count("\n") == 1
        assert (folder / "2.damaged").is_dir() and not (folder / "2").exists()
    elif epoch == 2:
        assert said == ""
    return epoch


def sweep(two, folder, capsys, seed, rounds):
    """Damage every file of the newest checkpoint, `rounds` times in every way; count epochs."""
    draw, epochs = random.Random(seed), Counter()
    for number in range(len(files_of(two / "2")) * len(DAMAGES) * rounds):
        copy = folder / str(number)
        shutil.copytree(two, copy)
        paths = files_of(copy / "2")
        damage(paths[number % len(paths)], list(DAMAGES)[number // len(paths) % len(DAMAGES)], draw)
        epochs[check_damaged(copy, capsys)] += 1
        shutil.rmtree(copy)
    return epochs


def test_a_damaged_checkpoint_is_never_restored_and_the_one_before_is(two, tmp_path, capsys):
    draw = random.Random(0)
    for number, path in enumerate(files_of(two / "2")):
        copy = tmp_path / str(number)
        shutil.copytree(two, copy)
        damage(copy / path.relative_to(two), list(DAMAGES)[number % len(DAMAGES)], draw)
        check_damaged(copy, capsys)


@pytest.mark.slow
def test_whatever_happens_to_a_file_of_a_checkpoint(two, tmp_path, capsys):
    epochs = sweep(two, tmp_path, capsys, seed=0, rounds=10)
    assert epochs[1] > 100 and epochs[2] > 100
    print(f"{epochs.total()} mutations: {epochs[2]} harmless, {epochs[1]} to the one before")


@pytest.mark.parametrize("which", ["**/_METADATA", "**/d/*", "**/*"])
def test_if_all_are_damaged_one_line_says_so_every_time(two, tmp_path, which):
    shutil.copytree(two, tmp_path / "all")
    for path in (path for path in (tmp_path / "all").glob(which) if path.is_file()):
        damage(path, "garble", None)
    for _ in range(2):
        with pytest.raises(UserError) as caught:
            restore(tmp_path / "all", state())
        message = str(caught.value)
        assert f"checkpoint {tmp_path / 'all' / '2'} is damaged: " in message
        assert f"so is 1 before it; delete {tmp_path / 'all'} to start again" in message
        assert "\n" not in message and len(message) < 600


def test_a_damaged_number_is_free_again_and_the_damaged_are_kept_aside(two, tmp_path, capsys):
    shutil.copytree(two, tmp_path / "again")
    for path in (tmp_path / "again" / "2").glob("**/d/*"):
        damage(path, "garble", None)
    checkpoints = Checkpoints(tmp_path / "again")
    assert checkpoints.latest() == 1  # what is called the last good one is good
    checkpoints.save(2, state(2))
    assert_same(checkpoints.restore(state()), state(2))
    checkpoints.close()
    assert capsys.readouterr().err.count("\n") == 1
    assert sorted(path.name for path in (tmp_path / "again").iterdir()) == ["1", "2", "2.damaged"]


def test_one_that_is_asked_for_and_damaged_is_refused(two, tmp_path):
    shutil.copytree(two, tmp_path / "one")
    for path in (tmp_path / "one" / "2").glob("**/d/*"):
        damage(path, "garble", None)
    checkpoints = Checkpoints(tmp_path / "one")
    with pytest.raises(UserError, match=r"2 is damaged: .*; delete it to go on"):
        checkpoints.restore(state(), 2)
    checkpoints.close()


def test_a_checkpoint_that_was_not_finished_is_not_there(saved):
    (saved / "3").rename(saved / "3.orbax-checkpoint-tmp")
    checkpoints = Checkpoints(saved)
    assert checkpoints.latest() is None
    checkpoints.close()


# --- Going on -------------------------------------------------------------------------------------


def test_another_fact_or_mask_or_fewer_epochs_are_refused_with_both_values(tmp_path):
    facts = {"batch_size": 30, "seed": 0}
    checkpoints = Checkpoints(tmp_path)
    assert checkpoints.resume(state(0), 4, facts)[0] == 0
    checkpoints.save(3, state(3))
    epoch, found = checkpoints.resume(state(0), 4, facts)
    assert epoch == 3
    assert_same(found, state(3))
    other = state(0)._replace(inner=Inner(jnp.zeros((2, 3), bool), state(0).inner.counts))
    for start, epochs, given, message in (
        (state(0), 4, facts | {"batch_size": 40}, "with batch_size = 30, not 40"),
        (other, 4, facts, r"with mask inner/flags = 0\.\d+ kept, .*, not 0 kept"),
        (state(0), 2, facts, "epochs = 2, but checkpoint .*3 is after 3"),
    ):
        with pytest.raises(UserError, match=message):
            checkpoints.resume(start, epochs, given)
    checkpoints.close()


FULL = """
import resource, sys, numpy
from jaxsnn.errors import UserError
from jaxsnn.train.checkpoint import Checkpoints
checkpoints, draw = Checkpoints(sys.argv[1]), numpy.random.default_rng(0)
states = [{"weights": draw.random(size, numpy.float32)} for size in (10, 10_000)]
checkpoints.save(1, states[0])
checkpoints.wait()
resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, 20_000))
try:
    checkpoints.save(2, states[1])
    checkpoints.close()
except UserError as error:
    sys.exit(str(error))
"""


@pytest.mark.run
def test_a_full_disk_is_one_line_and_keeps_the_checkpoint_before(tmp_path):
    done = subprocess.run(
        [sys.executable, "-c", FULL, str(tmp_path)], capture_output=True, text=True, check=False
    )
    assert done.stderr == f"cannot write a checkpoint to {tmp_path}: File too large\n"
    found = restore(tmp_path, {"weights": np.zeros(10, np.float32)})
    expected = np.random.default_rng(0).random(10, np.float32)
    np.testing.assert_array_equal(found["weights"], expected)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["1"]
