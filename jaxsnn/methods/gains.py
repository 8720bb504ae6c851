"""What each stage of a pipeline cost and gained."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from jaxsnn.metrics import Comparison, Report

__all__ = ["with_gains"]

MEASURES = ("weight_bytes", "synops", "bit_ops", "timesteps", "spikes_per_sample")


def with_gains(report: Comparison, stages: Sequence[Mapping[str, Any]]) -> Comparison:
    """Add to the row of each stage what it cost, and what it gained.

    Against the network of the stage before (`cost`, `gain`) and the dense one (`gain_in_all`).

    Args:
      report: the last rows are those of the stages, in order; the first is the dense network's.
      stages: with the name `stage` of each.
    """
    dense, rows = report.rows[0], list(report.rows[: -len(stages)])
    before = dense
    for row, stage in zip(report.rows[-len(stages) :], stages, strict=True):
        facts = {
            "stage": stage["stage"],
            "cost": {"accuracy": (before.accuracy or 0.0) - (row.accuracy or 0.0)},
            "gain": _factors(before, row),
            "gain_in_all": _factors(dense, row),
        }
        rows.append(replace(row, extra={**row.extra, **facts}))
        before = row
    return Comparison(tuple(rows))


def _factors(base: Report, row: Report) -> dict[str, float | None]:
    """Return by what factor each measure is smaller than in another row."""
    pairs = {name: (getattr(base, name), getattr(row, name)) for name in MEASURES}
    return {name: was / now if was and now else None for name, (was, now) in pairs.items()}
