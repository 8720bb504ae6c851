"""The zoo: its files are those of the cards, its C decides as the network does, and faults show."""

import json
import shutil
from fnmatch import fnmatch

import numpy as np
import pytest

from jaxsnn import compile as compiling
from jaxsnn import data, export, models, report, zoo
from jaxsnn.cli import main
from jaxsnn.cli.commands import data_for
from jaxsnn.errors import UserError
from jaxsnn.metrics import Report
from jaxsnn.neurons import LIF
from jaxsnn.zoo import cards
from tests.test_packaging import read_setup
from tools import zoo as tool

NAMES = zoo.names()
SAMPLES = 100  # whose decisions are compared


def told(function, *arguments):
    """Return the message of a mistake, one line."""
    with pytest.raises(UserError) as caught:
        function(*arguments)
    assert "\n" not in str(caught.value)
    return str(caught.value)


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """Return a copy of the zoo that the package reads in the place of its own."""
    copy = tmp_path / "zoo"
    copy.mkdir()
    for name in NAMES:
        for ending in (".json", ".safetensors"):
            shutil.copy(cards.FOLDER / f"{name}{ending}", copy)
    monkeypatch.setattr(cards, "FOLDER", copy)
    return copy


def test_files_and_pages_are_those_of_the_cards():
    assert tool.faults() == []


def test_the_wheel_has_every_file_of_the_zoo():
    patterns = [x.strip() for x in read_setup()["options.package_data"]["*"].split(",")]
    for path in cards.FOLDER.iterdir():
        known = path.suffix == ".py" or any(fnmatch(path.name, each) for each in patterns)
        assert known or path.name == "__pycache__", path


def test_an_unknown_name_is_told_with_those_that_there_are():
    message = told(zoo.load, "digits-1TB")
    assert message == f"zoo: no network is called 'digits-1TB'; there are {', '.join(NAMES)}"


def test_a_changed_file_is_refused(folder):
    path = folder / f"{NAMES[0]}.safetensors"
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)
    assert "its card says" in told(zoo.load, NAMES[0])


@pytest.mark.parametrize(
    ("field", "value", "message"),
    [
        ("correct", -1, "field 'correct' is -1, expected a whole number from 0 on"),
        ("correct", 1 << 20, "samples right, expected that of"),
        ("name", "other", "is the card of 'other'"),
        ("latency", {"microseconds": 1.0}, "the latency lacks the field 'processor'"),
        ("colour", "red", "has the field 'colour', unknown"),
    ],
)
def test_a_damaged_card_is_told_by_its_field(folder, field, value, message):
    path = folder / f"{NAMES[0]}.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {field: value}))
    assert message in told(zoo.Card.of, NAMES[0])


def test_a_card_returns_from_its_json(folder):
    card = zoo.Card.of(NAMES[0])
    (folder / f"{NAMES[0]}.json").write_text(json.dumps(card.to_data()))
    assert zoo.Card.of(NAMES[0]) == card
    low, high = card.interval
    assert 0 < low < card.accuracy < high < 1


# Products of other sets need their files.
CASES = [
    pytest.param(name, marks=[] if zoo.Card.of(name).dataset == "digits" else [pytest.mark.slow])
    for name in NAMES
]


@pytest.mark.long
@pytest.mark.skipif(shutil.which("cc") is None, reason="there is no C compiler")
@pytest.mark.parametrize("name", CASES)
def test_the_c_of_a_network_decides_as_the_network_does(name):
    card, model = zoo.Card.of(name), zoo.load(name)
    inputs = model.known_inputs()
    test = data_for(model, cards.checked_file(name), card.dataset, None).test
    decisions = np.asarray(model.scores(test.images)).argmax(-1)
    assert int((decisions == test.labels).sum()) == card.correct
    assert len(test.labels) == card.samples
    if card.integers is None or inputs.encoding not in ("direct", "events"):
        pytest.skip("it has no C, or takes samples drawn at random")
    compiled = compiling.build(
        model.network, inputs, allow_rounding=card.integers == "rounded", flags=("-std=c99", "-O1")
    )
    found = compiled(np.asarray(test.images[:SAMPLES])).argmax(-1)
    np.testing.assert_array_equal(found, decisions[:SAMPLES])


@pytest.mark.long
def test_the_command_takes_a_name_in_the_place_of_a_file(capsys):
    assert main(["inspect", f"zoo:{NAMES[0]}", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["file_bytes"] == zoo.Card.of(NAMES[0]).file_bytes
    assert main(["inspect", "zoo:nothing"]) == 2
    assert "zoo: no network is called 'nothing'" in capsys.readouterr().err


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """Return the folder of a run that trained nothing: its product is silent, and right by luck."""
    folder = tmp_path_factory.mktemp("runs") / "seed7"
    net = models.build("10", (8, 8, 1), LIF(0.5, 1e6), readout="spikes")
    labels = data.load("digits").test.labels
    right = float((labels == 0).mean())
    (folder / "models").mkdir(parents=True)
    export.save(
        folder / "models" / "compressed.safetensors", net, data.load("digits").inputs(timesteps=1),
        {"name": "compressed", "dataset": "digits", "accuracy": f"{right:.6f}"},
    )  # fmt: skip
    report.write_results(
        folder, experiment="own", dataset="digits", preset="cpu", seed=7, seconds=60,
        command="python -m own --seed 7 --out /tmp/own --data-dir /tmp/data",
        rows=[Report("dense", accuracy=0.5, file_bytes=5000), Report("compressed", accuracy=right)],
    )  # fmt: skip
    (folder.parent / "seed7.json").write_text('["abc", "abc"]')
    return folder


def options(*words):
    """Return what the tool reads of a command line."""
    return tool.parser().parse_args(["add", *map(str, words)])


@pytest.mark.long
def test_the_product_of_a_run_is_added_with_what_is_measured_of_it(run, folder):
    card = tool.add(options(run, "--name", "digits-silent-3kB", "--about", "It says nothing."))
    assert card == zoo.Card.of("digits-silent-3kB")
    zeros = int((data.load("digits").test.labels == 0).sum())  # a silent network says 0
    assert (card.correct, card.samples, card.spikes_per_sample) == (zeros, 359, 0)
    assert (card.dense_accuracy, card.seed, card.commit) == (0.5, 7, "abc")
    assert card.command == "python -m own --seed 7 --data-dir DIR"
    assert zoo.load("digits-silent-3kB").classes == 10
    assert f"{100 * zeros / 359:.2f} %: {zeros} of 359 samples" in tool.page(card)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("--name", "digits-9kB"), "expected DATA-3kB"),
        (("--name", "Digits"), "expected DATA-3kB"),
        (("--name", "digits-2kB", "--product", "dense"), "dense.safetensors"),
    ],
)
def test_what_cannot_be_added_is_told(run, folder, words, message):
    assert message in told(tool.add, options(run, *words, "--about", "None."))


def test_a_file_must_be_worth_what_its_run_states(tmp_path):
    row = {"name": "compressed", "accuracy": 0.9}
    tool.check_accuracy(tmp_path, 0.902, row, 500)
    tool.check_accuracy(tmp_path, 0.8, row | {"exit": {}}, 500)
    assert "the run states 90.00 %" in told(tool.check_accuracy, tmp_path, 0.896, row, 500)
