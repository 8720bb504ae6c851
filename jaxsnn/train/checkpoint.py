"""Checkpoints of a whole training state through Orbax: whole or absent, with retention.

A state is stored as a flat dictionary, leaf name -> array, so that what a file holds can be
compared with what the program expects before anything is restored.
"""

import logging
from pathlib import Path
from typing import Any, TypeVar

import jax
import numpy as np
import orbax.checkpoint as ocp

from jaxsnn import tree
from jaxsnn.errors import UserError

__all__ = ["Checkpoints"]

State = TypeVar("State")


class Checkpoints:
    """Save and restore states of one phase of a run, numbered by epoch.

    Args:
      directory: where the checkpoints of this phase lie; made if missing.
      keep: how many of the newest are kept.
    """

    def __init__(self, directory: str | Path, keep: int = 2):
        logging.getLogger("absl").setLevel(logging.ERROR)
        self.directory = Path(directory).absolute()
        options = ocp.CheckpointManagerOptions(max_to_keep=keep, create=True)
        handler = ocp.StandardCheckpointHandler()
        self._manager = ocp.CheckpointManager(
            self.directory, options=options, item_handlers=handler
        )

    def save(self, epoch: int, state: Any) -> None:
        """Save a state in the background, from a copy: its buffers may be reused at once."""
        leaves = {name: np.array(leaf) for name, leaf in tree.named_leaves(state).items()}
        self._manager.save(epoch, args=ocp.args.StandardSave(leaves))

    def latest(self) -> int | None:
        """Return the newest checkpoint's epoch, or None, once everything is written."""
        self._manager.wait_until_finished()
        step: int | None = self._manager.latest_step()
        return step

    def restore(self, like: State, epoch: int | None = None) -> State:
        """Restore a state with the structure, shapes and types of `like`.

        Raises:
          UserError: naming the directory and every leaf that does not match, or the damage.
        """
        newest = self.latest()
        epoch = newest if epoch is None else epoch
        if epoch is None:
            raise UserError(f"there is no checkpoint in {self.directory}")
        expected = {
            name: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype)
            for name, leaf in tree.named_leaves(like).items()
        }
        place = f"checkpoint {self.directory / str(epoch)}"
        try:
            found = self._manager.item_metadata(epoch)
            mismatches = _mismatches(expected, found.tree)
            if not mismatches:
                target = {k: np.zeros(leaf.shape, leaf.dtype) for k, leaf in expected.items()}
                leaves = self._manager.restore(epoch, args=ocp.args.StandardRestore(target))
        except Exception as error:  # Orbax raises what its many backends raise
            reason = " ".join(str(error).split())[:200]
            raise UserError(f"{place} is damaged: {reason}; delete it to go on") from error
        if mismatches:
            raise UserError(f"{place} does not fit this run: {'; '.join(mismatches)}")
        restored: State = tree.substitute(
            like, {name: jax.numpy.asarray(x) for name, x in leaves.items()}
        )
        return restored

    def wait(self) -> None:
        """Wait until everything is written."""
        self._manager.wait_until_finished()

    def close(self) -> None:
        """Wait until everything is written, and close."""
        self.wait()
        self._manager.close()


def _mismatches(expected: dict[str, Any], found: dict[str, Any]) -> list[str]:
    lines = [f"{name} is missing" for name in expected if name not in found]
    lines += [f"{name} is not expected" for name in found if name not in expected]
    for name in (name for name in expected if name in found):
        want, have = expected[name], found[name]
        if (tuple(have.shape), np.dtype(have.dtype)) != (want.shape, np.dtype(want.dtype)):
            lines.append(
                f"{name} is {have.dtype}{list(have.shape)}, not {want.dtype}{list(want.shape)}"
            )
    return lines
