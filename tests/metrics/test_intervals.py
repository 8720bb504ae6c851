"""Wilson's interval against its closed forms and its definition."""

import math

import pytest

from jaxsnn.metrics.intervals import NORMAL_95, wilson


def test_the_interval_has_its_closed_forms():
    square = NORMAL_95**2
    assert wilson(0.0, 10) == pytest.approx((0.0, square / (10 + square)))
    assert wilson(1.0, 10) == pytest.approx((10 / (10 + square), 1.0))
    half = 0.5 * math.sqrt(square / (40 + square))
    assert wilson(0.5, 40) == pytest.approx((0.5 - half, 0.5 + half))
    # Newcombe 1998, Statistics in Medicine 17, table I, method 3: 81 of 263, 15 of 148, 1 of 29.
    for right, samples, low, high in (
        (81, 263, 0.2553, 0.3662), (15, 148, 0.0624, 0.1605), (1, 29, 0.0061, 0.1718),
    ):  # fmt: skip
        assert wilson(right / samples, samples) == pytest.approx((low, high), abs=6e-5)


@pytest.mark.parametrize("share", [0.0, 0.013, 0.5, 0.984, 1.0])
def test_its_ends_are_the_quantile_away_from_the_share(share):
    for end in wilson(share, 250):
        deviation = math.sqrt(end * (1 - end) / 250)
        assert abs(share - end) == pytest.approx(NORMAL_95 * deviation, abs=1e-8)
