"""The trials of a search in a storage that many workers share: ask, tell, and who is alive.

The storage is Optuna's, of any kind. What Optuna keeps is enough for exactly so many trials, and
for the death of workers, without a lock of our own:

- A trial counts if it runs or has ended with a result: complete, or pruned because it lost or
  diverged. One that failed does not count. Numbers of trials are unique, so whoever asked for one
  behind the last place gives it back.
- Each worker writes its name on its trials and a beat into the study. If its process is gone, on
  one machine, or its beat stands still for `PATIENCE`, its running trials fail, and their points
  are asked again. Who fails a trial is decided by the storage, which lets a trial end once.
"""

import contextlib
import json
import os
import re
import socket
import threading
import time
import uuid
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Literal, Self

from jaxsnn import errors
from jaxsnn.arrays import check_whole
from jaxsnn.errors import UserError
from jaxsnn.files import is_running
from jaxsnn.sweep.space import need_optuna

__all__ = ["Direction", "Trials", "open_storage", "shown"]

Direction = Literal["maximize", "minimize"]
Trial = Any  # optuna's, one that this worker asked for
Row = dict[str, Any]

BEAT, PATIENCE = 10.0, 60.0  # seconds
OWNER, FACTS, RUNG = "worker", "lane", "rung "  # attributes of a trial
SEARCH, TOTAL = "search", "trials"  # attributes of the study
LONGEST = 200  # characters of a library's message


class Trials:
    """The trials of one study, as one worker sees them; a context in which the worker is alive.

    Args:
      storage: an optuna storage, or a text: the path of a journal file, the URL of a database
        (`sqlite:///search.db`), `grpc://HOST:PORT`; None keeps the trials in this process.
      study: its name there.
      total: trials of the search, at least as many as the study was begun with.
      space: axis -> distribution.
      objectives: name -> direction.
      facts: what else must be the same for all workers, names -> JSON types.
      sampler: of optuna, which proposes points; its default if None.

    Raises:
      UserError: if the storage cannot be used, or holds another search of that name.
    """

    def __init__(
        self,
        storage: Any,
        study: str,
        total: int,
        space: Mapping[str, Any],
        objectives: Mapping[str, Direction],
        facts: Mapping[str, Any],
        sampler: Any = None,
    ):
        check_whole("trials", total, 1, 1 << 30)
        optuna = need_optuna()
        self.states = optuna.trial.TrialState
        self.total, self.space, self.objectives = total, dict(space), dict(objectives)
        self.worker = f"{socket.gethostname()}:{os.getpid()}:{uuid.uuid4().hex[:8]}"
        self._storage = storage
        self._seen: dict[str, tuple[Any, float]] = {}  # owner -> its beat, and since when
        self._stop = threading.Event()
        self._late = optuna.exceptions.UpdateFinishedTrialError  # the trial has ended
        self._faults = (OSError, optuna.exceptions.StorageInternalError, *_of_databases())
        written = {
            "objectives": self.objectives,
            "axes": {
                name: json.loads(optuna.distributions.distribution_to_json(each))
                for name, each in space.items()
            },
            **facts,
        }
        with _one_line(storage, Exception):
            self._study = optuna.create_study(
                storage=_opened(storage), study_name=study, sampler=sampler,
                directions=list(objectives.values()), load_if_exists=True,
            )  # fmt: skip
            self._check_same(study, json.loads(json.dumps(written)))

    def __enter__(self) -> Self:
        self._beat(0)
        threading.Thread(target=self._live, daemon=True).start()
        return self

    def __exit__(self, *error: object) -> None:
        self._stop.set()

    def ask(self, count: int) -> list[Trial]:
        """Return so many new trials, or fewer if the search has no more places."""
        with self._one_line():
            self._reclaim()
            room = self.total - len(self._places())
        mine = []
        for _ in range(min(count, room)):
            with self._one_line():
                mine.append(self._study.ask(self.space))
                mine[-1].set_user_attr(OWNER, self.worker)
        if mine:
            with self._one_line():
                places = self._places()
                late = [t for t in mine if sum(n < t.number for n in places) >= self.total]
                for trial in late:
                    self._fail(trial.number)
            mine = [trial for trial in mine if trial not in late]
        return mine

    def tell(self, trial: Trial, values: Sequence[float] | None, facts: Mapping[str, Any]) -> None:
        """End a trial with the values of its objectives, or as a loser with None.

        A trial that was given up for dead meanwhile stays so.
        """
        state = self.states.PRUNED if values is None else self.states.COMPLETE
        # RuntimeError: the trial has ended; or a sampler would like to stop a loop of Optuna's.
        with self._one_line(), contextlib.suppress(RuntimeError):
            trial.set_user_attr(FACTS, {"worker": self.worker, **facts})
            given = None if values is None else list(values)
            self._study.tell(trial, given, state=state, skip_if_finished=True)

    def reach(self, trial: Trial, age: int, losses: Sequence[float]) -> None:
        """Note the losses of a trial at a rung, for all workers to see."""
        with self._one_line(), contextlib.suppress(RuntimeError):
            trial.set_user_attr(f"{RUNG}{age}", list(losses))

    def reached(self, age: int) -> dict[int, list[float]]:
        """Return number of a trial -> its losses, of all trials that came to a rung."""
        name = f"{RUNG}{age}"
        return {t.number: t.user_attrs[name] for t in self._all() if name in t.user_attrs}

    def release(self, trials: Sequence[Trial]) -> None:
        """Give trials back that will not be finished; their points are asked again."""
        with self._one_line():
            known = {each.number: each for each in self._all()}
            for trial in trials:
                self._again(known[trial.number])

    def ended(self) -> list[Row]:
        """Return what is known of each trial that has ended with a result, by number.

        `trial`, its axes, its objectives (None where it lost), and what its worker said of it.
        """
        found = []
        for trial in self._all():
            if trial.state in (self.states.COMPLETE, self.states.PRUNED):
                values = trial.values or [None] * len(self.objectives)
                named = dict(zip(self.objectives, values, strict=True))
                facts = trial.user_attrs.get(FACTS, {})
                found.append({"trial": trial.number, **trial.params, **named, **facts})
        return sorted(found, key=lambda row: int(row["trial"]))

    def is_over(self) -> bool:
        """Return whether all trials of the search have ended with a result."""
        return len(self.ended()) >= self.total

    def values(self) -> list[list[float]]:
        """Return the values of the objectives of all trials that were trained to the end."""
        return [each.values for each in self._all() if each.state == self.states.COMPLETE]

    def losses(self, values: Sequence[float]) -> list[float]:
        """Return values of the objectives as losses, less is better."""
        signs = [-1.0 if way == "maximize" else 1.0 for way in self.objectives.values()]
        return [sign * value for sign, value in zip(signs, values, strict=True)]

    def _all(self) -> list[Any]:
        with self._one_line():
            return list(self._study.get_trials(deepcopy=False))

    def _places(self) -> list[int]:
        """Return the numbers of the trials that count."""
        counted = (self.states.RUNNING, self.states.COMPLETE, self.states.PRUNED)
        return [each.number for each in self._all() if each.state in counted]

    def _reclaim(self) -> None:
        """Fail the running trials of dead workers, and ask for their points again."""
        running = [each for each in self._all() if each.state == self.states.RUNNING]
        others = [each for each in running if each.user_attrs.get(OWNER) != self.worker]
        if others:
            beats = self._study.user_attrs
            for trial in others:
                owner = trial.user_attrs.get(OWNER, "")
                if self._is_dead(owner or f"trial {trial.number}", beats.get(owner)):
                    self._again(trial)

    def _is_dead(self, owner: str, beat: Any) -> bool:
        host, _, rest = owner.rpartition(":")[0].rpartition(":")
        is_near = host == socket.gethostname() and rest.isdigit() and rest != str(os.getpid())
        if is_near and not is_running(int(rest)):
            return True
        before, since = self._seen.get(owner, (None, 0.0))
        if owner not in self._seen or before != beat:
            self._seen[owner] = beat, time.monotonic()
            return False
        return time.monotonic() - since > PATIENCE

    def _again(self, trial: Any) -> None:
        """Fail a trial, and let its point be asked again if this was the one to fail it."""
        if self._fail(trial.number):
            params = trial.system_attrs.get("fixed_params", {}) | trial.params
            if params.keys() == self.space.keys():
                self._study.enqueue_trial(params, user_attrs={"again": trial.number})

    def _fail(self, number: int) -> bool:
        try:
            self._study.tell(number, state=self.states.FAIL)
        except (ValueError, self._late):
            return False
        except RuntimeError:  # a sampler would like to stop a loop of Optuna's
            return True
        return True

    def _beat(self, count: int) -> None:
        with self._one_line():
            self._study.set_user_attr(self.worker, count)

    def _live(self) -> None:
        count = 0
        while not self._stop.wait(BEAT):
            count += 1
            with contextlib.suppress(UserError):  # the next question to the storage says so
                self._beat(count)

    def _check_same(self, name: str, written: Mapping[str, Any]) -> None:
        """Write what is searched into a new study; refuse one that searches something else."""
        known = self._study.user_attrs
        ways = [direction.name.lower() for direction in self._study.directions]
        is_ours = ways == list(self.objectives.values())
        if SEARCH not in known and is_ours and not self._study.get_trials(deepcopy=False):
            self._study.set_user_attr(TOTAL, self.total)
            self._study.set_user_attr(SEARCH, written)
            known = self._study.user_attrs
        place, advice = (
            f"storage {shown(self._storage)}: the study {name!r}",
            "choose another study",
        )
        if SEARCH not in known:
            raise UserError(f"{place} is no search of jaxsnn; {advice}")
        if difference := _difference(known[SEARCH], written):
            raise UserError(f"{place} has {difference}; {advice}")
        if known[TOTAL] > self.total:
            raise UserError(
                f"{place} was begun with {known[TOTAL]} trials, found {self.total}: give as many, "
                "or more to go on"
            )
        if known[TOTAL] < self.total:
            self._study.set_user_attr(TOTAL, self.total)

    def _one_line(self) -> contextlib.AbstractContextManager[None]:
        return _one_line(self._storage, *self._faults)


def shown(storage: Any) -> str:
    """Return what a storage is called in messages, without the password of a database.

    >>> shown("postgresql://me:secret@host/search")
    'postgresql://...@host/search'
    """
    text = storage if isinstance(storage, str) else type(storage).__name__
    return re.sub("://[^/]*@", "://...@", text)


def _difference(old: Mapping[str, Any], new: Mapping[str, Any], where: str = "") -> str:
    """Return in words the first entry in which two trees of JSON differ, "" if none does."""
    for name in sorted(old.keys() | new.keys()):
        before, after = old.get(name), new.get(name)
        if isinstance(before, dict) and isinstance(after, dict):
            if found := _difference(before, after, f"{where}{name}/"):
                return found
        elif before != after:
            place = f"{where}{errors.shortened(name)}"
            return f"{place} = {errors.shown(before)}, not {errors.shown(after)}"
    return ""


def open_storage(storage: Any) -> Any:
    """Return the storage of a text; any other one as it is.

    Raises:
      UserError: if it cannot be opened.
    """
    with _one_line(storage, Exception):  # whatever a library says to a file that is none of its own
        return _opened(storage)


@contextlib.contextmanager
def _one_line(storage: Any, *faults: type[Exception]) -> Iterator[None]:
    """Turn what a storage says that cannot be read or written into one line."""
    try:
        yield
    except UserError:
        raise
    except faults as error:
        said = " ".join(str(error).split())[:LONGEST] or type(error).__name__
        raise UserError(f"storage {shown(storage)} cannot be used: {said}") from error


def _opened(storage: Any) -> Any:
    if not isinstance(storage, str):
        return storage
    storages = need_optuna().storages
    kind, _, rest = storage.rpartition("://")
    if not kind:
        backend = storages.journal.JournalFileBackend(storage)
        return storages.JournalStorage(backend)
    if kind == "grpc":
        host, _, port = rest.rpartition(":")
        if not host or not port.isdigit():
            raise UserError(f"storage {storage}: write it as grpc://HOST:PORT")
        proxy = storages.GrpcStorageProxy(host=host, port=int(port))
        proxy.wait_server_ready(timeout=PATIENCE)
        return proxy
    patient = {"connect_args": {"timeout": PATIENCE}} if kind.startswith("sqlite") else {}
    return storages.RDBStorage(storage, engine_kwargs=patient)


def _of_databases() -> list[type[Exception]]:
    """Return what the libraries behind a storage raise, of those that are installed."""
    found: list[type[Exception]] = []
    with contextlib.suppress(ImportError):
        from sqlalchemy.exc import SQLAlchemyError

        found.append(SQLAlchemyError)
    with contextlib.suppress(ImportError):
        from grpc import RpcError

        found.append(RpcError)
    return found
