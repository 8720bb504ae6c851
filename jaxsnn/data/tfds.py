"""Data sets through tensorflow-datasets, without TensorFlow.

Reading a prepared set needs no TensorFlow if it was written as array_record. Preparing one with
the official builders does, so `prepare` has a builder of its own, which writes the same content in
the same folder: it hands over PIL images, the one path of TFDS that encodes without TensorFlow.
"""

import io
import os
import shutil
import socket
import tempfile
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit
from urllib.request import getproxies

import numpy as np

from jaxsnn import foreign
from jaxsnn.data.base import Split, check_split, not_installed
from jaxsnn.data.sources import (
    SOURCES,
    Found,
    Source,
    how_to_get,
    not_found,
    read_local,
    transposed,
)
from jaxsnn.errors import UserError, shown

__all__ = ["default_directory", "prepare"]

_FORMAT = "array_record"
_SPLITS = ("train", "test")
_BLOCK = 4096  # records
_CODE = "tensorflow_datasets."  # in front of each class that a description may name
INSTALL = "pip install tensorflow-datasets importlib_resources pillow"
_PATIENCE = 10  # seconds for a first connection; the download manager alone would try for minutes


def default_directory() -> Path:
    """Return where tensorflow-datasets keeps its sets: `$TFDS_DATA_DIR` or the home folder."""
    return Path(os.environ.get("TFDS_DATA_DIR") or "~/tensorflow_datasets").expanduser()


def find_prepared(name: str, root: Path) -> Path | None:
    """Return the folder of the newest prepared version of a set under `root`, or None."""
    versions = {}
    for info in (root / SOURCES[name].tfds).glob("*/dataset_info.json"):
        parts = info.parent.name.split(".")
        if all(part.isdecimal() for part in parts):
            versions[tuple(map(int, parts))] = info.parent
    return versions[max(versions)] if versions else None


def read(name: str, root: Path | None = None) -> Found:
    """Read a prepared set into memory, through TFDS's random-access data source.

    Args:
        name: a name of `SOURCES`.
        root: TFDS's data directory; by default `default_directory()`.

    Raises:
        UserError: if the package or the prepared set is missing, or the set is damaged or in a
            format that needs TensorFlow; says what to do.
    """
    tfds = _import(name)
    root, source = root or default_directory(), SOURCES[name]
    folder = find_prepared(name, root)
    if folder is None:
        raise UserError(
            f"{name}: not prepared in {root}; {how_to_get(name)} and give their folder as data "
            f"directory (option, or JAXSNN_DATA), or let jaxsnn.data.tfds.prepare('{name}') "
            "download and prepare it"
        )
    _check_description(folder)
    with foreign.reading(folder, "a set that tensorflow-datasets has prepared"):
        builder = tfds.builder_from_directory(folder)
        file_format = str(builder.info.file_format.value)
        if file_format != _FORMAT:
            raise UserError(
                f"{folder}: written as {file_format}, which needs TensorFlow; move it away and "
                f"prepare it again with jaxsnn.data.tfds.prepare('{name}')"
            )
        read = [_read_split(tfds, builder, split, source) for split in _SPLITS]
    train, test = (
        transposed(check_split(f"{folder} ({split})", each, source.num_classes), source)
        for split, each in zip(_SPLITS, read, strict=True)
    )
    return Found(train, test)


def read_or_prepare(name: str) -> Found:
    """Read a set from TFDS's directory; what is not there yet is downloaded and prepared first.

    Raises:
        UserError: as `read` and `prepare`.
    """
    _import(name)
    if find_prepared(name, default_directory()) is None:
        prepare(name)
    return read(name)


def prepare(
    name: str,
    source_dir: str | os.PathLike[str] | None = None,
    data_dir: str | os.PathLike[str] | None = None,
) -> Path:
    """Write a set in TFDS's format; TensorFlow is not needed.

    The images and labels are those of the official builder, in the same folder and order. (For
    CIFAR the official features `id` and `coarse_label` are left out: read such a set with `read` or
    `tfds.builder_from_directory`.)

    Args:
        name: a name of `SOURCES`.
        source_dir: folder with the published files, laid out as for `jaxsnn.data.load`. Without it
            they are downloaded with TFDS's download manager, which checks their sha256.
        data_dir: TFDS's data directory to write to; by default `default_directory()`.

    Returns:
        The folder of the prepared set; if it was there already, it is left as it is.

    Raises:
        UserError: if the package or a file is missing or damaged, or a download fails.
    """
    tfds = _import(name)
    root = Path(data_dir).expanduser() if data_dir is not None else default_directory()
    found = None
    if source_dir is not None:
        source_dir = Path(source_dir).expanduser()
        found = read_local(name, source_dir)
        if found is None:
            raise not_found(name, source_dir)
    elif find_prepared(name, root) is None:
        _check_reachable(name, root)
    builder = _make_builder(tfds, name, root, found)
    try:
        builder.download_and_prepare(
            download_config=tfds.download.DownloadConfig(try_download_gcs=False)
        )
    except UserError:
        raise
    except Exception as error:  # network, checksum, disk: TFDS raises many kinds
        raise UserError(
            f"{name}: cannot be prepared in {root}: {type(error).__name__}: {_one_line(error)}; "
            f"{how_to_get(name)} by hand and give their folder as source_dir"
        ) from error
    return Path(builder.data_dir)


def _check_reachable(name: str, root: Path) -> None:
    """Raise, within seconds, if there is no way to where a set is downloaded from."""
    url = urlsplit(SOURCES[name].url)
    if url.scheme in getproxies():
        return
    port = url.port or {"http": 80, "https": 443}[url.scheme]
    try:
        socket.create_connection((url.hostname or "", port), timeout=_PATIENCE).close()
    except OSError as error:
        raise UserError(
            f"{name}: not prepared in {root}, and {url.hostname} cannot be reached ({error}); "
            f"{how_to_get(name)} and give their folder as data directory (option, or JAXSNN_DATA), "
            f"or let jaxsnn.data.tfds.prepare('{name}') prepare it where there is a network"
        ) from error


def _import(name: str) -> Any:
    if name not in SOURCES:
        raise UserError(f"data set {name!r} is not one of {', '.join(sorted(SOURCES))}")
    try:
        import PIL.Image  # noqa: F401  decodes the images
        import tensorflow_datasets
    except ImportError as error:
        raise not_installed(name, error, how_to_get(name), INSTALL) from error
    return tensorflow_datasets


def _check_description(folder: Path) -> None:
    """Refuse a set whose description names code that is not tensorflow-datasets' own: it runs."""
    path = folder / "features.json"
    found = [foreign.read_json(path, "the features of a prepared set")]
    while found:
        value = found.pop()
        if isinstance(value, dict):
            for key in ("type", "pythonClassName"):
                name = value.get(key, _CODE)
                if not isinstance(name, str) or not name.startswith(_CODE):
                    raise UserError(f"{path}: field {key!r} is {shown(name)}, expected {_CODE}...")
            found += value.values()
        elif isinstance(value, list):
            found += value


def _read_split(tfds: Any, builder: Any, split: str, source: Source) -> Split:
    # Records in blocks, decoded here: twice as fast as item by item through the data source.
    encoded = builder.as_data_source(split, decoders={"image": tfds.decode.SkipDecoding()})
    held = sum(file.stat().st_size for file in Path(builder.data_dir).iterdir())
    if len(encoded) > held:
        raise UserError(
            f"{builder.data_dir}: damaged: {len(encoded):,} records stated of {split}, more than "
            f"its files have bytes"
        )
    images = np.empty((len(encoded), *source.shape), np.uint8)
    labels = np.empty(len(encoded), np.int32)
    for start in range(0, len(encoded), _BLOCK):
        stop = min(start + _BLOCK, len(encoded))
        for index, item in enumerate(encoded.__getitems__(range(start, stop)), start):
            images[index] = _decode_png(item["image"], source.shape)
            labels[index] = item["label"] - source.first_label
    return Split(images, labels)


def _decode_png(data: bytes, shape: tuple[int, int, int]) -> np.ndarray:
    import PIL.Image

    high, wide, channels = shape
    with PIL.Image.open(io.BytesIO(data), formats=["png"]) as image:
        if image.size != (wide, high) or len(image.getbands()) != channels:
            raise ValueError(f"an image {image.mode} of {image.size} pixels, {shape} expected")
        return np.asarray(image).reshape(shape)


def _make_builder(tfds: Any, name: str, root: Path, found: Found | None) -> Any:
    """Make TFDS's builder of a set, fed from `found` or else from its download manager."""
    import PIL.Image

    source = SOURCES[name]
    builder_name, _, config = source.tfds.partition("/")
    num_labels = source.num_classes + source.first_label

    base: Any = tfds.core.GeneratorBasedBuilder

    # Unregistered: the official builder of that name stays available in this process.
    class Builder(base, skip_registration=True):  # type: ignore[call-arg,misc]
        VERSION = tfds.core.Version(source.version)
        BUILDER_CONFIGS = [tfds.core.BuilderConfig(name=config)] if config else []

        def _info(self) -> Any:
            image = tfds.features.Image(shape=source.shape, encoding_format="png")
            label = tfds.features.ClassLabel(num_classes=num_labels)
            return tfds.core.DatasetInfo(
                builder=self,
                features=tfds.features.FeaturesDict({"image": image, "label": label}),
                supervised_keys=("image", "label"),
            )

        def _split_generators(self, dl_manager: Any) -> dict[str, Any]:
            content = found or _download(name, dl_manager)
            return {split: self._generate_examples(getattr(content, split)) for split in _SPLITS}

        def _generate_examples(self, split: Split) -> Iterator[tuple[int, dict[str, Any]]]:
            images = transposed(split, source).images
            for index, (image, label) in enumerate(zip(images, split.labels, strict=True)):
                pixels = np.ascontiguousarray(image[..., 0] if image.shape[-1] == 1 else image)
                yield (
                    index,
                    {
                        "image": PIL.Image.fromarray(pixels),
                        "label": int(label) + source.first_label,
                    },
                )

    Builder.name = builder_name
    return Builder(data_dir=root, file_format=_FORMAT, config=config or None)


def _download(name: str, dl_manager: Any) -> Found:
    """Download the published files and read them under their published names."""
    source = SOURCES[name]
    with tempfile.TemporaryDirectory() as folder:
        for file in source.files:
            path = dl_manager.download(source.url + file)
            if file.endswith(".zip"):
                with zipfile.ZipFile(path) as archive:
                    for member in archive.namelist():
                        base = member.rsplit("/", 1)[-1]
                        if base.startswith(source.prefixes):
                            with archive.open(member) as packed:
                                (Path(folder) / base).write_bytes(packed.read())
            else:
                shutil.copyfile(path, Path(folder) / file)
        found = read_local(name, Path(folder))
    if found is None:
        raise UserError(f"{name}: {source.url} does not hold the expected files")
    return found


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split())
