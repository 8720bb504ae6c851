"""Whole files or none, and folders that one process at a time writes to."""

import contextlib
import errno
import os
import re
import stat
from pathlib import Path

from jaxsnn.errors import UserError

try:
    import fcntl
except ImportError:  # Windows: folders are not locked there
    fcntl = None  # type: ignore[assignment]

__all__ = [
    "DISK",
    "Lock",
    "check_path",
    "is_own",
    "is_running",
    "make_folder",
    "remove_temporaries",
    "write_atomic",
]

# What a full or protected disk answers: nothing is wrong with the program.
DISK = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS, errno.EACCES, errno.EIO)

LOCK = ".lock"
WITHOUT_LOCKS = {errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP, errno.ENOTSUP}
TEMPORARY = re.compile(r"\.(?P<name>.+)\.(?P<pid>[0-9]+)", re.DOTALL)
LONGEST_NAME, LONGEST_PATH = 255, 4096  # bytes, of Linux and its file systems
ROOM = 256  # bytes of a path that a program needs below the folder it is given
LONGEST_STEM = 230  # bytes of a name that fit into the name of its temporary file

KINDS = {
    stat.S_IFDIR: "a folder",
    stat.S_IFIFO: "a pipe",
    stat.S_IFSOCK: "a socket",
    stat.S_IFCHR: "a device",
    stat.S_IFBLK: "a device",
}


def write_atomic(path: str | Path, content: bytes | str) -> int:
    """Write `content` to `path` so that a reader never meets half of it.

    The content goes to a hidden file `.NAME.PID` beside it, reaches the disk, and is renamed. If
    the process dies before that, what stood under `path` is untouched; the next writer removes the
    hidden file. A symbolic link stays, and the file that it points to is written.

    Args:
      path: the file to write; missing folders are made.
      content: bytes, or text that is written as UTF-8.

    Returns:
      The size of the file in bytes.

    Raises:
      UserError: if it cannot be written, or is a folder, a pipe or a device.
    """
    data = content.encode() if isinstance(content, str) else content
    temporary = None
    try:
        target = Path(os.path.realpath(path))
        _check_regular(path, target)
        target.parent.mkdir(parents=True, exist_ok=True)
        _remove_stale(target.parent, _stem(target.name))
        temporary = target.with_name(f".{_stem(target.name)}.{os.getpid()}")
        with open(temporary, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, target)
        _sync(target.parent)
    except UserError:
        raise
    except (OSError, ValueError) as error:  # ValueError: a null byte in the name
        if temporary is not None:
            with contextlib.suppress(OSError):
                temporary.unlink()
        raise UserError(f"cannot write {path}: {_reason(error)}") from error
    return len(data)


def make_folder(path: str | Path, name: str = "the folder") -> Path:
    """Return a folder that files can be written to, made if it is missing.

    Args:
      path: the folder.
      name: of the argument, for the message.

    Raises:
      UserError: if its name is no UTF-8 or too long, a file stands there, or nothing can be written
        to it; then nothing is made.
    """
    path = Path(path)
    check_path(path, name)
    try:
        path.mkdir(parents=True, exist_ok=True)
    except FileExistsError:
        raise UserError(f"{name} {path} is a file; choose another name") from None
    except OSError as error:
        raise UserError(f"{name} {path} cannot be made: {_reason(error)}") from error
    if not os.access(path, os.W_OK | os.X_OK):
        raise UserError(f"{name} {path} cannot be written to; choose another one")
    return path


def check_path(path: Path, name: str) -> None:
    """Refuse a folder whose name some library or the file system does not take.

    Raises:
      UserError: naming the argument and what is wrong.
    """
    shown = os.fsencode(path)
    try:
        str(path).encode()
    except UnicodeEncodeError:
        raise UserError(f"{name} {shown!r} is not UTF-8; choose another name") from None
    if b"\0" in shown:
        raise UserError(f"{name} {shown!r} has a null byte; choose another name")
    for part in path.parts:
        if (size := len(os.fsencode(part))) > LONGEST_NAME:
            raise UserError(
                f"{name} {part[:20]}...: a name of {size} bytes, at most {LONGEST_NAME} are allowed"
            )
    if (size := len(os.fsencode(path.absolute()))) > LONGEST_PATH - ROOM:
        raise UserError(
            f"{name} {str(path)[:20]}...: a path of {size} bytes, at most {LONGEST_PATH - ROOM} "
            "leave room for the files below it"
        )


class Lock:
    """Keep a folder to this process, until `release` or the end of the process.

    The kernel releases it when the process ends, however it ends. A file `.lock` with the number of
    the process stays. On a file system without locks, nothing is kept.

    Args:
      folder: an existing folder.
      name: of the argument, for the message.

    Raises:
      UserError: if another process has the folder.
    """

    def __init__(self, folder: str | Path, name: str = "the folder"):
        self._file: int | None = None
        if fcntl is None:
            return
        try:
            file = os.open(Path(folder, LOCK), os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o666)
        except OSError as error:
            raise UserError(f"{name} {folder} cannot be locked: {_reason(error)}") from error
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            owner = os.read(file, 20).decode(errors="replace")
            os.close(file)
            if error.errno not in WITHOUT_LOCKS and owner != str(os.getpid()):
                raise UserError(
                    f"{name} {folder} is in use by another process ({owner or 'unknown'}); wait "
                    "for its end, or choose another"
                ) from None
            return
        self._file = file
        with contextlib.suppress(OSError):  # a full disk: the lock holds without its owner's number
            os.ftruncate(file, 0)
            os.pwrite(file, str(os.getpid()).encode(), 0)

    def release(self) -> None:
        """Let other processes have the folder."""
        if self._file is not None:
            os.close(self._file)
            self._file = None

    def __del__(self) -> None:
        self.release()


def is_own(name: str, *names: str) -> bool:
    """Return whether a file is a lock, or what a killed writer of one of `names` left.

    >>> [is_own(name, "a.json") for name in (".lock", ".a.json.17", ".b.json.17", "a.json")]
    [True, True, False, False]
    """
    found = TEMPORARY.fullmatch(name)
    return name == LOCK or (found is not None and found["name"] in names)


def remove_temporaries(folder: str | Path) -> None:
    """Remove what killed processes left half written in a folder and those below it."""
    for place, _, files in os.walk(folder):
        for name in files:
            _remove_if_stale(Path(place, name))


def _remove_stale(folder: Path, stem: str) -> None:
    """Remove what killed processes left of one file."""
    start = f".{stem}."
    with os.scandir(folder) as entries:
        names = [entry.name for entry in entries if entry.name.startswith(start)]
    for name in names:
        if (found := TEMPORARY.fullmatch(name)) and found["name"] == stem:
            _remove_if_stale(folder / name)


def _remove_if_stale(path: Path) -> None:
    found = TEMPORARY.fullmatch(path.name)
    if found and not is_running(int(found["pid"])):
        with contextlib.suppress(OSError):
            if path.is_file() and not path.is_symlink():
                path.unlink()


def is_running(pid: int) -> bool:
    """Return whether a process other than this one, which would know, has this number."""
    if pid == os.getpid():
        return False
    try:
        os.kill(pid, 0)
    except (ProcessLookupError, OverflowError):
        return False
    except OSError:  # of another user
        return True
    return True


def _check_regular(path: str | Path, target: Path) -> None:
    try:
        kind = stat.S_IFMT(os.stat(target).st_mode)
    except FileNotFoundError:
        return
    if kind != stat.S_IFREG:
        raise UserError(f"cannot write {path}: it is {KINDS.get(kind, 'no regular file')}")


def _stem(name: str) -> str:
    """Return the name of a file, cut so that a temporary file can have it in its own."""
    return os.fsdecode(os.fsencode(name)[:LONGEST_STEM])


def _sync(folder: Path) -> None:
    """Bring the names in a folder to the disk, where the file system can."""
    with contextlib.suppress(OSError):
        handle = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)


def _reason(error: Exception) -> str:
    return getattr(error, "strerror", None) or str(error)
