"""Whole files or none: what is written appears under its name in one step."""

import contextlib
import os
from pathlib import Path

from jaxsnn.errors import UserError

__all__ = ["write_atomic"]


def write_atomic(path: str | Path, content: bytes | str) -> int:
    """Write `content` to `path` so that a reader never meets half of it.

    The content goes to a hidden file beside it, reaches the disk, and is renamed. If the process
    dies before that, what stood under `path` is untouched.

    Args:
      path: the file to write; missing folders are made.
      content: bytes, or text that is written as UTF-8.

    Returns:
      The size of the file in bytes.

    Raises:
      UserError: if the folder cannot be written to.
    """
    path = Path(path)
    data = content.encode() if isinstance(content, str) else content
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with open(temporary, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except OSError as error:
        with contextlib.suppress(OSError):
            temporary.unlink()
        raise UserError(f"cannot write {path}: {error.strerror or error}") from error
    return len(data)
