"""Where the time of a program goes: what it does in which phase, and what JAX compiles meanwhile.

The engine marks what it does (`activity`, `phase`); nothing is measured unless a `Timing` is open.
JAX tells how long it traces, lowers and compiles; that time is taken out of the activity in which
it falls. What other threads do is a row of its own: the program does not wait for it.
"""

import contextlib
import threading
import time
from collections.abc import Iterator
from contextvars import ContextVar
from types import TracebackType
from typing import Any

import jax

__all__ = ["ACTIVITIES", "Timing", "activity", "opened", "phase"]

ACTIVITIES = ("train", "evaluate", "score", "pack", "draw", "waiting")
OUTSIDE, BEHIND = "no phase", "in the background"  # rows beside those of the phases

# What JAX calls its stages: those in Python, and that of XLA, a program that is read included.
TRACING = (
    "/jax/core/compile/jaxpr_trace_duration",
    "/jax/core/compile/jaxpr_to_mlir_module_duration",
)
COMPILING = "/jax/core/compile/backend_compile_duration"
CACHE_HIT = "/jax/compilation_cache/cache_hits"

_OPEN: ContextVar["Timing | None"] = ContextVar("open", default=None)


@contextlib.contextmanager
def activity(name: str) -> Iterator[None]:
    """Count the time inside as that of an activity, one of `ACTIVITIES`.

    An activity inside another one counts as the outer one: what scores a network evaluates it.
    """
    timing = _OPEN.get()
    with timing.activity(name) if timing else contextlib.nullcontext():
        yield


def opened() -> "Timing | None":
    """Return the `Timing` that is open."""
    return _OPEN.get()


@contextlib.contextmanager
def phase(name: str) -> Iterator[None]:
    """Count what is done inside as that of a phase."""
    timing = _OPEN.get()
    with timing.phase(name) if timing else contextlib.nullcontext():
        yield


class Timing:
    """Measure what the code inside a `with` spends its time on.

    Times are those of the thread that opened it, seconds by the wall clock. `rows` has a dictionary
    for each phase, `print(timing)` shows them as a table:

    - `seconds`, all of it; `train`, `evaluate`, `score` (networks and their channels, measured),
      `pack`, `draw`, `waiting` (for threads that write files), `other`: their sum with the next two
      is `seconds`;
    - `trace`, JAX tracing and lowering functions; `compile`, XLA compiling them or reading them
      from the cache of compiled programs;
    - `programs`, how many were compiled; `cached`, how many were read.

    Example:
      >>> import jax.numpy as jnp
      >>> with Timing() as timing:  # around `train.fit`, which marks its phases and activities
      ...     with phase("first"):
      ...         _ = jax.jit(lambda x: x + 12345)(jnp.ones(3))
      >>> row = timing.rows()[0]
      >>> row["phase"], row["programs"] + row["cached"] >= 1
      ('first', True)
    """

    def __init__(self) -> None:
        self._found: dict[str, dict[str, float]] = {}
        self._phase, self._activity = OUTSIDE, ""
        self._compiling = 0.0  # seconds so far that this thread traced and compiled
        self._thread, self._lock = 0, threading.Lock()
        self._start = self._seconds = 0.0

    def __enter__(self) -> "Timing":
        self._thread, self._start = threading.get_ident(), time.perf_counter()
        jax.monitoring.register_event_duration_secs_listener(self._on_duration)
        jax.monitoring.register_event_listener(self._on_event)
        self._token = _OPEN.set(self)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._seconds = time.perf_counter() - self._start
        jax.monitoring.unregister_event_duration_listener(self._on_duration)
        jax.monitoring.unregister_event_listener(self._on_event)
        _OPEN.reset(self._token)

    @contextlib.contextmanager
    def activity(self, name: str) -> Iterator[None]:
        """Count the time inside as that of an activity."""
        own, start, compiling = self._is_own(), time.perf_counter(), self._compiling
        if own and self._activity:
            yield
            return
        try:
            self._activity = name if own else self._activity
            yield
        finally:
            passed = time.perf_counter() - start
            if own:
                passed -= self._compiling - compiling
                self._activity = ""
            self._add(self._phase if own else BEHIND, **{name: passed})

    @contextlib.contextmanager
    def phase(self, name: str) -> Iterator[None]:
        """Count what is done inside as that of a phase; its name may come again."""
        outer, self._phase, start = self._phase, name, time.perf_counter()
        try:
            yield
        finally:
            self._add(name, seconds=time.perf_counter() - start)
            if outer != OUTSIDE:
                self._add(outer, seconds=start - time.perf_counter())
            self._phase = outer

    def rows(self) -> list[dict[str, Any]]:
        """Return a dictionary for each phase in order, then for what is in none."""
        whole = self._seconds or time.perf_counter() - self._start
        with self._lock:
            found = {name: dict(each) for name, each in self._found.items()}
        outside, behind = found.pop(OUTSIDE, {}), found.pop(BEHIND, None)
        outside["seconds"] = whole - sum(each.get("seconds", 0.0) for each in found.values())
        rows = [_row(name, each) for name, each in (found | {OUTSIDE: outside}).items()]
        return rows if behind is None else [*rows, _row(BEHIND, behind)]

    def __str__(self) -> str:
        """Return the rows as a table of text, with their sums."""
        rows = self.rows()
        columns = [name for name in rows[0] if name != "phase"]
        own = [row for row in rows if row["phase"] != BEHIND]
        total = {"phase": "all"} | {name: sum(row[name] for row in own) for name in columns}
        width = max(len(row["phase"]) for row in [*rows, total])
        lines = ["phase".ljust(width) + "".join(name.rjust(10) for name in columns)]
        for row in [*rows, total]:
            shown = (
                str(x) if isinstance(x, int) else f"{x:.2f}" for x in (row[c] for c in columns)
            )
            lines.append(row["phase"].ljust(width) + "".join(each.rjust(10) for each in shown))
        return "\n".join(lines)

    def _add(self, phase: str, **amounts: float) -> None:
        with self._lock:
            sums = self._found.setdefault(phase, {})
            for name, amount in amounts.items():
                sums[name] = sums.get(name, 0) + amount

    def _on_duration(self, event: str, duration_secs: float, **kwargs: str | int) -> None:
        del kwargs
        if event != COMPILING and event not in TRACING:
            return
        own = self._is_own()
        self._compiling += duration_secs if own else 0.0
        place = self._phase if own else BEHIND
        if event == COMPILING:
            self._add(place, compile=duration_secs, programs=1)
        else:
            self._add(place, trace=duration_secs)

    def _on_event(self, event: str, **kwargs: str | int) -> None:
        del kwargs
        if event == CACHE_HIT:  # within the time of a compilation, which it is not
            self._add(self._phase if self._is_own() else BEHIND, cached=1, programs=-1)

    def _is_own(self) -> bool:
        """Return whether this is the thread whose time is measured."""
        return threading.get_ident() == self._thread


def _row(name: str, found: dict[str, float]) -> dict[str, Any]:
    """Return the row of a phase; in the background only what was marked or compiled is known."""
    parts = {each: float(found.get(each, 0.0)) for each in ("trace", "compile", *ACTIVITIES)}
    seconds = found.get("seconds", sum(parts.values()))
    numbers = {each: int(found.get(each, 0)) for each in ("programs", "cached")}
    rest = max(seconds - sum(parts.values()), 0.0)
    return {"phase": name, **numbers, "seconds": seconds, **parts, "other": rest}
