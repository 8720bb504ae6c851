"""Pictures are those of results/, the same bytes each time, and of today's engine alone."""

import importlib.util
import json
import math
import xml.etree.ElementTree as ElementTree
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
spec = importlib.util.spec_from_file_location("pictures", ROOT / "tools" / "pictures.py")
pictures = importlib.util.module_from_spec(spec)
spec.loader.exec_module(pictures)


def row(name, seed, accuracy, size, **more):
    return {
        "name": name, "seed": seed, "accuracy": accuracy, "samples": 10_000, "file_bytes": size,
        "synops": 10.0 * size, "timesteps": 4, "spikes_per_sample": 100.0,
    } | more  # fmt: skip


def content(**more):
    rows = [
        each
        for seed in (0, 1)
        for each in (
            row("dense", seed, 0.99, 80_000),
            row("ADMM 5 %", seed, 0.98 + 0.01 * seed, 9_000 + 2_000 * seed),
            row("ADMM 1 %", seed, 0.95, 3_000),
            row("compressed", seed, 0.97, 2_000, timesteps=2),
            row("as ann", seed, 0.99, 80_000, spikes_per_sample=None),
        )
    ]
    return {
        "experiment": "admm", "dataset": "mnist", "versions": {"jaxsnn": "0.2.0"}, "commit": "abc",
        "seeds": [0, 1], "rows": rows,
    } | more  # fmt: skip


@pytest.fixture
def house(tmp_path, monkeypatch):
    """Return a checkout with a page and one stored row."""
    for name in ("ROOT", "RESULTS", "DOCS"):
        monkeypatch.setattr(pictures, name, tmp_path / {"ROOT": "."}.get(name, name.lower()))
    (tmp_path / "results").mkdir()
    (tmp_path / "docs" / "methods").mkdir(parents=True)
    (tmp_path / "README.md").write_text("nothing\n")
    page = "before\n<!-- picture: {} -->\n<!-- /picture -->\nafter\n"
    (tmp_path / "docs" / "methods" / "a.md").write_text(page.format("own") + page.format("gone"))
    (tmp_path / "results" / "own.json").write_text(json.dumps(content()))
    return tmp_path


def test_the_pictures_and_their_links_are_up_to_date(capsys):
    assert pictures.main(["--check"]) == 0, capsys.readouterr().err


def test_a_point_is_the_mean_over_seeds_with_the_error_of_seeds_and_test_set():
    found = {point.name: point for point in pictures.points(content())}
    assert list(found) == [
        "dense",
        "ADMM 5 %",
        "ADMM 1 %",
        "compressed",
    ]  # no ANN: it has no spikes
    half = found["ADMM 5 %"]
    assert (half.series, half.costs["file_bytes"]) == ("ADMM", 10_000)
    p = (9850 + 2) / 10_004
    seeds = 0.01 / math.sqrt(2) / math.sqrt(2)  # of 98 and 99 %
    assert half.accuracy == pytest.approx(0.985)
    assert half.error == pytest.approx(math.sqrt(seeds**2 + p * (1 - p) / 10_000))
    assert [found[name].kind for name in ("dense", "compressed")] == ["baseline", "product"]


def test_the_larger_one_of_two_test_sets_counts():
    rows = [row("dense", 0, 0.5, 100, samples=1000, held_out_accuracy=0.6, held_out_samples=9000)]
    (found,) = pictures.points(content(rows=rows))
    assert found.accuracy == 0.6 and found.error == pytest.approx(math.sqrt(0.24 / 9000), rel=0.01)


def test_the_front_has_what_no_other_network_beats_in_both():
    costs, accuracies = [5, 1, 3, 3, 9], [0.9, 0.5, 0.8, 0.7, 0.9]
    assert pictures.front(costs, accuracies) == [1, 2, 0]


def test_only_what_the_engine_of_today_stored_is_drawn(house):
    assert set(pictures.wanted()) == {"own", "all-mnist"}
    for change in ({"versions": {"jaxsnn": "0.1.0"}}, {"commit": None}, {"rows": []}):
        (house / "results" / "own.json").write_text(json.dumps(content(**change)))
        assert pictures.wanted() == {}
    dense = content()["rows"][:1]  # with nothing to compare it with
    (house / "results" / "own.json").write_text(json.dumps(content(rows=dense)))
    assert pictures.wanted() == {}


def test_pictures_are_drawn_once_linked_and_found_stale_when_a_number_changes(house, capsys):
    page = house / "docs" / "methods" / "a.md"
    assert pictures.main(["--check"]) == 1
    assert "docs/pictures/own.svg: is stale" in capsys.readouterr().err
    assert pictures.main([]) == 0
    text = page.read_text()
    assert "\n![own, 2 seeds: test accuracy against what it costs](../pictures/own.svg)\n" in text
    assert text.count("![") == 1  # there is no file for the other one
    picture = house / "docs" / "pictures" / "own.svg"
    drawn = picture.read_bytes()
    assert pictures.main(["--check"]) == 0
    assert pictures.draw("own", *pictures.wanted()["own"]) == drawn

    rows = content()["rows"]
    rows[1]["accuracy"] = 0.5
    (house / "results" / "own.json").write_text(json.dumps(content(rows=rows)))
    assert pictures.main(["--check"]) == 1
    (house / "results" / "own.json").unlink()
    assert pictures.main([]) == 0
    assert not picture.exists() and "![" not in page.read_text()


def test_a_picture_is_small_readable_and_says_what_it_shows(house):
    drawn = pictures.draw("own", *pictures.wanted()["own"])
    assert len(drawn) < 40_000
    texts = ["".join(each.itertext()).strip() for each in ElementTree.fromstring(drawn).iter()]
    for text in ("bytes of the whole file", "SynOps a sample", "T", "compressed", "dense"):
        assert text in texts, text
    for background in (255, 13):  # white, and the black of code forges
        for colour in (pictures.GREY, *pictures.COLOURS):
            assert contrast(colour, background) >= 2.9, colour


def contrast(colour, background):
    """Return the ratio of contrast of a colour and a grey (WCAG 2)."""

    def light(levels):
        linear = [x / 12.92 if x <= 0.03928 else ((x + 0.055) / 1.055) ** 2.4 for x in levels]
        return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2] + 0.05

    one = light([int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5)])
    other = light([background / 255] * 3)
    return max(one, other) / min(one, other)


@pytest.mark.parametrize(("value", "text"), [(4, "4"), (1e4, "10k"), (2.5e6, "2.5M")])
def test_a_large_number_takes_few_signs(value, text):
    assert pictures.short(value) == text


def test_the_axis_leaves_a_failed_network_below_it():
    assert pictures.lowest([0.99, 0.985, 0.98, 0.1]) == pytest.approx(0.96)
    assert pictures.lowest([0.99, 0.985]) == pytest.approx(0.985)
