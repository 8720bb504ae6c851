"""Files in archives: what unpacks to far more than it is, or by another method, is refused."""

import tracemalloc
import zipfile

import pytest

from jaxsnn.data.entries import files_in
from jaxsnn.errors import UserError


def entry(folder, content, method=zipfile.ZIP_DEFLATED):
    """Pack one file into an archive, and return its entry."""
    with zipfile.ZipFile(folder / "set.zip", "w", method) as archive:
        archive.writestr("set/a.bin", content)
    (found,) = files_in(folder, "set", (".bin",))
    return found


def test_a_bomb_is_refused_before_it_is_unpacked(tmp_path):
    found = entry(tmp_path, bytes(1 << 25))
    tracemalloc.start()
    with pytest.raises(UserError, match=r"set.zip/set/a.bin: 33,554,432 bytes, but \d"):
        found.read()
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 1 << 20


def test_an_entry_that_is_larger_than_it_states_is_not_read_beyond(tmp_path):
    entry(tmp_path, bytes(1 << 20))
    path = tmp_path / "set.zip"
    size = (1 << 20).to_bytes(4, "little")
    path.write_bytes(path.read_bytes().replace(size, (8).to_bytes(4, "little")))
    (found,) = files_in(tmp_path, "set", (".bin",))
    with pytest.raises(UserError, match=r"a.bin: damaged or cut short: .*CRC"):
        found.read()


def test_methods_that_cannot_be_bounded_are_refused(tmp_path):
    with pytest.raises(UserError, match="a.bin: packed by zip's method 14, expected 8"):
        entry(tmp_path, b"some", zipfile.ZIP_LZMA).read()
    assert entry(tmp_path, b"some", zipfile.ZIP_STORED).read() == b"some"
