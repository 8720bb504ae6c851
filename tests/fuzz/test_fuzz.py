"""Damaged files of every format are refused in one line, or read as they were written."""

import mmap
import random

import pytest

from tests.fuzz import run
from tests.fuzz.formats import CHEAP, FORMATS
from tests.fuzz.mutations import DAMAGES, damaged, damaged_json

SMALL = run.shares(500, CHEAP)  # of the default suite
MANY = 2000  # where the option is not there: the suite was not started in this folder


def failures(cases):
    """Return what is wrong, to be printed."""
    return [
        f"{case.number} {case.kind}: {case.words}" for case in cases if case.outcome == "failures"
    ]


@pytest.mark.parametrize("name", CHEAP)
def test_a_damaged_file_is_refused_in_one_line_or_read_as_it_was(name):
    cases = list(run.cases(name, range(SMALL[name]), seed=0))
    assert len(cases) == SMALL[name] and not failures(cases)
    assert any(case.outcome == "refused" for case in cases)


@pytest.mark.slow
def test_many_damaged_files_in_a_process_of_their_own(pytestconfig):
    counts = run.shares(pytestconfig.getoption("--mutations", MANY), list(FORMATS))
    results = dict(run.in_processes(counts, pytestconfig.getoption("--fuzz-seed", 0)))
    print(run.table(results))
    assert {name: len(cases) for name, cases in results.items()} == counts
    assert not {name: found for name, cases in results.items() if (found := failures(cases))}


@pytest.mark.parametrize("kind", DAMAGES)
def test_a_damage_is_repeatable(kind):
    data = bytes(range(200))
    one, two = (DAMAGES[kind](random.Random(3), data) for _ in range(2))
    assert one == two
    assert any(DAMAGES[kind](random.Random(seed), data) != data for seed in range(9))
    assert isinstance(DAMAGES[kind](random.Random(3), b""), bytes)


def test_damages_of_all_kinds_are_drawn():
    draw = random.Random(0)
    assert {damaged(draw, b"some bytes")[0] for _ in range(200)} == set(DAMAGES)
    texts = {damaged_json(draw, b'{"a": [1, {"b": null}]}') for _ in range(100)}
    assert len(texts) > 50


@pytest.mark.long
def test_the_fuzzer_notices_what_it_looks_for(tmp_path, monkeypatch):
    """Read with a reader that does everything wrong."""
    from jaxsnn.errors import UserError

    def reader(wrong):
        def read(folder):
            if (folder / "config.json").read_bytes() == whole:
                return "whole"
            return wrong(folder)

        return read

    def endless(folder):
        while True:
            pass

    def hungry(folder):
        try:  # a new mapping: a worker's heap may have room for an array
            return mmap.mmap(-1, 2 * run.MEMORY)
        except OSError as error:
            raise UserError(f"{folder}: damaged") from MemoryError(str(error))

    def foreign(folder):
        raise IndexError

    def wordy(folder):
        raise UserError(f"{folder}\nis damaged")

    def vague(folder):
        raise UserError("a file is damaged")

    monkeypatch.setattr(run, "SECONDS", 1)
    made = FORMATS["run's config and log"]
    made.make(tmp_path)
    whole = (tmp_path / "config.json").read_bytes()
    for path in tmp_path.iterdir():
        path.unlink()

    def make(folder):
        (folder / "config.json").write_bytes(whole)

    for wrong, words in (
        (endless, "no end within"),
        (hungry, "asked for more than"),
        (foreign, "IndexError"),
        (wordy, "no single line"),
        (vague, "does not say where"),
        (lambda folder: "other", "nobody noticed"),
    ):
        broken = made._replace(make=make, read=reader(wrong), checked=True, forge=None)
        monkeypatch.setitem(FORMATS, "broken", broken)
        (case,) = run.cases("broken", [0], seed=0)
        assert case.outcome == "failures" and words in case.words, case
