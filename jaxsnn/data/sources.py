"""The table of image sets: sizes, file names, where they come from; and reading them from files."""

from pathlib import Path
from typing import NamedTuple

from jaxsnn.data import cifar, idx
from jaxsnn.data.base import Split, folders_of
from jaxsnn.data.packed import find
from jaxsnn.errors import UserError

__all__: list[str] = []  # nothing here is promised to users


class Source(NamedTuple):
    """A published set of images."""

    num_classes: int
    num_train: int  # published number of training images
    num_test: int
    url: str  # of the folder that `files` are in
    files: tuple[str, ...]  # to download
    folders: tuple[str, ...]  # where they may lie under a data directory, besides its top
    tfds: str  # folder, without version, under which tensorflow-datasets keeps it
    version: str  # of tensorflow-datasets' builder that has the same content
    shape: tuple[int, int, int] = (28, 28, 1)
    prefixes: tuple[str, str] = ("train", "t10k")  # of the idx files
    first_label: int = 0  # label in the files that means class 0
    is_transposed: bool = False  # rows and columns are swapped in the files


class Found(NamedTuple):
    """What was read: upright images, labels from 0, and what is not as published."""

    train: Split
    test: Split
    note: str = ""


def _idx_files(train: str, test: str) -> tuple[str, ...]:
    return tuple(f"{stem}.gz" for prefix in (train, test) for stem in idx.stems(prefix))


def _mnist_like(name: str, torch_name: str, url: str) -> Source:
    files = _idx_files("train", "t10k")
    return Source(10, 60_000, 10_000, url, files, (name, f"{torch_name}/raw"), name, "3.0.1")


def _emnist(kind: str, num_classes: int, num_train: int, num_test: int, first: int = 0) -> Source:
    return Source(
        num_classes,
        num_train,
        num_test,
        "https://biometrics.nist.gov/cs_links/EMNIST/",
        ("gzip.zip",),
        (f"emnist-{kind}", "emnist", "emnist/gzip", "gzip", "EMNIST/raw"),
        f"emnist/{kind}",
        "3.1.0",
        prefixes=(f"emnist-{kind}-train", f"emnist-{kind}-test"),
        first_label=first,
        is_transposed=True,
    )


def _cifar(name: str) -> Source:
    layout = cifar.LAYOUTS[name]
    folders = (name, *(f"{name}/{folder}" for folder in layout.folders), *layout.folders)
    return Source(
        layout.num_classes,
        50_000,
        10_000,
        "https://www.cs.toronto.edu/~kriz/",
        layout.archives[:1],
        folders,
        name,
        "3.0.2",
        shape=(32, 32, 3),
    )


SOURCES = {
    "mnist": _mnist_like("mnist", "MNIST", "https://storage.googleapis.com/cvdf-datasets/mnist/"),
    "fashion_mnist": _mnist_like(
        "fashion_mnist",
        "FashionMNIST",
        "http://fashion-mnist.s3-website.eu-central-1.amazonaws.com/",
    ),
    "kmnist": _mnist_like("kmnist", "KMNIST", "http://codh.rois.ac.jp/kmnist/dataset/kmnist/"),
    "emnist-balanced": _emnist("balanced", 47, 112_800, 18_800),
    "emnist-digits": _emnist("digits", 10, 240_000, 40_000),
    "emnist-letters": _emnist("letters", 26, 124_800, 20_800, first=1),
    "cifar10": _cifar("cifar10"),
    "cifar100": _cifar("cifar100"),
}


def read_local(name: str, root: Path) -> Found | None:
    """Read a set from the files under a data directory.

    They may lie in `root/<name>`, in a canonical folder (`cifar-10-batches-bin`, `MNIST/raw`), or
    in `root` itself. MNIST, Fashion-MNIST and KMNIST share their file names, so a `root` that is
    called like another set is not searched.

    Returns:
        The splits, or None if there is no file of the set.

    Raises:
        UserError: if some files are there but not all, or one is damaged.
    """
    source = SOURCES[name]
    for folder in folders_of(name, root, source.folders, SOURCES):
        if name in cifar.LAYOUTS:
            found = cifar.read(folder, cifar.LAYOUTS[name], how_to_get(name))
            if found:
                return Found(*found)
        elif _has_idx_files(folder, source):
            train, test = (
                idx.read_split(
                    folder, prefix, source.num_classes, source.first_label, how_to_get(name)
                )
                for prefix in source.prefixes
            )
            return Found(transposed(train, source), transposed(test, source))
    return None


def how_to_get(name: str) -> str:
    """Return half a sentence on what to download from where."""
    source = SOURCES[name]
    return f"get {', '.join(source.files)} from {source.url}"


def transposed(split: Split, source: Source) -> Split:
    """Turn images between upright and the way they are published; most are published upright."""
    return split._replace(images=split.images.swapaxes(1, 2)) if source.is_transposed else split


def not_found(name: str, root: Path) -> UserError:
    """Make the error for a data directory without any file of the set."""
    source = SOURCES[name]
    first = source.files[0]
    if source.is_transposed:
        first = f"{idx.stems(source.prefixes[0])[0]}.gz"
    unpack = " and unpack it" if source.files == ("gzip.zip",) else ""
    return UserError(
        f"{name}: no file {root / source.folders[0] / first} (nor {first} in {root}); "
        f"{how_to_get(name)}{unpack} into either folder"
    )


def _has_idx_files(folder: Path, source: Source) -> bool:
    return any(
        find(folder, stem, idx.SUFFIXES) for prefix in source.prefixes for stem in idx.stems(prefix)
    )
