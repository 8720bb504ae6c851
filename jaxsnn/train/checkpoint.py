"""Checkpoints of a whole training state through Orbax: whole or absent, checked when read.

A state is stored as one array of bytes, the leaves in the order of the tree. Beside it, in the
metadata of the checkpoint, lies a text that says what each leaf must be (name, type, shape, CRC-32
of its bytes) and what the training was given; the text has a CRC-32 of its own. Nothing is restored
that differs from it. (Orbax reads several arrays at a time: where one is damaged, the threads that
read the others would print tracebacks.)
"""

import contextlib
import json
import logging
import math
import os
import shutil
import sys
import time
import zlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

import jax
import numpy as np
import orbax.checkpoint as ocp

from jaxsnn import fields, tree
from jaxsnn.arrays import check_range
from jaxsnn.errors import UserError, first_of, shortened
from jaxsnn.files import DISK, make_folder
from jaxsnn.train import distributed

__all__ = ["Checkpoints"]

State = TypeVar("State")
Facts = Mapping[str, Any]  # name of an argument -> what the training was given, a JSON value

METADATA = "_CHECKPOINT_METADATA"  # Orbax's file of the text and of its own facts
LONGEST = 200  # characters of a library's own words in a message
UNFINISHED = ".orbax-checkpoint-tmp"  # in the name of a checkpoint that is being written
LEAF = {"name": fields.TEXT, "dtype": fields.TEXT, "shape": fields.SHAPE, "crc32": fields.whole(0)}
ABOUT = {"leaves": fields.several(fields.OBJECT), "facts": fields.OBJECT}


class Checkpoints:
    """Save and restore states of one phase of a run, numbered by epoch.

    A checkpoint whose bytes changed since they were written is set aside as `EPOCH.damaged`, a line
    on stderr names it, and the one before it is taken. Of several processes (`train.distributed`)
    the first one writes and reads, and sends the others what it has read; a state is stored whole,
    so that any number of devices and processes goes on from it.

    Args:
      directory: where the checkpoints of this phase lie; made if missing.
      keep: how many of the newest are kept.
      every: seconds between two checkpoints of a training, >= 0: one is saved after the first epoch
        that ends so long after the one before, and after the last epoch. With 0, after each epoch.

    Raises:
      UserError: if the directory cannot be made or written to.

    Example:
      >>> import tempfile
      >>> with tempfile.TemporaryDirectory() as folder:
      ...     checkpoints = Checkpoints(folder)
      ...     checkpoints.save(1, {"w": np.ones(2, np.float32)})
      ...     state = checkpoints.restore({"w": np.zeros(2, np.float32)})
      ...     checkpoints.close()
      >>> state["w"].tolist()
      [1.0, 1.0]
    """

    def __init__(self, directory: str | Path, keep: int = 2, *, every: float = 0.0):
        self._facts: dict[str, Any] = {}
        self.every = check_range("every", every, 0.0, math.inf)
        self._last = time.monotonic()
        # Orbax logs tracebacks of its threads; what they mean is raised here as well.
        logging.getLogger("absl").setLevel(logging.CRITICAL)
        self.directory = Path(directory).absolute()
        self._manager: Any = None  # of the first process
        if not distributed.is_first():
            return
        make_folder(self.directory, "the folder of checkpoints")
        alone = ocp.options.MultiprocessingOptions(primary_host=0, active_processes={0})
        options = ocp.CheckpointManagerOptions(
            max_to_keep=keep, create=False, multiprocessing_options=alone
        )  # fmt: skip
        handler = ocp.StandardCheckpointHandler(multiprocessing_options=alone)
        with self._writing():
            # What a process left that ended while it saved; Orbax would remove it in a thread.
            for path in self.directory.glob(f"*{UNFINISHED}*"):
                shutil.rmtree(path, ignore_errors=True)
            _hide_unreadable(self.directory)
            self._manager = ocp.CheckpointManager(
                self.directory, options=options, item_handlers=handler
            )

    def save(self, epoch: int, state: Any) -> None:
        """Save a state in the background, from a copy: its buffers may be reused at once.

        Args:
          epoch: its number, larger than those before.
          state: any tree of arrays.

        Raises:
          UserError: if it, or the one before, cannot be written, or its number is too small; those
            before stay.
        """
        self._last = time.monotonic()
        if self._manager is None:
            return
        leaves = {k: np.asarray(leaf, order="C") for k, leaf in tree.named_leaves(state).items()}
        content = np.concatenate([_bytes(leaf) for leaf in leaves.values()])
        about = {"leaves": [_about(*item) for item in leaves.items()], "facts": self._facts}
        text = json.dumps(about)
        with self._writing():
            is_saved = self._manager.save(
                epoch,
                args=ocp.args.StandardSave({"state": content}),
                custom_metadata={"about": text, "crc32": zlib.crc32(text.encode())},
            )
        if not is_saved:
            raise UserError(f"{self.directory} has a checkpoint of epoch {epoch} or later already")

    def is_due(self) -> bool:
        """Return whether the last checkpoint is as old as a training may lose."""
        return bool(time.monotonic() - self._last >= self.every)

    def latest(self) -> int | None:
        """Return the epoch of the newest checkpoint that is whole, or None; all of it is read."""
        found = self._newest(None)
        return None if found is None else found.epoch

    def restore(self, like: State, epoch: int | None = None) -> State:
        """Restore a state with the structure, shapes and types of `like`.

        Args:
          like: any state of the same training.
          epoch: which checkpoint; the newest that is whole if None.

        Raises:
          UserError: if there is none or all are damaged, naming the directory and the damage, or if
            it does not fit, naming every leaf that differs.
        """
        if epoch is not None:
            return self._read_one(epoch).fill(like)
        found = self._newest(None)
        if found is None:
            raise UserError(f"there is no checkpoint in {self.directory}")
        return found.fill(like)

    def resume(self, state: State, epochs: int, facts: Facts) -> tuple[int, State]:
        """Return how many epochs of a training are done, and the state after them.

        The facts, and the masks in the state, are kept with each checkpoint that follows.

        Args:
          state: the one from which the training starts; returned if there is no checkpoint.
          epochs: how many there are in all.
          facts: what must be the same when a training goes on.

        Raises:
          UserError: if all checkpoints are damaged, a fact or a mask at the start differs, a leaf
            does not fit, or more epochs are done.
        """
        self._facts = {**facts, **_masks(state)}
        found = self._newest(self._facts)
        if found is None:
            return 0, state
        if found.epoch > epochs:
            raise UserError(
                f"epochs = {epochs}, but {found.place} is after {found.epoch}; give as many, or "
                "another folder"
            )
        return found.epoch, found.fill(state)

    def wait(self) -> None:
        """Wait until everything is written."""
        if self._manager is not None:
            with self._writing():
                self._manager.wait_until_finished()

    def close(self) -> None:
        """Wait until everything is written, and close."""
        if self._manager is not None:
            with self._writing():
                self._manager.close()

    def _newest(self, facts: Facts | None) -> "_Stored | None":
        """Return the newest checkpoint that is whole, on all processes; None if there is none."""
        return self._from_first(lambda: self._read_newest(facts))

    def _read_one(self, epoch: int) -> "_Stored":
        """Return a checkpoint by its number, on all processes."""

        def read() -> _Stored:
            self.wait()
            try:
                return self._read(epoch)
            except _DamageError as damage:
                raise UserError(f"{damage}; delete it to go on") from damage

        found = self._from_first(read)
        assert found is not None
        return found

    def _from_first(self, read: Callable[[], "_Stored | None"]) -> "_Stored | None":
        """Return on all processes what the first one reads."""
        if jax.process_count() == 1:
            return read()

        def arrays() -> dict[str, Any]:
            found = read()
            return {} if found is None else {"": np.int64(found.epoch), **found.leaves}

        leaves = distributed.arrays_from_first(arrays)
        if not leaves:
            return None
        epoch = int(leaves.pop(""))  # no leaf has an empty name
        return _Stored(f"checkpoint {self.directory / str(epoch)}", epoch, leaves, self._facts)

    def _read_newest(self, facts: Facts | None) -> "_Stored | None":
        """Read checkpoints from the newest on until one is whole; set the damaged ones aside."""
        self.wait()
        damages: list[tuple[int, str]] = []
        for epoch in sorted(self._manager.all_steps(), reverse=True):
            try:
                found = self._read(epoch)
            except _DamageError as damage:
                damages.append((epoch, str(damage)))
                continue
            if facts is not None:
                found.check(facts)
            for damaged, line in damages:
                self._set_aside(damaged)
                print(f"{line}; going on from epoch {epoch}", file=sys.stderr, flush=True)
            return found
        if damages:
            before = len(damages) - 1
            more = f", and so {'is' if before == 1 else 'are'} {before} before it" * (before > 0)
            raise UserError(f"{damages[0][1]}{more}; delete {self.directory} to start again")
        return None

    def _read(self, epoch: int) -> "_Stored":
        """Return a checkpoint of which every byte is as it was written."""
        place = f"checkpoint {self.directory / str(epoch)}"
        with _reading(place):
            found = self._manager.metadata(epoch)
            about = _checked(found.custom_metadata)
            target = {"state": np.zeros(sum(map(_size, about["leaves"])), np.uint8)}
            if lines := _mismatches(target, found.item_metadata.tree):
                raise ValueError("; ".join(lines))
            restored = self._manager.restore(epoch, args=ocp.args.StandardRestore(target))
            leaves = _split(restored["state"], about["leaves"])
        return _Stored(place, epoch, leaves, about["facts"])

    def _set_aside(self, epoch: int) -> None:
        """Give a damaged checkpoint another name: its number is free, and its bytes are there."""
        aside = self.directory / f"{epoch}.damaged"
        with self._writing():
            shutil.rmtree(aside, ignore_errors=True)
            os.rename(self.directory / str(epoch), aside)
            self._manager.reload()

    @contextlib.contextmanager
    def _writing(self) -> Iterator[None]:
        try:
            yield
        except UserError:
            raise
        except Exception as error:  # Orbax raises what its many backends raise
            raise UserError(
                f"cannot write a checkpoint to {self.directory}: {_reason(error)}"
            ) from error


class _DamageError(UserError):
    """A checkpoint differs from what was written."""


class _Stored(NamedTuple):
    """A checkpoint that is whole."""

    place: str
    epoch: int
    leaves: dict[str, np.ndarray]
    facts: dict[str, Any]

    def check(self, facts: Facts) -> None:
        """Refuse a checkpoint of a training that was given something else."""
        for name in sorted(facts.keys() | self.facts.keys()):
            old, new = self.facts.get(name), facts.get(name)
            if old != new:
                given = (shortened(str(each), LONGEST) for each in (old, new))
                raise UserError(
                    f"{self.place} was trained with {shortened(name)} = {', not '.join(given)}; "
                    "give the same, or another folder"
                )

    def fill(self, like: State) -> State:
        """Return a state like another one with the leaves that were stored."""
        expected = {
            name: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype)
            for name, leaf in tree.named_leaves(like).items()
        }
        if lines := _mismatches(expected, self.leaves):
            raise UserError(f"{self.place} does not fit this run: {first_of(lines)}")
        leaves = {name: jax.numpy.asarray(x) for name, x in self.leaves.items()}
        restored: State = tree.substitute(like, leaves)
        return restored


def _hide_unreadable(directory: Path) -> None:
    """Rename damaged metadata of checkpoints: Orbax would not even list the others."""
    for found in ocp.path.step.standard_name_format().find_all(directory):
        try:
            _ = found.commit_timestamp
        except Exception:  # whatever Orbax thinks of the text
            with contextlib.suppress(FileNotFoundError):
                path = directory / str(found.step) / METADATA
                os.replace(path, path.with_name(f"{METADATA}.damaged"))


@contextlib.contextmanager
def _reading(place: str) -> Iterator[None]:
    try:
        yield
    except Exception as error:  # Orbax raises what its many backends raise
        raise _DamageError(f"{place} is damaged: {_reason(error)}") from error


def _checked(metadata: Any) -> dict[str, Any]:
    """Return what the text beside a checkpoint says, if it is what was written."""
    if not isinstance(metadata, dict) or not isinstance(metadata.get("about"), str):
        raise ValueError("its checksums are missing")
    text = metadata["about"]
    if zlib.crc32(text.encode()) != metadata.get("crc32"):
        raise ValueError("the checksum of its checksums differs")
    about = fields.check("its metadata", json.loads(text), ABOUT)
    for leaf in about["leaves"]:
        fields.check("a leaf", leaf, LEAF)
    return about


def _about(name: str, leaf: np.ndarray) -> dict[str, Any]:
    """Return the name, type, shape and checksum of a leaf."""
    checksum = zlib.crc32(_bytes(leaf).data)
    return {"name": name, "dtype": str(leaf.dtype), "shape": list(leaf.shape), "crc32": checksum}


def _masks(state: Any) -> dict[str, str]:
    """Return what tells the masks of a state from others: name -> text."""
    leaves = {k: np.asarray(x) for k, x in tree.named_leaves(state).items() if x.dtype == bool}
    return {
        f"mask {name}": f"{mask.mean():.4g} kept, CRC-32 {zlib.crc32(mask.data):08x}"
        for name, mask in leaves.items()
    }


def _bytes(leaf: np.ndarray) -> np.ndarray:
    return leaf.reshape(-1).view(np.uint8)


def _size(about: Mapping[str, Any]) -> int:
    """Return the bytes of a leaf."""
    return int(np.dtype(about["dtype"]).itemsize * math.prod(about["shape"]))


def _split(content: np.ndarray, about: Sequence[Mapping[str, Any]]) -> dict[str, np.ndarray]:
    """Return the leaves that lie one after the other in an array of bytes, each of them checked."""
    leaves, start = {}, 0
    for each in about:
        name, stop = each["name"], start + _size(each)
        leaves[name] = content[start:stop].view(each["dtype"]).reshape(each["shape"])
        if _about(name, leaves[name]) != each:
            raise ValueError(f"the checksum of {shortened(name)} differs")
        start = stop
    return leaves


def _reason(error: Exception) -> str:
    """Return an exception's text as a part of one line; of a full disk only that."""
    text = " ".join(str(error).split())
    for code in DISK:
        if os.strerror(code) in text:
            return os.strerror(code)
    return shortened(text, LONGEST) or type(error).__name__


def _mismatches(expected: dict[str, Any], found: Mapping[str, Any]) -> list[str]:
    lines = [f"{shortened(name)} is missing" for name in expected if name not in found]
    lines += [f"{shortened(name)} is not expected" for name in found if name not in expected]
    for name in (name for name in expected if name in found):
        want, have = expected[name], found[name]
        if (tuple(have.shape), np.dtype(have.dtype)) != (want.shape, np.dtype(want.dtype)):
            lines.append(
                f"{name} is {have.dtype}{list(have.shape)}, not {want.dtype}{list(want.shape)}"
            )
    return lines
