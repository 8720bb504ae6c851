"""Verdicts on claims follow from the numbers, and the page of evidence is up to date."""

import importlib.util
import math
from pathlib import Path

import pytest

from experiments.reproduce import claims
from experiments.reproduce.claims import AtLeast, AtMost, Claim, Fewer, Higher, Within
from experiments.reproduce.measured import binomial
from experiments.reproduce.rows import ROWS

ROOT = Path(__file__).parents[2]
spec = importlib.util.spec_from_file_location("evidence", ROOT / "tools" / "evidence.py")
evidence = importlib.util.module_from_spec(spec)
spec.loader.exec_module(evidence)


def content(a=(0.97, 0.98), b=(0.90, 0.92), **more):
    rows = [
        {"name": name, "seed": seed, "accuracy": accuracy, "samples": 1000, "file_bytes": size}
        for name, values, size in (("a", a, 10), ("b", b, 1000))
        for seed, accuracy in enumerate(values)
    ]
    return {"rows": rows, "commit": "abc", "versions": {"jaxsnn": "0.2.0"}} | more


def verdict(*tests, **more):
    return claims.judge(Claim("", "", "", tests), content(**more))


def test_the_page_is_up_to_date(capsys):
    assert evidence.main(["--check"]) == 0, capsys.readouterr().err


def test_a_difference_is_decided_beyond_twice_its_error():
    assert verdict(Higher("a", "b"))[0] == claims.SHOWN
    assert verdict(Higher("b", "a"))[0] == claims.CONTRADICTED
    # Differences 1 and 2 points; binomial errors near 0.5 and 0.6 points.
    assert verdict(Higher("a", "b"), b=(0.96, 0.96))[0] == claims.NOT_SHOWN
    error = math.sqrt(0.005**2 + binomial(0.975, 1000) ** 2 + binomial(0.96, 1000) ** 2)
    assert verdict(Higher("a", "b"), b=(0.96, 0.96))[1] == f"+1.50 ± {100 * error:.2f} points"


def test_amounts_hold_or_not_by_their_means():
    assert verdict(Fewer("a", 100, "file_bytes", "b")) == (claims.SHOWN, "100x file bytes")
    assert verdict(Fewer("a", 101, "file_bytes", "b"))[0] == claims.NOT_SHOWN
    assert verdict(Within("b", 6.6, of="a")) == (claims.SHOWN, "-6.50 points")
    assert verdict(Within("b", 6.4, of="a"))[0] == claims.NOT_SHOWN
    assert verdict(AtLeast("b", 0.905))[0] == claims.SHOWN
    assert verdict(AtLeast("b", 0.92))[0] == claims.NOT_SHOWN
    assert verdict(AtMost("b", 1000, "file_bytes")) == (claims.SHOWN, "1,000 file bytes")
    assert verdict(AtMost("b", 999, "file_bytes"))[0] == claims.NOT_SHOWN
    unknown = claims.NOT_RUN, "core seconds of a resumed run are not known"
    assert verdict(AtMost("b", 7200, "core_seconds")) == unknown


def test_a_claim_needs_all_of_its_tests_and_a_file_of_today():
    both = Fewer("a", 100, "file_bytes", "b"), Higher("a", "b")
    assert verdict(*both) == (claims.SHOWN, "100x file bytes, +6.50 ± 1.16 points")
    assert verdict(Fewer("a", 200, "file_bytes", "b"), Higher("a", "b"))[0] == claims.NOT_SHOWN
    assert verdict(*both, versions={"jaxsnn": "0.1.0"})[0] == claims.NOT_RUN
    assert verdict(Higher("a", "gone")) == (claims.NOT_RUN, "no row 'gone'")
    stored = content()
    for row in stored["rows"]:
        del row["samples"]
    found = claims.judge(Claim("", "", "", both), stored)
    assert found == (claims.NOT_RUN, "the number of test samples is not stored")
    assert claims.judge(Claim("", "", "", both), None) == (claims.NOT_RUN, "")


def test_every_claim_is_about_a_row_that_can_be_run():
    assert {claim.file for claim in claims.CLAIMS} <= set(ROWS)


@pytest.mark.parametrize("section", ["plan", "claims"])
def test_a_table_has_a_line_for_each_row_or_claim(section):
    made = evidence.rewrite(f"<!-- written: {section} -->\n<!-- /written -->")
    names = ROWS if section == "plan" else [claim.text for claim in claims.CLAIMS]
    assert all(name in made for name in names)
