"""A search tries exactly so many points, whoever dies, and halving changes nobody who goes on."""

import itertools
import os
import signal
import subprocess
import sys
import time
from functools import partial
from pathlib import Path
from types import SimpleNamespace

import jax
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from jaxsnn import metrics, sweep
from jaxsnn.data import Split
from jaxsnn.errors import UserError
from jaxsnn.sweep import chunks, halving, trials
from jaxsnn.sweep.fronts import beaten, ranking
from jaxsnn.sweep.searching import front_of
from jaxsnn.sweep.space import arrays, checked_space, types_of
from jaxsnn.sweep.trials import Trials, open_storage
from tests.sweep.test_sweep import BATCH, DATA, NET, TASK, phase_of

optuna = pytest.importorskip("optuna")
optuna.logging.set_verbosity(optuna.logging.WARNING)

VALUES = {"sparsity": [0.0, 0.5, 0.7], "bits": [2, 3, 5]}
TWO = {"accuracy": "maximize", "weight_bytes": "minimize"}


def lane(point, start):
    return phase_of(point["sparsity"], point["bits"], start.params), start


def go(count=9, **options):
    """Search the nine points of a grid, in the same order each time."""
    given = {"epochs": 4, "batch_size": BATCH, "chunk": 4, "judge": "test", "lanes": "vmap"}
    given |= {"objectives": TWO, "axes": sweep.AXES, "show": False}
    given["sampler"] = optuna.samplers.GridSampler(VALUES, seed=0)
    return sweep.search(lane, VALUES, TASK, NET, DATA, trials=count, **given | options)


@pytest.fixture(scope="module")
def compiled():
    """Return the list to which each compilation of a chunk adds its lanes."""
    found, compile_chunk = [], chunks._compile

    def counting(run, points, data, lanes, *rest):
        found.append(lanes)
        return compile_chunk(run, points, data, lanes, *rest)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(chunks, "_compile", counting)
        yield found


@pytest.fixture(scope="module")
def where(tmp_path_factory):
    """Return where a search and its networks are kept."""
    folder = tmp_path_factory.mktemp("search")
    return {"storage": str(folder / "journal.log"), "directory": folder / "networks"}


@pytest.fixture(scope="module")
def whole(where, compiled):
    """Return a search that its first worker left after two calls, and the other one's records."""

    def leave(record):
        if record["call"] == 2:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        go(**where, log=leave)
    records = []
    found = go(**where, log=records.append)
    assert compiled == [4, 4]  # once a worker
    return found, records


# --- Whole searches -------------------------------------------------------------------------------


@pytest.mark.long
def test_a_search_that_its_worker_left_goes_on_with_what_is_left(whole):
    found, records = whole
    assert [(record["lanes"], sum(record["ended"].values())) for record in records] == [(1, 9)]
    assert found.calls == 1 and len({row["worker"] for row in found.rows}) == 2
    points = {(row["sparsity"], row["bits"]) for row in found.rows}
    assert points == set(itertools.product(*VALUES.values()))
    assert {row["ended"] for row in found.rows} == {"whole"} and found.lane_epochs == 36


@pytest.mark.long
def test_networks_on_the_front_are_worth_what_was_told(whole):
    found, told = whole[0], {row["trial"]: row for row in whole[0].rows}
    assert list(found.networks) == found.front == front_of(found.rows, TWO)
    for number, net in found.networks.items():
        assert {float(each.bits) for each in net.quantized.values()} == {told[number]["bits"]}
    number = found.front[-1]
    last = metrics.measure(TASK, found.networks[number], Split(*DATA["test"]))
    assert last.weight_bytes == told[number]["weight_bytes"]
    assert last.accuracy == pytest.approx(told[number]["accuracy"], abs=1e-6)


@pytest.mark.long
def test_a_search_that_is_over_is_read_back_and_compiles_nothing(whole, where, compiled):
    before = len(compiled)
    again = go(**where)
    assert again.calls == 0 and again.rows == whole[0].rows and len(compiled) == before
    for number, net in whole[0].networks.items():
        jax.tree.map(np.testing.assert_array_equal, again.networks[number], net)


@pytest.mark.long
def test_lanes_that_go_on_are_those_of_a_search_without_halving(whole, compiled):
    """A lane's place in the program may change the last bit: on AVX-512 XLA fuses by place."""
    before = len(compiled)
    some = go(halving=2)
    assert compiled[before:] == [4] and whole[0].lane_epochs > some.lane_epochs
    ended = {way: [row for row in some.rows if row["ended"] == way] for way in ("whole", "halved")}
    assert len(some.rows) == 9 and {row["epochs"] for row in ended["halved"]} == {1, 2}
    twins = {(row["sparsity"], row["bits"]): row for row in whole[0].rows}
    compared = 0
    for row in ended["whole"]:
        twin = twins[row["sparsity"], row["bits"]]
        assert [row[name] for name in TWO] == [twin[name] for name in TWO]
        if row["trial"] in some.networks and twin["trial"] in whole[0].networks:
            nets = some.networks[row["trial"]], whole[0].networks[twin["trial"]]
            jax.tree.map(partial(np.testing.assert_allclose, rtol=1e-5, atol=1e-7), *nets)
            compared += 1
    assert compared


WORKER = """
import sys
from tests.sweep import test_search
test_search.go(12, storage=sys.argv[1], sampler=None, chunk=2, epochs=40)
"""


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["journal.log", "search.db"])
def test_a_killed_worker_loses_no_trial(tmp_path, kind):
    """SIGKILL, in the middle of its trials; the other worker asks for their points again."""
    storage = f"sqlite:///{tmp_path / kind}" if kind.endswith("db") else str(tmp_path / kind)
    opened = open_storage(storage)
    command = [sys.executable, "-c", WORKER, storage]
    victim, other = (subprocess.Popen(command, cwd=Path(__file__).parents[2]) for _ in range(2))
    while not kill_at_work(victim, opened):
        assert victim.poll() is None and other.poll() is None
        time.sleep(0.1)
    assert other.wait(300) == 0
    found = optuna.load_study(study_name="sweep", storage=opened).trials
    assert sum(trial.state.name == "COMPLETE" for trial in found) == 12
    failed = {trial.number: trial for trial in found if trial.state.name == "FAIL"}
    again = {t.user_attrs["again"]: t for t in found if "again" in t.user_attrs}
    assert set(failed) == set(again) and len(failed) == 2
    for number, trial in again.items():
        assert trial.params == failed[number].params and trial.state.name == "COMPLETE"


def kill_at_work(process, storage):
    """Kill a worker that has two trials; return whether it came to that."""
    studies = storage.get_all_studies()
    trials = storage.get_all_trials(studies[0]._study_id) if studies else []
    mine = [t for t in trials if f":{process.pid}:" in t.user_attrs.get("worker", "")]
    if [t.state.name for t in mine].count("RUNNING") < 2:
        return False
    process.send_signal(signal.SIGKILL)
    assert process.wait() == -signal.SIGKILL
    return True


# --- Trials ---------------------------------------------------------------------------------------

SPACE = {"x": optuna.distributions.FloatDistribution(0.0, 1.0)}


def worker(storage, total=5, study="sweep", space=SPACE, facts=None, **objectives):
    return Trials(storage, study, total, space, objectives or TWO, facts or {"epochs": 3})


def finish(there, given):
    for trial in given:
        there.tell(trial, [0.5, 10.0], {"ended": "whole", "epochs": 3})


@pytest.fixture
def storage(tmp_path):
    return str(tmp_path / "journal.log")


@pytest.mark.long
def test_workers_share_exactly_so_many_places(storage):
    first, second = worker(storage), worker(storage)
    mine, theirs = first.ask(3), second.ask(3)
    assert (len(mine), len(theirs), first.ask(2)) == (3, 2, [])
    finish(first, mine)
    second.tell(theirs[0], None, {"ended": "diverged", "epochs": 1})
    assert not first.is_over()
    finish(second, theirs[1:])
    assert first.is_over() and second.is_over() and first.ask(1) == []
    rows = first.ended()
    assert [row["trial"] for row in rows] == [0, 1, 2, 3, 4]
    assert [row["accuracy"] for row in rows] == [0.5, 0.5, 0.5, None, 0.5]
    assert {row["worker"] for row in rows} == {first.worker, second.worker}


def test_who_asks_for_one_too_many_at_the_same_time_gives_it_back(storage, monkeypatch):
    first, second = worker(storage), worker(storage)
    finish(first, first.ask(4))
    monkeypatch.setattr(second, "_places", iter([[0, 1, 2, 3], [0, 1, 2, 3, 4, 5]]).__next__)
    assert len(first.ask(1)) == 1
    assert second.ask(1) == []


def test_points_of_a_worker_that_is_gone_are_asked_again(storage):
    dead, alive = worker(storage), worker(storage)
    dead.worker = dead.worker.replace(f":{os.getpid()}:", f":{gone_process()}:")
    lost = dead.ask(2)
    taken = alive.ask(5)
    assert len(taken) == 5
    assert [t.params for t in taken[:2]] == [t.params for t in lost]
    finish(dead, lost)  # it was not dead after all: too late
    finish(alive, taken)
    assert {row["worker"] for row in alive.ended()} == {alive.worker} and alive.is_over()


def gone_process():
    process = subprocess.Popen([sys.executable, "-c", ""])
    process.wait()
    return process.pid


def test_a_worker_elsewhere_is_dead_when_its_beat_stands_still(storage, monkeypatch):
    far, near = worker(storage), worker(storage)
    far.worker = "elsewhere:7:0a"
    lost = far.ask(1)
    clock = iter([0.0, 59.0, 100.0, 159.0, 161.0]).__next__
    monkeypatch.setattr(trials, "time", SimpleNamespace(monotonic=clock))
    assert len(near.ask(4)) == 4 and near.ask(1) == []
    far._beat(1)
    assert near.ask(1) == [] and near.ask(1) == []
    (again,) = near.ask(1)
    assert again.params == lost[0].params


def test_trials_that_are_given_back_are_asked_again(storage):
    there = worker(storage)
    given = there.ask(5)
    finish(there, given[:2])
    there.release(given[2:])
    assert [t.params for t in worker(storage).ask(9)] == [t.params for t in given[2:]]


def test_a_search_may_be_made_longer(storage):
    there = worker(storage)
    finish(there, there.ask(5))
    assert len(worker(storage, total=7).ask(9)) == 2
    with pytest.raises(UserError, match="begun with 7 trials, found 5"):
        worker(storage)


OTHERS = {
    "objectives": ({"accuracy": "maximize"}, "objectives/weight_bytes = 'minimize', not None"),
    "axes": ({"space": {**SPACE, "y": SPACE["x"]}}, "axes/y = None, not"),
    "range": ({"space": {"x": optuna.distributions.FloatDistribution(0, 2)}}, "high = 1.0, not 2"),
    "facts": ({"facts": {"epochs": 4}}, "epochs = 3, not 4"),
    "number": ({"total": 0}, "trials must be in"),
}


@pytest.mark.parametrize("other", OTHERS)
def test_another_search_in_the_storage_is_refused(storage, other):
    options, message = OTHERS[other]
    worker(storage)
    with pytest.raises(UserError, match=message) as caught:
        worker(storage, **options)
    assert "\n" not in str(caught.value)
    assert len(worker(storage, study="another", **options | {"total": 3}).ask(1)) == 1


def test_a_study_of_somebody_else_is_refused(storage):
    study = optuna.create_study(storage=open_storage(storage), study_name="sweep")
    study.ask()
    with pytest.raises(UserError, match="'sweep' is no search of jaxsnn; choose another study"):
        worker(storage)


def test_a_storage_that_cannot_be_used_is_one_line(tmp_path):
    (tmp_path / "text").write_text("no journal\n")
    (tmp_path / "list").write_text("[1]\n")
    bad = [tmp_path, tmp_path / "no" / "journal", tmp_path / "text", tmp_path / "list"]
    urls = [f"sqlite:///{tmp_path}/no/search.db", "nosql://x", "grpc://host"]
    for each in [*map(str, bad), *urls]:
        with pytest.raises(UserError, match="storage .*(cannot be used|write it as)") as caught:
            worker(each)
        assert "\n" not in str(caught.value) and len(str(caught.value)) < 400


def test_without_optuna_the_extra_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "optuna", None)
    with pytest.raises(UserError, match=r"pip install 'jaxsnn-compress\[search\]'"):
        go()


# --- Fronts, rungs, spaces ------------------------------------------------------------------------

FEW = st.lists(st.tuples(*[st.integers(0, 4)] * 3), min_size=1, max_size=9)


@settings(deadline=None, max_examples=60)
@given(FEW)
def test_a_ranking_goes_front_by_front(found):
    def beats(a, b):
        return a != b and all(x <= y for x, y in zip(a, b, strict=True))

    out = [any(beats(other, each) for other in found) for each in found]
    assert beaten(found).tolist() == out
    order = ranking(found).tolist()
    assert sorted(order) == list(range(len(found)))
    places = {point: place for place, point in enumerate(order)}
    for i, j in itertools.permutations(range(len(found)), 2):
        assert not beats(found[i], found[j]) or places[i] < places[j]
    assert found[order[0]][0] == min(each[0] for each in found)


def test_what_is_not_finite_is_beaten_and_last():
    assert beaten([[np.nan, 0.0], [1.0, np.inf]]).tolist() == [True, True]
    assert ranking([[np.nan, 0.0], [1.0, 1.0]]).tolist() == [1, 0]


def test_a_lane_goes_on_if_it_is_among_the_best_share():
    assert halving.losers([[0.3]], [], 3) == [False]
    assert halving.losers([[0.3], [0.1], [0.2]], [], 3) == [True, False, True]
    assert halving.losers([[0.3]], [[0.1], [0.2], [0.4]], 2) == [True]


@pytest.mark.parametrize(
    ("epochs", "keep", "ages", "segment"),
    [
        (9, 3, (1, 3), 1),
        (27, 3, (1, 3, 9), 1),
        (20, 4, (1, 5), 1),
        (8, 8, (1,), 1),
        (12, 2, (1, 3, 6), 1),
        (20, 3, (2, 6), 2),
        (6, None, (), 6),
    ],
)
def test_lanes_are_judged_at_the_whole_divided_by_powers(epochs, keep, ages, segment):
    assert halving.rungs_of(epochs, keep) == (ages, segment)


def test_types_of_axes_are_those_of_a_grid():
    space = checked_space({"bits": [2, 4], "decay": [0.5, 1]}, sweep.AXES)
    types = types_of(space, sweep.AXES)
    found = arrays([{"bits": 4, "decay": 0.5}, {"bits": 2, "decay": 1}], types)
    assert found["bits"].dtype == np.int32 and found["decay"].tolist() == [0.5, 1.0]


FLOAT = optuna.distributions.FloatDistribution
BAD = {
    "empty": ({"space": {}}, "space of a search is empty"),
    "unknown axis": ({"space": {"width": [1, 2]}}, "'width' is no traced number"),
    "range": ({"space": {"sparsity": FLOAT(0.5, 1.0)}}, r"axis 'sparsity' must be in \[0, 1\)"),
    "whole": ({"space": {"bits": FLOAT(2, 4)}}, "'bits' takes whole numbers: give an IntDist"),
    "no distribution": ({"space": {"bits": 4}}, "'bits' needs a distribution of optuna or a list"),
    "objective": ({"objectives": {"beauty": "maximize"}}, "objective 'beauty' is unknown"),
    "direction": ({"objectives": {"synops": "down"}}, "'synops' must be 'maximize' or 'minimize'"),
    "no objective": ({"objectives": {}}, "objectives are empty"),
    "judge": ({"judge": "validation"}, "judge 'validation' is no split"),
    "trials": ({"trials": 0}, "trials must be in"),
    "halving": ({"halving": 1}, "halving must be in"),
    "few epochs": ({"halving": 9}, "halving must be in"),
    "chunk": ({"chunk": 0}, "chunk must be in"),
    "devices": ({"devices": 3}, "devices must be in"),
}


@pytest.mark.parametrize("mistake", BAD)
def test_a_mistake_is_one_line(mistake):
    options, message = BAD[mistake]
    space = options.get("space", VALUES)
    given = {"trials": 4, "epochs": 4, "batch_size": BATCH, "judge": "test", "axes": sweep.AXES}
    given |= {key: value for key, value in options.items() if key != "space"}
    with pytest.raises(UserError, match=message) as caught:
        sweep.search(lane, space, TASK, NET, DATA, show=False, **given)
    assert "\n" not in str(caught.value)
