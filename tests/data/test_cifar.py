"""CIFAR in all its forms gives the same images; damage is named; no pickle is executed."""

import gzip
import io
import lzma
import os
import pickle
import tarfile
import time
import tracemalloc
from pathlib import Path

import numpy as np
import pytest

from jaxsnn.data import cifar
from jaxsnn.data.restricted_pickle import read_pickle
from jaxsnn.errors import UserError

REAL = Path(os.environ.get("JAXSNN_DATA", "/nonexistent"))

# The published layouts with few records, so that the files stay small.
SMALL = {
    name: layout._replace(train_records=3, test_records=2) for name, layout in cifar.LAYOUTS.items()
}


def batches(layout):
    """Make random images `[N, 32, 32, 3]` and labels for every batch name."""
    rng = np.random.default_rng(0)
    names = dict.fromkeys(layout.train, layout.train_records)
    names[layout.test] = layout.test_records
    return {
        name: (
            rng.integers(0, 256, (count, 32, 32, 3), dtype=np.uint8),
            rng.integers(0, layout.num_classes, count),
        )
        for name, count in names.items()
    }


def binary(layout, images, labels):
    """Spell a batch in the binary version, pixel by pixel where it matters."""
    records = b""
    for image, label in zip(images, labels, strict=True):
        coarse = b"\x07" * (layout.label_bytes - 1)
        planes = b"".join(image[:, :, channel].tobytes() for channel in range(3))
        records += coarse + bytes([label]) + planes
    return records


def pickled(layout, images, labels, protocol=2):
    """Spell a batch in the python version."""
    data = images.transpose(0, 3, 1, 2).reshape(len(images), -1).copy()
    batch = {b"batch_label": b"a batch", b"data": data, b"filenames": [b"a.png"] * len(images)}
    batch[layout.label_field] = [int(label) for label in labels]
    return pickle.dumps(batch, protocol=protocol)


def members(layout, content, form):
    """Return the file names and bytes of a whole set in one form."""
    if form == "python":
        return {name: pickled(layout, *batch) for name, batch in content.items()}
    return {f"{name}.bin": binary(layout, *batch) for name, batch in content.items()}


def write_archive(path, folder, files):
    """Write a tar.gz with all files in one folder."""
    with tarfile.open(path, "w:gz", compresslevel=1) as archive:
        for name, data in files.items():
            member = tarfile.TarInfo(f"{folder}/{name}")
            member.size = len(data)
            archive.addfile(member, io.BytesIO(data))


def assert_same(found, content, layout):
    """Compare what was read with what was written."""
    train, test, note = found
    images = np.concatenate([content[name][0] for name in layout.train])
    labels = np.concatenate([content[name][1] for name in layout.train])
    np.testing.assert_array_equal(train.images, images)
    np.testing.assert_array_equal(train.labels, labels)
    np.testing.assert_array_equal(test.images, content[layout.test][0])
    np.testing.assert_array_equal(test.labels, content[layout.test][1])
    assert train.labels.dtype == np.int32 and train.images.dtype == np.uint8 and note == ""


@pytest.mark.parametrize("name", SMALL)
@pytest.mark.parametrize("form", ["binary", "xz", "gz", "python", "binary.tar", "python.tar"])
def test_every_form_gives_the_same_images(tmp_path, name, form):
    layout = SMALL[name]
    content = batches(layout)
    files = members(layout, content, form.removesuffix(".tar"))
    if form.endswith(".tar"):
        which = form.startswith("python")
        write_archive(tmp_path / layout.archives[which], layout.folders[which], files)
    for file, data in files.items():
        if form == "xz":
            delta = [{"id": lzma.FILTER_DELTA, "dist": 1}, {"id": lzma.FILTER_LZMA2, "preset": 0}]
            (tmp_path / f"{file}.xz").write_bytes(lzma.compress(data, filters=delta))
        elif form == "gz":
            (tmp_path / f"{file}.gz").write_bytes(gzip.compress(data, 1))
        elif not form.endswith(".tar"):
            (tmp_path / file).write_bytes(data)
    assert_same(cifar.read(tmp_path, layout, "go there"), content, layout)


@pytest.mark.parametrize("protocol", range(5))
def test_python_batches_of_every_protocol_are_read(protocol):
    layout = SMALL["cifar10"]
    images, labels = batches(layout)["test_batch"]
    data = pickled(layout, images, labels, protocol)
    split = cifar.parse_python("test_batch", data, 2, layout)
    np.testing.assert_array_equal(split.images, images)


def test_a_batch_written_by_python_2_is_read():
    """Spell by hand what Python 2 wrote: text fields, numpy.core, protocol 2, str data."""
    pixels = bytes(range(256)) * 12
    strings = [b"data", b"labels"]
    keys = [b"U" + bytes([len(text)]) + text for text in strings]
    dtype = b"cnumpy\ndtype\nU\x02u1K\0K\1\x87R(K\3U\x01|NNNJ\xff\xff\xff\xffJ\xff\xff\xff\xffK\0tb"
    array = (
        b"cnumpy.core.multiarray\n_reconstruct\ncnumpy\nndarray\nK\0\x85U\1b\x87R"
        + b"(K\1K\1M\x00\x0c\x86"
        + dtype
        + b"\x89T\x00\x0c\x00\x00"
        + pixels
        + b"tb"
    )
    data = b"\x80\2}(" + keys[0] + array + keys[1] + b"]K\6au."
    split = cifar.parse_python("data_batch_1", data, 1, SMALL["cifar10"])
    assert split.labels.tolist() == [6]
    np.testing.assert_array_equal(
        split.images[0], np.frombuffer(pixels, np.uint8).reshape(3, 32, 32).transpose(1, 2, 0)
    )


@pytest.mark.parametrize(
    "name", ["test_batch_first1000.bin.xz", "test_batch_1.bin", "test_batch.bin"]
)
def test_any_shorter_test_batch_is_taken_and_said(tmp_path, name):
    layout = SMALL["cifar10"]
    content = batches(layout)
    files = members(layout, content, "binary")
    whole = files.pop("test_batch.bin")
    for file, data in files.items():
        (tmp_path / file).write_bytes(data)
    with pytest.raises(UserError, match=f"{tmp_path / 'test_batch.bin'}: no such file; go there"):
        cifar.read(tmp_path, layout, "go there")
    short = whole[:3073]
    (tmp_path / name).write_bytes(lzma.compress(short) if name.endswith(".xz") else short)
    train, test, note = cifar.read(tmp_path, layout, "go there")
    assert len(test.labels) == 1 and note == "test: 1 of 2 images"
    np.testing.assert_array_equal(test.images, content["test_batch"][0][:1])


@pytest.mark.parametrize("change", [-1, 1, -3073])
def test_a_batch_of_the_wrong_length_is_told_with_bytes(tmp_path, change):
    layout = SMALL["cifar10"]
    for file, data in members(layout, batches(layout), "binary").items():
        (tmp_path / file).write_bytes(data)
    path = tmp_path / "data_batch_2.bin"
    data = path.read_bytes()
    path.write_bytes(data[:change] if change < 0 else data + b"x")
    told = f"{path}: damaged or cut short: 9,219 bytes expected .*, {9219 + change:,} found"
    with pytest.raises(UserError, match=told):
        cifar.read(tmp_path, layout, "go there")


def test_a_damaged_xz_batch_is_told_with_bytes(tmp_path):
    layout = SMALL["cifar10"]
    for file, data in members(layout, batches(layout), "binary").items():
        (tmp_path / f"{file}.xz").write_bytes(lzma.compress(data, preset=0))
    path = tmp_path / "data_batch_3.bin.xz"
    packed = path.read_bytes()
    for broken in (packed[: len(packed) // 2], b"no xz", b"", packed[:-8]):
        path.write_bytes(broken)
        with pytest.raises(UserError, match=f"{path}.*9,219 bytes expected.*xz stream damaged"):
            cifar.read(tmp_path, layout, "go there")


def test_a_label_out_of_range_is_told():
    layout = SMALL["cifar10"]
    images = np.zeros((3, 32, 32, 3), np.uint8)
    with pytest.raises(UserError, match="labels 0 to 10 found, 0 to 9 expected"):
        cifar.parse_binary("file", binary(layout, images, [0, 10, 3]), 3, layout)
    with pytest.raises(UserError, match="`labels` must be whole numbers 0 to 9"):
        cifar.parse_python("file", pickled(layout, images, [0, 10, 3]), 3, layout)
    with pytest.raises(UserError, match=r"shape \(2, 3072\) expected, \(3, 3072\) found"):
        cifar.parse_python("file", pickled(layout, images, [0, 1, 3]), 2, layout)


def test_a_missing_batch_or_nothing_at_all(tmp_path):
    layout = SMALL["cifar10"]
    assert cifar.read(tmp_path, layout, "go there") is None
    (tmp_path / "data_batch_1").write_bytes(b"")
    with pytest.raises(UserError, match=f"{tmp_path / 'data_batch_2'}: no such file; go there"):
        cifar.read(tmp_path, layout, "go there")


def test_a_damaged_or_foreign_archive_is_told(tmp_path):
    layout = SMALL["cifar10"]
    files = members(layout, batches(layout), "binary")
    path = tmp_path / layout.archives[0]
    write_archive(path, "cifar-10-batches-bin", files)
    whole = path.read_bytes()
    for broken in (whole[: len(whole) // 2], b"", b"no archive", whole[:100] + whole[900:]):
        path.write_bytes(broken)
        sizes = f"170,052,171 bytes expected, {len(broken):,} found"
        told = f"{path}: damaged or cut short: .* expected the published archive, {sizes}"
        with pytest.raises(UserError, match=told):
            cifar.read(tmp_path, layout, "go there")
    del files["data_batch_4.bin"]
    write_archive(path, "cifar-10-batches-bin", files)
    with pytest.raises(UserError, match="no data_batch_4.bin inside"):
        cifar.read(tmp_path, layout, "go there")


def test_links_in_an_archive_are_not_followed(tmp_path):
    layout = SMALL["cifar10"]
    path = tmp_path / layout.archives[0]
    with tarfile.open(path, "w:gz") as archive:
        for name in (*layout.train, layout.test):
            member = tarfile.TarInfo(f"../{name}.bin")
            member.type, member.linkname = tarfile.SYMTYPE, "/etc/hostname"
            archive.addfile(member)
    with pytest.raises(UserError, match="no data_batch_1.bin, .* inside"):
        cifar.read(tmp_path, layout, "go there")
    assert [file.name for file in tmp_path.iterdir()] == [path.name]


class Hostile:
    """Pickle as a call of a function with arguments."""

    def __init__(self, function, *arguments):
        self.call = function, arguments

    def __reduce__(self):
        return self.call


@pytest.mark.parametrize("protocol", range(6))
def test_a_hostile_pickle_is_refused_and_nothing_is_executed(tmp_path, protocol):
    trace = tmp_path / "executed"
    for call in (
        Hostile(os.mkdir, str(trace)),
        Hostile(eval, f"__import__('os').mkdir({str(trace)!r})"),
        Hostile(np.save, str(trace), 0),
    ):
        data = pickle.dumps({b"data": call, b"labels": [0]}, protocol=protocol)
        with pytest.raises(UserError, match="file: damaged .* it names .* not allowed"):
            read_pickle("file", data)
        assert list(tmp_path.iterdir()) == []
    pickle.loads(data)  # the last of them is really hostile
    assert list(tmp_path.iterdir()) != []


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"\x80\2}",
        b"cnumpy\nndarray\n)R.",
        b"cbuiltins\neval\n.",
        b"c__builtin__\neval\n(S'1+1'\ntR.",
        pickle.dumps(np.array([object()]), 2),
        pickle.dumps(np.arange(3.0), 2),
        pickle.dumps(np.zeros(3, np.uint8), 2)[:-10],
        pickle.dumps([], 2)[:-1] + b"Pid\n.",
    ],
)
def test_other_pickles_are_refused_in_one_line(data):
    with pytest.raises(UserError, match="file: damaged .* a pickle of plain arrays") as caught:
        read_pickle("file", data)
    assert "\n" not in str(caught.value)


def doubling(rounds, first, twice):
    """Spell a pickle that uses every container of a row of them twice in the next one."""
    data = b"\x80\2}" + first + b"q\0"
    for number in range(rounds):
        data += twice.replace(b"h", bytes([ord("h"), number])) + bytes([ord("q"), number + 1])
    return data


EXPLOSIVE = {
    "dictionaries": doubling(29, b"}", b"}(K\0hK\1hu") + b".",
    "lists": doubling(29, b"]", b"](hhe") + b".",
    "tuples as a key": doubling(29, b")", b"0hh\x86") + b"K\1s.",
    "a memo of 2 GiB": b"\x80\2Nr\0\0\0\x08.",
    "bytes that are not there": b"\x80\4\x8e" + bytes(7) + b"\x7f.",
    "a deep list": b"]" * 10**4 + b"a" * 10**4 + b".",
    "many instructions": b"N0" * (1 << 19) + b".",
}


@pytest.mark.parametrize("name", EXPLOSIVE)
def test_a_pickle_that_would_take_long_or_much_is_refused_or_small(name):
    tracemalloc.start()
    start = time.process_time()
    with pytest.raises(UserError, match="file: ") as caught:
        cifar.parse_python("file", EXPLOSIVE[name], 1, SMALL["cifar10"])
    seconds = time.process_time() - start
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert "\n" not in str(caught.value)
    assert peak < 1 << 25 and seconds < 10  # of a 2 GiB and minutes


@pytest.mark.parametrize("value", [[], {b"data": 3}, {b"data": np.zeros((1, 3072), np.uint8)}])
def test_a_pickle_that_is_no_batch_is_refused(value):
    with pytest.raises(UserError, match="a CIFAR batch with `data` and `labels` expected"):
        cifar.parse_python("file", pickle.dumps(value, 2), 1, SMALL["cifar10"])


@pytest.mark.skipif(not (REAL / "cifar10").is_dir(), reason="JAXSNN_DATA has no cifar10/")
def test_real_cifar10_has_its_published_counts():
    train, test, note = cifar.read(REAL / "cifar10", cifar.LAYOUTS["cifar10"], "go there")
    assert train.images.shape == (50_000, 32, 32, 3)
    assert np.bincount(train.labels).tolist() == [5_000] * 10
    assert len(test.labels) == 10_000 or note == "test: 1,000 of 10,000 images"
