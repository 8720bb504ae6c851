"""The files of a set that comes as very many of them, in a folder or still in its zip archive."""

import hashlib
import os
import zipfile
from collections.abc import Callable, Iterable
from pathlib import Path, PurePosixPath
from typing import NamedTuple

from jaxsnn import foreign
from jaxsnn.errors import UserError, shortened

__all__: list[str] = []  # nothing here is promised to users

LARGEST = 1 << 26  # bytes of one file; no recording or image comes near
SMALL = 1 << 20  # bytes that an entry of an archive may have whatever its packed size is
RATIO = 100  # bytes for each packed one beyond; recordings and images take less than 20
PLAIN = (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED)  # whose decoders stop where they are told to


class Entry(NamedTuple):
    """One file, not read yet."""

    place: str  # for messages: "/data/nmnist/Train.zip/Train/0/00004.bin"
    path: PurePosixPath  # inside the folder or archive, with its name: Train/0/00004.bin
    size: int  # bytes, unpacked
    read: Callable[[], bytes]


def exists(folder: Path, stem: str) -> bool:
    """Return whether `folder` has the folder `stem` or the archive `stem.zip`."""
    return (folder / stem).is_dir() or (folder / f"{stem}.zip").is_file()


def files_in(folder: Path, stem: str, suffixes: tuple[str, ...]) -> list[Entry]:
    """List the files of `folder/stem`, or else of the archive `folder/stem.zip`.

    Args:
        folder: where either lies.
        stem: name of the folder, and of the folder in the archive.
        suffixes: endings of the names of the files that count, in lower case.

    Returns:
        The files in the order of their paths; hidden ones are left out.

    Raises:
        UserError: if neither is there, or one cannot be listed.
    """
    if (folder / stem).is_dir():
        found = _in_folder(folder / stem, stem)
    elif (folder / f"{stem}.zip").is_file():
        found = _in_archive(folder / f"{stem}.zip")
    else:
        raise UserError(f"{folder / stem}: no such folder (nor {stem}.zip)")
    return sorted(
        (
            entry
            for entry in found
            if entry.path.name.lower().endswith(suffixes)
            and entry.path.parts[0] == stem
            and not entry.path.name.startswith(".")
        ),
        key=lambda entry: str(entry.path),
    )


def fingerprint(files: Iterable[Entry], *options: object) -> str:
    """Return 16 hexadecimal digits that change with the names and sizes of files or an option."""
    lines = [repr(option) for option in options]
    lines += [f"{entry.path} {entry.size}" for entry in files]
    return hashlib.sha256("\n".join(lines).encode()).hexdigest()[:16]


def _in_folder(folder: Path, stem: str) -> Iterable[Entry]:
    for parent, _, names in os.walk(folder):
        inner = PurePosixPath(stem, *Path(parent).relative_to(folder).parts)
        for name in names:
            path = Path(parent) / name
            yield Entry(str(path), inner / name, path.stat().st_size, _reader(path))


def _reader(path: Path) -> Callable[[], bytes]:
    return lambda: foreign.read_bytes(path, "one file of a data set", LARGEST)


def _in_archive(path: Path) -> Iterable[Entry]:
    with foreign.reading(path, "a zip archive"):
        archive = zipfile.ZipFile(path)
        members = [each for each in archive.infolist() if not each.is_dir()]
    for member in members:
        place = f"{path}/{shortened(member.filename)}"
        read = _member_reader(place, archive, member)
        yield Entry(place, PurePosixPath(member.filename), member.file_size, read)


def _member_reader(
    place: str, archive: zipfile.ZipFile, member: zipfile.ZipInfo
) -> Callable[[], bytes]:
    def read() -> bytes:
        most = min(LARGEST, SMALL + RATIO * member.compress_size)
        if member.file_size > most:
            raise UserError(f"{place}: {member.file_size:,} bytes, but {most:,} at most expected")
        if member.compress_type not in PLAIN:
            raise UserError(f"{place}: packed by zip's method {member.compress_type}, expected 8")
        with foreign.reading(place, "an entry of a zip archive"), archive.open(member) as file:
            content = file.read(member.file_size + 1)
            if len(content) != member.file_size:
                raise EOFError(f"{member.file_size:,} bytes stated, {len(content):,} found")
        return content

    return read
