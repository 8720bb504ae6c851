"""Sets written by `tfds.prepare` are read back, by us and by TFDS itself, without TensorFlow."""

import gzip
import shutil
import sys
import zipfile

import numpy as np
import pytest

from jaxsnn import data
from jaxsnn.data import idx, sources, tfds
from jaxsnn.errors import UserError


def write_idx(folder, prefix, count, num_classes, first=0):
    """Write random images and cyclic labels as idx files."""
    folder.mkdir(parents=True, exist_ok=True)
    images = np.random.default_rng(count).integers(0, 256, (count, 28, 28), dtype=np.uint8)
    labels = (np.arange(count) % num_classes + first).astype(np.uint8)
    for stem, array in zip(idx.stems(prefix), (images, labels), strict=True):
        header = bytes([0, 0, 8, array.ndim]) + np.array(array.shape, ">u4").tobytes()
        (folder / stem).write_bytes(header + array.tobytes())


def by_content(split):
    """Return images and labels in an order that does not depend on how they were stored."""
    flat = split.images.reshape(len(split.images), -1)
    order = np.lexsort(flat.T)
    return split.images[order], split.labels[order]


@pytest.fixture(autouse=True)
def no_environment(tmp_path, monkeypatch):
    """Forget the directories that the environment names."""
    monkeypatch.delenv("JAXSNN_DATA", raising=False)
    monkeypatch.setenv("TFDS_DATA_DIR", str(tmp_path / "tfds"))


@pytest.fixture(scope="module")
def prepared(tmp_path_factory):
    """Prepare small sets once; return the files' and the prepared sets' directories."""
    pytest.importorskip("tensorflow_datasets")
    pytest.importorskip("PIL")
    files, root = tmp_path_factory.mktemp("files"), tmp_path_factory.mktemp("tfds")
    write_idx(files / "mnist", "train", 300, 10)
    write_idx(files / "mnist", "t10k", 40, 10)
    write_idx(files / "emnist", "emnist-letters-train", 52, 26, first=1)
    write_idx(files / "emnist", "emnist-letters-test", 26, 26, first=1)
    folder = tfds.prepare("mnist", files, root)
    assert folder == root / "mnist" / "3.0.1"
    assert tfds.prepare("emnist-letters", files, root) == root / "emnist" / "letters" / "3.1.0"
    return files, root


@pytest.mark.parametrize("name", ["mnist", "emnist-letters"])
def test_a_prepared_set_is_the_set_of_the_files(prepared, name):
    files, root = prepared
    written, found = sources.read_local(name, files), tfds.read(name, root)
    for split in ("train", "test"):
        images, labels = by_content(getattr(found, split))
        expected_images, expected_labels = by_content(getattr(written, split))
        np.testing.assert_array_equal(images, expected_images)
        np.testing.assert_array_equal(labels, expected_labels)
        assert images.dtype == np.uint8 and labels.dtype == np.int32


def test_tfds_reads_it_under_the_official_name_without_tensorflow(prepared):
    import tensorflow_datasets

    source = tensorflow_datasets.data_source("mnist", split="test", data_dir=prepared[1])
    found = tfds.read("mnist", prepared[1])
    assert len(source) == 40 and "tensorflow" not in sys.modules
    for index in (0, 7, 39):
        np.testing.assert_array_equal(source[index]["image"], found.test.images[index])
        assert source[index]["label"] == found.test.labels[index]


def test_load_reads_it_from_a_data_directory_or_the_default(prepared, monkeypatch):
    given = data.load("mnist", prepared[1])
    monkeypatch.setenv("TFDS_DATA_DIR", str(prepared[1]))
    default = data.load("mnist")
    np.testing.assert_array_equal(given.train.images, default.train.images)
    assert len(given.train.labels) == 270 and len(given.validation.labels) == 30
    assert "train: 300 images instead of 60,000" in given.notes


def test_the_newest_version_is_taken(tmp_path):
    for version in ("3.0.1", "10.0.0", "9.1.0", "incomplete.3.0.1"):
        (tmp_path / "mnist" / version).mkdir(parents=True)
        (tmp_path / "mnist" / version / "dataset_info.json").touch()
    assert tfds.find_prepared("mnist", tmp_path).name == "10.0.0"
    assert tfds.find_prepared("cifar10", tmp_path) is None


def told(function, *args):
    """Return the message of the error that is raised, and check that it is one line."""
    with pytest.raises(UserError) as caught:
        function(*args)
    assert "\n" not in str(caught.value)
    return str(caught.value)


class Downloads:
    """Answer like TFDS's download manager, from a folder of files that are there already."""

    def __init__(self, folder):
        self.folder, self.urls = folder, []

    def download(self, url):
        self.urls.append(url)
        return self.folder / url.rpartition("/")[2]


def test_downloaded_files_are_read_under_their_published_names(tmp_path):
    for prefix, count in (("train", 30), ("t10k", 20)):
        write_idx(tmp_path, prefix, count, 10)
        for stem in idx.stems(prefix):
            packed = gzip.compress((tmp_path / stem).read_bytes(), 1)
            (tmp_path / f"{stem}.gz").write_bytes(packed)
    downloads = Downloads(tmp_path)
    found = tfds._download("kmnist", downloads)
    assert len(found.train.labels) == 30 and len(found.test.labels) == 20
    assert downloads.urls[0].endswith("/kmnist/train-images-idx3-ubyte.gz")


def test_a_downloaded_zip_is_opened(tmp_path):
    with zipfile.ZipFile(tmp_path / "gzip.zip", "w") as archive:
        for part, count in (("train", 52), ("test", 26)):
            prefix = f"emnist-letters-{part}"
            write_idx(tmp_path, prefix, count, 26, first=1)
            for stem in idx.stems(prefix):
                archive.writestr(f"gzip/{stem}.gz", gzip.compress((tmp_path / stem).read_bytes()))
        archive.writestr("gzip/emnist-mnist-test-labels-idx1-ubyte.gz", b"not wanted")
    found = tfds._download("emnist-letters", Downloads(tmp_path))
    assert len(found.train.labels) == 52 and found.test.labels.max() == 25


@pytest.mark.parametrize("package", ["tensorflow_datasets", "PIL"])
def test_a_missing_package_says_what_to_install(monkeypatch, package):
    monkeypatch.setitem(sys.modules, package, None)
    message = told(data.load, "mnist")
    assert "pip install tensorflow-datasets" in message and package in message
    assert "train-images-idx3-ubyte.gz" in message and "https://" in message


def test_without_a_network_a_set_that_is_not_prepared_says_at_once_what_to_do(
    prepared, tmp_path, monkeypatch
):
    for name in ("http_proxy", "HTTP_PROXY"):
        monkeypatch.delenv(name, raising=False)
    nowhere = tfds.SOURCES["kmnist"]._replace(url="http://127.0.0.1:9/")  # nobody listens there
    monkeypatch.setitem(tfds.SOURCES, "kmnist", nowhere)
    message = told(data.load, "kmnist")
    assert str(tmp_path / "tfds") in message and "tfds.prepare('kmnist')" in message
    assert "127.0.0.1 cannot be reached" in message and "train-labels-idx1-ubyte.gz" in message
    assert "not prepared in" in told(tfds.read, "kmnist", tmp_path)


def test_preparing_from_nothing_names_the_file(prepared, tmp_path):
    message = told(tfds.prepare, "mnist", tmp_path, tmp_path)
    assert str(tmp_path / "mnist" / "train-images-idx3-ubyte.gz") in message
    assert "is not one of" in told(tfds.prepare, "imagenet", tmp_path, tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_a_damaged_prepared_set_is_named(prepared, tmp_path):
    folder = tmp_path / "mnist" / "3.0.1"
    shutil.copytree(prepared[1] / "mnist" / "3.0.1", folder)
    for file in sorted(folder.iterdir(), reverse=True):
        whole = file.read_bytes()
        file.write_bytes(whole[: len(whole) // 2])
        message = told(data.load, "mnist", tmp_path)
        assert str(folder) in message and "damaged or cut short" in message
        file.write_bytes(whole)
    info = folder / "dataset_info.json"
    info.write_text(info.read_text().replace("array_record", "tfrecord"))
    assert "written as tfrecord, which needs TensorFlow" in told(data.load, "mnist", tmp_path)
