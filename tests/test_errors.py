"""What a message quotes is a part of one line, however long and strange it is."""

import json

import numpy as np
import pytest

from jaxsnn.arrays import check_range
from jaxsnn.errors import UserError, first_of, shortened, shown


@pytest.mark.parametrize("name", ["x" * 5000, "a\nb", "a\x1b[0m", "\ud800", "a\u2028b" * 100])
def test_a_name_is_quoted_in_one_short_line_that_can_be_printed(name):
    for quoted in (shown(name), shortened(name)):
        assert len(quoted) <= 64 and quoted.isprintable()


def test_short_texts_and_values_are_quoted_as_they_are():
    assert shortened("params/conv1/kernel") == "params/conv1/kernel"
    assert shown("conv1") == "'conv1'" and shown((3, 3)) == "(3, 3)"


def test_what_is_nested_too_deep_to_be_written_is_quoted_by_its_type():
    nested = json.loads("[" * 900 + "]" * 900)

    def deeper(steps):
        return deeper(steps - 1) if steps else shown(nested)

    assert deeper(200) == "a list nested too deep"


def test_of_many_parts_the_first_are_named_and_the_others_counted():
    assert first_of(["a", "b"]) == "a; b"
    assert first_of(list(map(str, range(7)))) == "0; 1; 2; 3; 4; and 2 more"


def test_an_array_out_of_range_is_quoted_in_one_line():
    with pytest.raises(UserError, match=r"decay must be in \[0, 1\], found \[\[2\. 2\.") as caught:
        check_range("decay", np.full((40, 40), 2.0), 0, 1)
    assert "\n" not in str(caught.value) and len(str(caught.value)) < 120
