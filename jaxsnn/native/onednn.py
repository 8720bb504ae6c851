"""Find oneDNN: the named one, the wheel's, or the system's; load our handlers, built against it."""

import contextlib
import ctypes
import os
import re
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from jaxsnn.errors import UserError
from jaxsnn.native.handlers import Handlers

__all__ = [
    "CHANNELS",
    "CONVOLUTIONS",
    "COUNTING",
    "NEURONS",
    "SCALES",
    "Library",
    "begin",
    "instruction_set",
    "load",
]

CONVOLUTIONS = (
    "jaxsnn_convolve", "jaxsnn_to_images", "jaxsnn_to_kernel", "jaxsnn_to_kernel_by_patches",
)  # fmt: skip
NEURONS = ("jaxsnn_potentials", "jaxsnn_last_potential", "jaxsnn_derivatives")
CHANNELS = (
    "jaxsnn_sum", "jaxsnn_mix", "jaxsnn_average", "jaxsnn_spread", "jaxsnn_largest",
    "jaxsnn_to_largest",
)  # fmt: skip
SCALES = ("jaxsnn_search",)
COUNTING = ("jaxsnn_top_count",)
NAMES = ("libdnnl.so.3", "libdnnl.so")
MAJOR = 3  # of oneDNN: an older or newer one has other functions

# What oneDNN says it uses (dnnl::cpu_isa), from the narrowest; each has the bits of those before.
AVX2, AVX512, AMX = 0x7, 0x27, 0xFEF


@dataclass(frozen=True)
class Library:
    """An installed oneDNN: the folder of its headers and the file itself."""

    include: Path
    file: Path


_turn = threading.Lock()  # of who builds and loads: the second one finds it done


def begin() -> threading.Thread | None:
    """Build our handlers beside what the program does next; `load` waits for them.

    Returns:
      The thread that builds them; None if they are switched off.
    """
    if os.environ.get("JAXSNN_NATIVE") == "0":
        return None
    builder = threading.Thread(target=_build_quietly)
    builder.start()
    return builder


def load() -> ctypes.CDLL:
    """Build our handlers against the oneDNN at hand, load them and tell XLA about them.

    Raises:
      UserError: if a part is missing (library, headers, compiler), of another version, or broken.
    """
    with _turn:
        return _load()


@cache
def _load() -> ctypes.CDLL:
    library = _find()
    first, *others = sources = _sources(library)
    paths = _build(sources)
    handlers = first.load(paths[0])
    version = handlers.jaxsnn_onednn_version()
    if version // 100 != MAJOR:
        raise UserError(f"{library.file} is oneDNN {version // 100}, but {MAJOR} is needed")
    for source, path in zip(others, paths[1:], strict=True):
        source.load(path)
    return handlers


def _sources(library: Library) -> list[Handlers]:
    linked = (
        "-O2",
        f"-I{library.include}",
        f"-L{library.file.parent}",
        f"-l:{library.file.name}",
        f"-Wl,-rpath,{library.file.parent}",
    )
    own = "-O3", "-march=native"
    return [
        Handlers("convolutions.cc", CONVOLUTIONS, linked),
        Handlers("neurons.cc", NEURONS, own),
        Handlers("channels.cc", CHANNELS, own),
        Handlers("scales.cc", SCALES, own),
        Handlers("counting.cc", COUNTING, own),
    ]


def _build(sources: list[Handlers]) -> list[Path]:
    """Build all at a time; each is a process of its own."""
    with ThreadPoolExecutor(len(sources)) as pool:
        return list(pool.map(Handlers.build, sources))


def _build_quietly() -> None:
    with _turn, contextlib.suppress(UserError):  # which `load` raises where it can be told
        _build(_sources(_find()))


def instruction_set() -> int:
    """Return the widest instructions that oneDNN uses here, one of the constants above."""
    found: int = load().jaxsnn_instruction_set()
    return found


def _find() -> Library:
    named = os.environ.get("JAXSNN_ONEDNN")
    prefixes = [Path(named)] if named else [Path(sys.prefix), Path("/usr/local"), Path("/usr")]
    for prefix in prefixes:
        include = prefix / "include"
        header = include / "oneapi" / "dnnl" / "dnnl_version.h"
        file = next((f for f in _files(prefix) if f.is_file()), None)
        if file is not None and header.is_file():
            _check_version(header)
            return Library(include, file)
    if named:
        raise UserError(
            f"$JAXSNN_ONEDNN = {named!r} holds no include/oneapi/dnnl/dnnl_version.h with a "
            f"lib/{NAMES[0]}"
        )
    raise UserError("oneDNN is not installed; `pip install 'jaxsnn-compress[native]'` brings it")


def _files(prefix: Path) -> list[Path]:
    folders = [prefix / "lib", prefix / "lib64", *sorted((prefix / "lib").glob("*-linux-gnu*"))]
    return [folder / name for folder in folders for name in NAMES]


def _check_version(header: Path) -> None:
    found = re.search(r"DNNL_VERSION_MAJOR (\d+)", header.read_text(errors="replace"))
    if found is None or int(found[1]) != MAJOR:
        raise UserError(f"{header} is of oneDNN {found[1] if found else '?'}; {MAJOR} is needed")
