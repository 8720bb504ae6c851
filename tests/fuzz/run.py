"""Damage files of every format again and again, read them, and count what comes of it.

    python -m tests.fuzz.run --mutations 20000 --seed 0

prints a table by format and outcome; the exit code is 1 if there was a failure. Files are read in a
process of its own, with a bound on its memory and on the time of each reading. The number of a
failure repeats it: `--only FORMAT --number N`.

| outcome  | what the reader did                                                                  |
|----------|--------------------------------------------------------------------------------------|
| refused  | a `UserError` of one line with the name of the file or its folder                     |
| same     | returned what was written                                                            |
| previous | took the checkpoint before the damaged one                                           |
| other    | returned something else: the format has no checksum, or a forger made it anew         |
| failures | a foreign exception, no end within the time, more memory than the bound, a crash, or  |
|          | other content where a checksum should have noticed                                   |
"""

import argparse
import contextlib
import faulthandler
import hashlib
import io
import json
import os
import random
import resource
import signal
import subprocess
import sys
import tempfile
import time
import traceback
import warnings
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from jaxsnn.errors import UserError
from tests.fuzz.formats import FORMATS
from tests.fuzz.mutations import damaged

ROOT = Path(__file__).parents[2]
SECONDS = 10  # of processor time that one reading may take
PATIENCE = 300  # seconds after which a process is ended from outside of Python, which may hang
MEMORY = 1 << 29  # bytes of address space that it may take on top
OUTCOMES = ("refused", "same", "previous", "other", "failures")
CHEAPER = 6  # damages of a cheap format for one of another
FORGED = 0.4  # share of the damages that know the format, where there are such


class Case(NamedTuple):
    """One damage, and what came of it."""

    number: int
    kind: str
    outcome: str
    words: str = ""


class TooLongError(BaseException):
    """The time is over; no reader catches it."""


class Files:
    """Whole files of one format in a folder, and what they hold."""

    def __init__(self, name: str, folder: Path):
        self.name, self.folder, self.format = name, folder, FORMATS[name]
        self.format.make(folder)
        self.content = self._now()
        self.whole = fingerprint(self.format.read(folder))
        self.lesser = {fingerprint(each) for each in self.format.lesser()}
        self.restore()

    def _now(self) -> dict[str, bytes]:
        found = sorted(path for path in self.folder.rglob("*") if path.is_file())
        return {str(path.relative_to(self.folder)): path.read_bytes() for path in found}

    def restore(self) -> None:
        """Write the whole files again, and remove what a reader left."""
        now = self._now()
        for name in now.keys() - self.content.keys():
            (self.folder / name).unlink()
        for name, content in self.content.items():
            if now.get(name) != content:
                (self.folder / name).parent.mkdir(parents=True, exist_ok=True)
                (self.folder / name).write_bytes(content)

    def attempt(self, number: int, seed: int) -> Case:
        """Damage one file, read, and put everything back."""
        draw = random.Random(f"{seed} {self.name} {number}")
        name = draw.choice([name for name, content in self.content.items() if content])
        forge, content = self.format.forge, self.content[name]
        while content == self.content[name]:
            if forge is not None and draw.random() < FORGED:
                kind, content = "forged", forge(draw, name, content)
            else:
                kind, content = damaged(draw, content)
        (self.folder / name).write_bytes(content)
        try:
            return Case(number, f"{kind} {name}", *self._outcome(kind == "forged"))
        finally:
            self.restore()

    def _outcome(self, is_forged: bool) -> tuple[str, str]:
        begin = time.process_time()
        try:
            with bounded(), contextlib.redirect_stderr(io.StringIO()):
                found = fingerprint(self.format.read(self.folder))
        except UserError as error:
            if reason := self._wrong_words(error):
                return "failures", reason
            if (seconds := time.process_time() - begin) > SECONDS:
                return "failures", f"refused after {seconds:.0f} s: {error}"
            return "refused", str(error)
        except TooLongError:
            return "failures", f"no end within {SECONDS} s"
        except Exception:
            return "failures", traceback.format_exc()
        if found == self.whole:
            return "same", ""
        if found in self.lesser:
            return "previous", ""
        if self.format.checked and not is_forged:
            return "failures", "other content, and nobody noticed"
        return "other", ""

    def _wrong_words(self, error: UserError) -> str:
        text = str(error)
        cause: BaseException | None = error
        while cause is not None:
            if isinstance(cause, MemoryError):
                return f"asked for more than {MEMORY:,} bytes: {text}"
            cause = cause.__cause__ or cause.__context__
        if "\n" in text or len(text) > 1000:
            return f"no single line: {text[:2000]}"
        if str(self.folder) not in text:
            return f"does not say where: {text}"
        return ""


@contextlib.contextmanager
def bounded() -> Iterator[None]:
    """Bound time and memory of what runs inside; warnings are errors."""

    def over(*_: Any) -> None:
        raise TooLongError

    soft, hard = resource.getrlimit(resource.RLIMIT_AS)
    pages = int(Path("/proc/self/statm").read_text().split()[0])
    old = signal.signal(signal.SIGPROF, over)
    resource.setrlimit(resource.RLIMIT_AS, (pages * resource.getpagesize() + MEMORY, hard))
    signal.setitimer(signal.ITIMER_PROF, SECONDS)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            yield
    finally:
        signal.setitimer(signal.ITIMER_PROF, 0)
        resource.setrlimit(resource.RLIMIT_AS, (soft, hard))
        signal.signal(signal.SIGPROF, old)


def fingerprint(value: Any) -> str:
    """Return a digest of what was read: arrays, containers, plain values."""
    import jax

    digest = hashlib.sha256()

    def add(value: Any) -> None:
        if isinstance(value, dict):
            for key in sorted(value, key=str):
                digest.update(f"{key!r}:".encode("utf-8", "surrogatepass"))
                add(value[key])
        elif isinstance(value, (list, tuple)):
            digest.update(f"{len(value)}[".encode())
            for each in value:
                add(each)
        elif isinstance(value, (np.ndarray, np.generic, jax.Array)):
            array = np.asarray(value)
            digest.update(f"{array.dtype}{array.shape}".encode() + array.tobytes())
        else:
            digest.update(repr(value).encode("utf-8", "surrogatepass"))

    add(value)
    return digest.hexdigest()


def cases(name: str, numbers: Sequence[int], seed: int) -> Iterator[Case]:
    """Yield what comes of each damage, in this process."""
    with tempfile.TemporaryDirectory(prefix="fuzz-") as folder:
        files = Files(name, Path(folder))
        for number in numbers:
            yield files.attempt(number, seed)


def worker(parts: dict[str, tuple[int, int]], seed: int) -> None:
    """Print a line of JSON for each damage of each part, format -> first and last number."""
    lines = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # what a library prints is none of them
    for name, (first, last) in parts.items():
        for case in cases(name, range(first, last), seed):
            faulthandler.dump_traceback_later(PATIENCE, exit=True)  # where no signal helps
            print(json.dumps([name, *case]), file=lines, flush=True)


def in_processes(counts: dict[str, int], seed: int) -> Iterator[tuple[str, list[Case]]]:
    """Yield each format with what comes of its damages 0 to count - 1, read in other processes.

    Where a process dies, that damage is a failure, and another process goes on behind it.
    """
    environment = os.environ | {"JAX_PLATFORMS": "cpu", "TF_CPP_MIN_LOG_LEVEL": "3"}
    found: dict[str, list[Case]] = {name: [] for name in counts}
    waiting = list(counts)
    while waiting:
        parts = {name: (len(found[name]), counts[name]) for name in waiting}
        command = [sys.executable, "-m", "tests.fuzz.run", "--worker", json.dumps(parts)]
        with (
            tempfile.TemporaryFile("w+") as words,
            subprocess.Popen(
                [*command, "--seed", str(seed)],
                **{"cwd": ROOT, "env": environment, "stdout": subprocess.PIPE, "stderr": words},
                text=True,
            ) as process,
        ):
            lines = 0
            for line in process.stdout or ():
                lines += 1
                name, *case = json.loads(line)
                found[name].append(Case(*case))
                if len(found[name]) == counts[name]:
                    waiting.remove(name)
                    yield name, found[name]
            if process.wait() and waiting:
                words.seek(0)
                told = f"exit code {process.returncode}: {words.read()[-2000:]}"
                if not lines:  # the whole files cannot be read, or nothing starts here
                    raise RuntimeError(told)
                name = waiting[0]
                found[name].append(Case(len(found[name]), "", "failures", told))
                if len(found[name]) == counts[name]:
                    waiting.remove(name)
                    yield name, found[name]


def table(results: dict[str, list[Case]]) -> str:
    """Return the counts as a table in Markdown."""
    lines = [f"| format | mutations | {' | '.join(OUTCOMES)} |"]
    lines.append("| --- |" + " --- |" * (len(OUTCOMES) + 1))
    lines += [_line(name, found) for name, found in results.items()]
    lines.append(_line("all", [case for found in results.values() for case in found]))
    return "\n".join(lines)


def _line(name: str, found: Sequence[Case]) -> str:
    counts = Counter(case.outcome for case in found)
    cells = [len(found), *(counts[outcome] for outcome in OUTCOMES)]
    return f"| {name} | {' | '.join(f'{cell:,}' for cell in cells)} |"


def shares(mutations: int, names: Sequence[str]) -> dict[str, int]:
    """Return how many damages each format gets, cheap ones more, and `mutations` in all."""
    weights = [CHEAPER if FORMATS[name].cheap else 1 for name in names]
    found = {n: mutations * w // sum(weights) for n, w in zip(names, weights, strict=True)}
    found[names[0]] += mutations - sum(found.values())
    return found


def main() -> None:
    """Run as a program."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--mutations", type=int, default=500)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--only", choices=FORMATS, action="append")
    parser.add_argument("--number", type=int)
    parser.add_argument("--worker", type=json.loads, help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.worker:
        worker(given.worker, given.seed)
        return
    names = given.only or list(FORMATS)
    if given.number is not None:
        for case in cases(names[0], [given.number], given.seed):
            print(*case, sep="\n")
        return
    results = {}
    for name, found in in_processes(shares(given.mutations, names), given.seed):
        results[name] = found
        print(_line(name, found), file=sys.stderr, flush=True)
        for case in [case for case in found if case.outcome == "failures"][:20]:
            print(f"  {case.number} {case.kind}: {case.words.strip()[-600:]}", file=sys.stderr)
    print(table(results))
    if any(case.outcome == "failures" for found in results.values() for case in found):
        raise SystemExit(1)


if __name__ == "__main__":
    main()
