"""An archive of arrays returns what was put in, and refuses whatever else a file can be."""

import io
import zipfile

import ml_dtypes
import numpy as np
import pytest

from jaxsnn import archive
from jaxsnn.errors import UserError

ARRAYS = {
    "a/b": np.arange(6, dtype=np.float32).reshape(2, 3),
    "turned": np.asfortranarray(np.arange(6).reshape(2, 3)),
    "none": np.zeros((0, 4), np.int8),
    "one": np.float64(0.5),
    "mask": np.array([True, False]),
}


def npz(**entries):
    """Return a zip archive of entries, bytes or arrays, without a list of their names."""
    content = io.BytesIO()
    with zipfile.ZipFile(content, "w") as file:
        for name, entry in entries.items():
            if not isinstance(entry, bytes):
                stream = io.BytesIO()
                np.lib.format.write_array(stream, np.asarray(entry))
                entry = stream.getvalue()
            file.writestr(f"{name}.npy", entry)
    return content.getvalue()


def test_arrays_return_and_the_same_ones_give_the_same_bytes(tmp_path):
    path = tmp_path / "few.npz"
    path.write_bytes(archive.pack(ARRAYS))
    found = archive.read(path)
    assert list(found) == list(ARRAYS)
    for name, array in ARRAYS.items():
        np.testing.assert_array_equal(found[name], array)
        assert found[name].dtype == array.dtype
    assert archive.pack(ARRAYS) == path.read_bytes()
    path.write_bytes(archive.pack({"w": np.ones(3, ml_dtypes.bfloat16)}))
    assert archive.read(path)["w"].view(ml_dtypes.bfloat16).tolist() == [1, 1, 1]


def test_only_numbers_are_kept():
    with pytest.raises(UserError, match="array text is <U1; an archive holds numbers only"):
        archive.pack({"text": np.array(["a"])})
    with pytest.raises(UserError, match="the name 'names' of an array is taken"):
        archive.pack({"names": np.zeros(1)})


def header(shape, dtype="<f4"):
    """Return an entry of one number that states a shape."""
    stream = io.BytesIO()
    np.lib.format.write_array_header_1_0(
        stream, {"descr": dtype, "fortran_order": False, "shape": shape}
    )
    return stream.getvalue() + bytes(4)


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"", "File is not a zip file"),
        (npz(a=np.ones(3)), "damaged"),  # without a list
        (archive.pack(ARRAYS)[:-1], "damaged or cut short"),
        (
            archive.pack(ARRAYS).replace(b"mask.npy", b"task.npy"),
            "not the arrays that its list has",
        ),
        (npz(a=header((1 << 40,))), "4 bytes for an array float32 of the shape"),
        (npz(a=header((-1,))), r"an array float32 of the shape \(-1,\)"),
        (npz(a=header((1,), "|O")), "an array object"),
        (npz(a=header((1 << 40,), "|V0")), "an array .V0 of the shape"),
        (npz(a=b"\x93NUMPY\x01\0\x0a\0" + b"[" * 10), "damaged or cut short"),
        (npz(a=b"print()"), "damaged or cut short"),
    ],
)
def test_other_files_are_refused_in_one_line(tmp_path, content, words):
    path = tmp_path / "bad.npz"
    path.write_bytes(content)
    with pytest.raises(UserError, match=f"bad.npz: .*{words}.*; delete it to go on") as caught:
        archive.read(path)
    assert "\n" not in str(caught.value)


def test_a_packed_entry_is_refused_before_it_is_unpacked(tmp_path):
    path = tmp_path / "bomb.npz"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as file:
        file.writestr("a.npy", bytes(1 << 24))
    with pytest.raises(UserError, match="bomb.npz: .*it states more bytes than it has"):
        archive.read(path)
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as file:
        file.writestr("a.npy", np.random.default_rng(0).bytes(1000))
    with pytest.raises(UserError, match="bomb.npz: .*entry 'a.npy' is compressed"):
        archive.read(path)
    content = archive.pack({"a": np.arange(9.0)})
    place = content.index(b"PK\1\2") + 20  # the packed size of the first entry, in the directory
    path.write_bytes(content[:place] + (1 << 31).to_bytes(4, "little") + content[place + 4 :])
    with pytest.raises(UserError, match="bomb.npz: .*it states more bytes than it has"):
        archive.read(path)
