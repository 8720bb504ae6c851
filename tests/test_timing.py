"""Where the time goes: activities and phases by the clock, programs by JAX's own events."""

import threading

import jax
import jax.numpy as jnp
import pytest

from jaxsnn import timing
from jaxsnn.timing import BEHIND, OUTSIDE, Timing


class Clock:
    """A clock that a test moves."""

    now = 100.0

    def perf_counter(self):
        return self.now


@pytest.fixture
def clock(monkeypatch):
    found = Clock()
    monkeypatch.setattr(timing, "time", found)
    return found


def row_of(found, phase):
    return next(row for row in found.rows() if row["phase"] == phase)


def compile_for(seconds, event=timing.COMPILING):
    jax.monitoring.record_event_duration_secs(event, seconds, fun_name="own")


def test_each_second_is_in_one_column_of_one_phase(clock):
    with Timing() as found:
        clock.now += 1
        with timing.phase("dense"):
            with timing.activity("train"):
                clock.now += 2
                compile_for(0.5)
                compile_for(0.25, timing.TRACING[1])
            with timing.activity("score"), timing.activity("evaluate"):
                clock.now += 4
            clock.now += 8
        with timing.phase("pull"), timing.activity("train"):
            clock.now += 16
        with timing.activity("draw"):
            clock.now += 32
    dense, pull, outside = found.rows()
    assert [row["phase"] for row in (dense, pull, outside)] == ["dense", "pull", OUTSIDE]
    parts = {name: dense[name] for name in ("train", "score", "evaluate", "trace", "compile")}
    assert parts == {"train": 1.25, "score": 4, "evaluate": 0, "trace": 0.25, "compile": 0.5}
    assert (dense["other"], dense["seconds"], dense["programs"]) == (8, 14, 1)
    assert (pull["train"], pull["seconds"]) == (16, 16)
    assert (outside["draw"], outside["other"], outside["seconds"]) == (32, 1, 33)
    total = str(found).splitlines()[-1].split()
    assert total[:4] == ["all", "1", "0", "63.00"]


def test_a_program_from_the_cache_is_not_counted_as_compiled(clock):
    with Timing() as found:
        jax.monitoring.record_event(timing.CACHE_HIT)
        compile_for(0.125)
        compile_for(0.5)
    row = row_of(found, OUTSIDE)
    assert (row["programs"], row["cached"], row["compile"]) == (1, 1, 0.625)


def test_what_another_thread_does_is_a_row_of_its_own(clock):
    with Timing() as found, timing.activity("train"):
        thread = threading.Thread(target=compile_for, args=(3.0,))
        thread.start()
        thread.join()
        clock.now += 1
    assert row_of(found, OUTSIDE)["train"] == 1
    assert row_of(found, BEHIND)["programs"] == 1 and row_of(found, BEHIND)["compile"] == 3


def test_programs_are_counted_as_jax_compiles_them():
    double = jax.jit(lambda x: 2 * x + 77)
    x = jnp.ones(3)
    with Timing() as found:
        double(x).block_until_ready()
        first = row_of(found, OUTSIDE)
        double(x).block_until_ready()
    row = row_of(found, OUTSIDE)
    assert row["programs"] + row["cached"] == 1
    assert row["trace"] > 0 and row["compile"] > 0
    assert {name: row[name] for name in ("trace", "compile")} == {
        name: first[name] for name in ("trace", "compile")
    }


def test_nothing_is_counted_when_nobody_measures():
    with timing.phase("dense"), timing.activity("train"):
        assert timing.opened() is None
    with pytest.raises(ZeroDivisionError), Timing() as found, timing.activity("train"):
        1 / 0  # noqa: B018
    assert timing.opened() is None and found.rows()[0]["train"] >= 0
    compile_for(1.0)
    jax.monitoring.record_event(timing.CACHE_HIT)
    assert found.rows()[0]["programs"] == found.rows()[0]["cached"] == 0
