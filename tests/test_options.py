"""Options of a method: frozen, by keyword, each checked once against its range."""

import dataclasses
from typing import Annotated

import pytest

from jaxsnn.errors import UserError
from jaxsnn.options import PerLayer, Range, Whole, checked, recipe_of, replaced


@checked
class Mine:
    """Options of a test."""

    sparsity: Annotated[PerLayer, Range(0, 1, open_high=True)] = 0.9
    bits: Annotated[PerLayer, Whole(1, 16)] = 3
    rates: Annotated[tuple[float, ...], Range(0)] = (0.1, 0.01)
    limit: Annotated[float | None, Range(0, 1)] = None
    name: str = "mine"

    def check(self) -> None:
        """Refuse a name that is too short."""
        if not self.name:
            raise UserError("name must not be empty")


def test_options_are_a_frozen_value_made_by_keyword():
    assert Mine() == Mine(sparsity=0.9) and Mine() != Mine(bits=4)
    with pytest.raises(dataclasses.FrozenInstanceError):
        Mine().bits = 5
    with pytest.raises(TypeError):
        Mine(0.5)


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"sparsity": 1.0}, r"sparsity must be in \[0, 1\), found 1.0"),
        ({"sparsity": {"conv1": 0.5, "out": -1}}, r"sparsity must be in \[0, 1\), found -1"),
        ({"sparsity": "much"}, "sparsity must be a number in"),
        ({"bits": 2.5}, "bits must be a whole number, found 2.5"),
        ({"bits": {"conv1": 17}}, r"bits must be in \[1, 16\], found 17"),
        ({"rates": (0.1, -0.1)}, "rates must be in"),
        ({"limit": 2}, r"limit must be in \[0, 1\], found 2"),
        ({"name": ""}, "name must not be empty"),
    ],
)
def test_each_number_is_checked_against_its_range(wrong, message):
    with pytest.raises(UserError, match=message):
        Mine(**wrong)


def test_a_number_for_all_layers_or_one_for_each_becomes_a_recipe():
    assert recipe_of(0.9) == {"*/kernel": 0.9}
    assert recipe_of({"conv*": 0.8, "out/kernel": 0.5}) == {"conv*/kernel": 0.8, "out/kernel": 0.5}
    assert recipe_of({"conv1": 2.0}, "*/bias") == {"conv1/bias": 2.0}


def test_replaced_options_are_checked_again():
    assert replaced(Mine(), bits=4) == Mine(bits=4)
    with pytest.raises(UserError, match="bits must be in"):
        replaced(Mine(), bits=0)
    with pytest.raises(UserError, match="no option 'bit'; there are: bits, limit, name, rates"):
        replaced(Mine(), bit=3)
