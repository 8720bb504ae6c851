"""Where there is no terminal, an epoch is a line; where nothing should show, nothing does."""

import pytest

from jaxsnn.train.progress import Bar, Silence

RECORD = {
    "phase": "prune pull", "epoch": 2, "loss": 0.0625, "accuracy": 0.975, "spike_rate": 0.125,
    "validation_accuracy": 0.96, "seconds": 3.25,
}  # fmt: skip
FIGURES = {key: RECORD[key] for key in ("loss", "accuracy", "spike_rate")}


@pytest.fixture(autouse=True)
def plain(monkeypatch):
    """Undo what a user may have set to colour the output of pipes."""
    for name in ("FORCE_COLOR", "TTY_COMPATIBLE", "TTY_INTERACTIVE"):
        monkeypatch.delenv(name, raising=False)


def epoch_with(bar, record):
    with bar:
        bar.advance(5, 1, FIGURES)
        bar.finish_epoch(record)


def test_without_a_terminal_an_epoch_is_one_line_on_stderr(capsys):
    epoch_with(Bar("prune pull", 3, 10, first=1), RECORD)
    out, err = capsys.readouterr()
    assert out == ""
    assert err.split("\n")[1:] == [""]
    assert err.split() == [
        *("prune", "pull", "epoch", "2/3", "loss", "0.0625", "train", "97.50", "%"),
        *("validation", "96.00", "%", "rate", "0.125", "3.2", "s"),
    ]


def test_a_line_stays_whole_however_long_its_phase_is_called(capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "40")
    epoch_with(Bar("x" * 100, 3, 10), RECORD)
    assert capsys.readouterr().err.count("\n") == 1


def test_what_was_not_validated_is_not_shown(capsys):
    epoch_with(Bar("dense", 3, 10), {k: v for k, v in RECORD.items() if "validation" not in k})
    assert "validation" not in capsys.readouterr().err


def test_in_a_terminal_the_bar_shows_phase_and_figures(capsys, monkeypatch):
    monkeypatch.setenv("FORCE_COLOR", "1")
    monkeypatch.setenv("COLUMNS", "140")
    epoch_with(Bar("dense", 3, 10), RECORD)
    err = capsys.readouterr().err
    assert "dense" in err
    assert "epoch 2/3 loss 0.0625" in err
    assert "3.2 s" not in err


def test_silence_prints_nothing(capsys):
    epoch_with(Silence(), RECORD)
    assert capsys.readouterr() == ("", "")
