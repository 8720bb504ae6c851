"""Whatever a decoder raises becomes one line that names the file; our own mistakes stay."""

import os
import sys

import pytest

from jaxsnn import foreign
from jaxsnn.errors import UserError


@pytest.mark.parametrize(
    ("error", "words"),
    [
        (IndexError("out of range"), "damaged or cut short: out of range; expected a thing"),
        (KeyError("lanes"), "'lanes' is missing; expected a thing"),
        (RecursionError("maximum"), "nested too deep; expected a thing"),
        (MemoryError(), "it asks for more memory than there is"),
        (OSError("no magic"), "damaged or cut short: no magic"),
        (OSError(13, "Permission denied"), "file: cannot be read: Permission denied"),
        (NotImplementedError(), "damaged or cut short: NotImplementedError"),
        (ValueError("two\nlines\x1b[0m" + "x" * 1000), r"two lines\?\[0mx+ \.\.\.; expected"),
        (UserError("said already"), "^said already$"),
    ],
)
def test_an_exception_of_a_decoder_is_one_line_with_the_file(error, words):
    with pytest.raises(UserError, match=words) as caught, foreign.reading("file", "a thing"):
        raise error
    assert "\n" not in str(caught.value) and len(str(caught.value)) < 300


@pytest.mark.parametrize("error", [KeyboardInterrupt, SystemExit])
def test_an_interrupt_passes(error):
    with pytest.raises(error), foreign.reading("file", "a thing"):
        raise error


@pytest.mark.parametrize(
    ("text", "words"),
    [
        (b"\xff", "invalid start byte"),
        ("[" * 10**5, "nested too deep"),
        ("[1e999]", "the number 1e999 is not finite"),
        ("-Infinity", "the number -Infinity is not finite"),
        ('{"a": {"b": 1, "b": 2}}', "the field 'b' stands there twice"),
        ("9" * 5000, "integer string conversion"),
        ("", "Expecting value"),
    ],
)
def test_json_is_read_by_the_letter_of_the_standard(text, words):
    with pytest.raises(UserError, match=f"file: damaged or cut short: .*{words}"):
        foreign.parse_json("file", "a text", text)


def test_only_regular_files_of_a_bounded_size_are_read(tmp_path):
    path = tmp_path / "some"
    with pytest.raises(UserError, match="some: no such file, expected a text"):
        foreign.read_bytes(path, "a text")
    path.write_bytes(b"12345")
    assert foreign.read_bytes(path, "a text", 5) == b"12345"
    with pytest.raises(UserError, match="some: more than 4 bytes, too many for a text"):
        foreign.read_bytes(path, "a text", 4)
    with pytest.raises(UserError, match="is no regular file, expected a text"):
        foreign.read_bytes(tmp_path, "a text")


@pytest.mark.skipif(sys.platform == "win32", reason="there are no pipes in folders")
def test_a_pipe_does_not_block(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(UserError, match="pipe: is no regular file"):
        foreign.read_bytes(tmp_path / "pipe", "a text")
