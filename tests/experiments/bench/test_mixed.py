"""The study of mixed precision, on few of the embedded digits."""

import pytest
from rich.console import Console

from experiments.bench.studies import mixed
from jaxsnn import data


@pytest.mark.slow  # trains eleven times
def test_no_way_takes_more_bytes_than_uniform_bits_do():
    plan = mixed.Plan(
        "4C3-AP2-10", timesteps=2, epochs=1, tuning=1, batch=30, seeds=1, uniform=(3,),
        calibration=30,
    )  # fmt: skip
    digits = data.load("digits", limit=100)
    rows = mixed.measured(digits, plan, 0, lambda line: None)
    assert len({row["name"] for row in rows}) == len(rows) == 6
    uniform = next(row["weight_bytes"] for row in rows if row["name"] == "uniform")
    for row in rows[1:]:
        # Codes in the budget, and widths of channels in a byte each.
        assert row["weight_bytes"] <= uniform + 4 + 10 + 8
    console = Console(record=True, width=100)
    mixed.show(console, rows, plan)
    assert "learned bits" in console.export_text()
