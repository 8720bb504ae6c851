"""The study of neurons: every neuron of ours is in it, and ratios are those of LIF."""

import pytest
from rich.console import Console

from experiments.bench import contenders
from experiments.bench.rounds import Effort
from experiments.bench.studies import neurons as study
from jaxsnn.neurons.neuron import kinds


def test_ratios_are_to_lif_for_each_state():
    assert {neuron.kind for neuron in study.NEURONS.values()} == {
        kind for kind, each in kinds().items() if each.__module__.startswith("jaxsnn.")
    }
    seconds = {("training", "LIF"): 0.010, ("training", "SynapticLIF"): 0.026}
    rows = study.rows_of(study.CASES[1], {"wall": seconds, "processor": seconds})
    assert rows[0]["wall_ms"] == pytest.approx(5.0) and rows[0]["wall_ratio"] == 1.0
    assert rows[1]["states"] == 2 and rows[1]["wall_per_state"] == pytest.approx(1.3)
    assert [row["within"] for row in rows] == [True, False]


@pytest.mark.slow  # compiles each step
def test_the_study_times_every_neuron(monkeypatch):
    tiny = study.Case("", (8,), 3, 2), study.Case("4-3", (5,), 3, 4)
    monkeypatch.setattr(study, "CASES", tiny)
    console = Console(record=True, width=160)
    rows = study.neurons(console, {}, Effort(1, 0.01, contenders.Interpreters()), 0)
    assert len(rows) == 2 * 2 * len(study.NEURONS)
    assert all(row["wall_ms"] > 0 and row["processor_ms"] > 0 for row in rows)
    assert "AdaptiveLIF" in console.export_text()
