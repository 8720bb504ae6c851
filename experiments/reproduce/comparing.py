"""The rule by which a number is the same, within its error, or not reproduced."""

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from statistics import mean
from typing import Any

from experiments.reproduce.measured import binomial, by_network, samples_of, spread
from experiments.reproduce.rows import Row

ERRORS = 3  # of the difference of two means; a row has some twenty numbers
DIGITS = 1e-6  # relative
SAME, WITHIN, LOST = "same", "within error", "NOT reproduced"


@dataclass(frozen=True)
class Verdict:
    """What became of one number."""

    network: str
    number: str
    text: str  # same, within error, NOT reproduced
    why: str

    @property
    def holds(self) -> bool:
        """Return whether the number is reproduced."""
        return self.text != LOST


def compare(row: Row, stored: Mapping[str, Any], fresh: Mapping[str, Any]) -> Iterator[Verdict]:
    """Yield what became of every compared number of a stored row.

    Args:
      row: says which numbers, and their own errors.
      stored: content of results/NAME.json, one of a single run as well.
      fresh: the same of the new runs.
    """
    now = by_network(fresh["rows"])
    for network, before in by_network(stored["rows"]).items():
        for number, own in row.compared.items():
            old = _values(before, number)
            if not old:
                continue
            lines = now.get(network, [])
            counted = [samples_of(line, number) for line in [*before, *lines]]
            samples = next(filter(None, counted), None)
            yield judge(network, number, old, _values(lines, number), own, samples)


def judge(
    network: str,
    number: str,
    old: Mapping[int, float],
    new: Mapping[int, float],
    own: float | None,
    samples: int | None,
) -> Verdict:
    """Return what became of one number.

    Args:
      network: whose it is.
      number: its name.
      old: seed -> value, stored.
      new: the same of the new runs.
      own: what one value is uncertain by, as a share of it; None: the binomial error.
      samples: how many an accuracy was counted on, if that is known.
    """
    if not new:
        return Verdict(network, number, LOST, "the new run has no such number")
    if new.keys() <= old.keys() and all(math.isclose(new[s], old[s], rel_tol=DIGITS) for s in new):
        return Verdict(network, number, SAME, _shown(number, mean(new.values())))
    was, is_now = mean(old.values()), mean(new.values())
    seeds = spread(list(old.values())) or spread(list(new.values()))
    itself = own * abs(was) if own is not None else binomial(was, samples) if samples else 0.0
    error = math.sqrt((seeds**2 + itself**2) * (1 / len(old) + 1 / len(new)))
    near = abs(is_now - was) <= ERRORS * error
    why = (
        f"{_shown(number, is_now)}, stored {_shown(number, was)} "
        f"({abs(is_now - was) / error if error else math.inf:.1f} errors of {ERRORS} allowed)"
    )
    return Verdict(network, number, WITHIN if near else LOST, why)


def _values(rows: Sequence[Mapping[str, Any]], number: str) -> dict[int, float]:
    """Return seed -> value where there is one."""
    return {int(row["seed"] or 0): float(row[number]) for row in rows if _is_number(row, number)}


def _is_number(row: Mapping[str, Any], number: str) -> bool:
    return isinstance(row.get(number), int | float)


def _shown(number: str, value: float) -> str:
    return f"{100 * value:.2f} %" if "accuracy" in number else f"{value:,.5g}"
