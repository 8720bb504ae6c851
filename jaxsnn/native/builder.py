"""Build shared libraries from C and C++ at first use, and keep them.

A library is kept under a name made of everything that it depends on: source, command, compiler,
machine. So a stale one is never loaded, and two processes that build at once write the same file;
each writes a file of its own and moves it into place.
"""

import hashlib
import os
import platform
import shutil
import subprocess
import tempfile
from collections.abc import Sequence
from functools import cache
from pathlib import Path

from jaxsnn.errors import UserError

__all__ = ["build", "cache_folder", "find_compiler"]

PATIENCE = 300  # seconds that a compiler may take
COMPILERS = {"c": ("CC", ("cc", "gcc", "clang")), "c++": ("CXX", ("c++", "g++", "clang++"))}


def cache_folder() -> Path:
    """Return the folder of built libraries: $JAXSNN_CACHE, or the user's cache."""
    named = os.environ.get("JAXSNN_CACHE")
    base = os.environ.get("XDG_CACHE_HOME") or "~/.cache"
    return Path(named or os.path.join(base, "jaxsnn")).expanduser()


def find_compiler(language: str = "c") -> str:
    """Return the path of a compiler: what $CC (C) or $CXX (C++) names, or the first at hand.

    Args:
      language: "c" or "c++".

    Raises:
      UserError: if there is none.
    """
    variable, usual = COMPILERS[language]
    named = os.environ.get(variable)
    for name in (named,) if named else usual:
        if found := shutil.which(name):
            return found
    found = f"none of {', '.join(usual)} was found"
    if named:
        found = f"${variable} = {named!r} is no program"
    raise UserError(f"no {language.upper()} compiler: {found}; install gcc or clang")


def build(
    source: str, flags: Sequence[str] = (), *, language: str = "c", compiler: str | None = None
) -> Path:
    """Compile source text into a shared library, or return the one that was built before.

    Args:
      source: the text of one C or C++ file.
      flags: of the compiler, libraries last; `-shared -fPIC` are added.
      language: "c" or "c++".
      compiler: its path; `find_compiler` looks for one if left out.

    Returns:
      The path of the library.

    Raises:
      UserError: if there is no compiler, it fails (with its first error and the command), or the
        cache cannot be written.
    """
    compiler = compiler or find_compiler(language)
    command = [compiler, "-shared", "-fPIC", "-x", language, "-", *flags]
    parts = [source, *command, _version(compiler), platform.machine(), _processor()]
    name = hashlib.sha256("\0".join(parts).encode()).hexdigest()[:24]
    path = cache_folder() / f"{name}.so"
    if not path.exists():
        _compile(source, command, path)
    return path


def _compile(source: str, command: list[str], path: Path) -> None:
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        handle, own = tempfile.mkstemp(suffix=".so", prefix=".", dir=path.parent)
        os.close(handle)
    except OSError as error:
        raise UserError(
            f"{path.parent}: built libraries cannot be kept there ({error.strerror}); name a "
            "folder that can be written in $JAXSNN_CACHE"
        ) from None
    try:
        _run([*command, "-o", own], source)
        os.replace(own, path)
    finally:
        Path(own).unlink(missing_ok=True)


def _run(command: list[str], source: str) -> None:
    shown = " ".join(command)
    try:
        done = subprocess.run(
            command, input=source, capture_output=True, text=True, errors="replace",
            timeout=PATIENCE, check=False,
        )  # fmt: skip
    except (OSError, subprocess.TimeoutExpired) as error:
        raise UserError(f"the compiler failed ({error}); the command was: {shown}") from None
    if done.returncode:
        lines = done.stderr.splitlines() or [f"exit code {done.returncode}"]
        first = next((line for line in lines if "error" in line.lower()), lines[0])
        raise UserError(f"the compiler failed ({first.strip()}); the command was: {shown}")


@cache
def _version(compiler: str) -> str:
    try:
        done = subprocess.run([compiler, "--version"], capture_output=True, text=True, check=False)
    except OSError:
        return ""
    return done.stdout.partition("\n")[0]


@cache
def _processor() -> str:
    """Return the processor's model and instruction sets: `-march=native` depends on them."""
    try:
        text = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace")
    except OSError:
        return platform.processor()
    kept = [line for line in text.splitlines() if line.startswith(("model name", "flags"))]
    return "\n".join(kept[:2])
