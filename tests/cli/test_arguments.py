"""Reading a command line: a number for each layer, one line for what is wrong."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated

import pytest
import tyro

from jaxsnn.cli import arguments
from jaxsnn.errors import UserError
from jaxsnn.options import PerLayer, Range, Whole, checked


@checked
class Method:
    """Options of a method."""

    sparsity: Annotated[PerLayer, Range(0, 1, open_high=True)] = 0.9
    bits: Annotated[PerLayer | None, Whole(2, 8)] = 3
    seeds: tuple[int, ...] = (0, 1)


@dataclass(frozen=True)
class Config:
    """A group of options."""

    method: Method = Method()


def parse(*argv):
    config = (tyro.conf.OmitArgPrefixes,)
    return arguments.parse(Config, "toy", None, list(argv), default=Config(), config=config).method


@pytest.mark.parametrize(
    ("text", "value"),
    [("0.5", 0.5), ("0", 0), ("conv1=0.83,dense1=0.99", {"conv1": 0.83, "dense1": 0.99}),
     ("conv*=0.5", {"conv*": 0.5}), ("block1/conv2=1e-1", {"block1/conv2": 0.1})],
)  # fmt: skip
def test_a_number_may_be_given_for_each_layer(text, value):
    found = parse("--sparsity", text).sparsity
    assert found == value
    assert isinstance(found, Mapping) == isinstance(value, Mapping)


def test_whole_numbers_stay_whole_and_none_is_a_value():
    assert repr(parse("--bits", "4").bits) == "4"
    assert parse("--bits", "None").bits is None
    assert parse("--bits=conv1=4,out=2").bits == {"conv1": 4, "out": 2}


@pytest.mark.parametrize("options", [{}, {"sparsity": {"a": 0.5, "b/c": 0.0}, "bits": None},
                                     {"seeds": ()}, {"seeds": (5,), "bits": {"a": 2}}])  # fmt: skip
def test_what_is_written_as_words_is_read_again(options):
    method = Method(**options)
    assert parse(*arguments.words(vars(method))) == method


def test_of_an_option_given_twice_the_last_counts():
    assert parse("--sparsity", "0.1", "--sparsity", "0.2").sparsity == 0.2


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        (["--sparsity", "1.5"], r"^--sparsity must be in \[0, 1\), found 1.5 \(see --help\)$"),
        (["--sparsity", "conv1=1.5"], r"^--sparsity must be in \[0, 1\), found 1.5"),
        (["--sparsity", "much"], r"--sparsity.*'much' is neither a number nor LAYER=NUMBER"),
        (["--sparsity", "conv1=much"], r"--sparsity.*'much' is neither a number"),
        (["--sparsity"], r"--sparsity"),
        (["--bits", "9"], r"^--bits must be in \[2, 8\], found 9"),
        (["--bitz", "9"], r"--bitz"),
    ],
)
def test_a_mistake_is_one_line_that_names_the_flag(argv, message):
    with pytest.raises(UserError, match=message) as caught:
        parse(*argv)
    assert not set(str(caught.value)) & set("\n│╭╰─")
