"""Every format that is read: how small files of it are made, and how they are read.

`make(folder)` writes whole files, `read(folder)` returns what they hold. `forge(draw, name, data)`
makes damage that a random one hardly would: the checks behind a checksum are reached because the
checksum is made anew, JSON texts stay JSON.
"""

import gzip
import io
import json
import lzma
import pickle
import random
import struct
import tarfile
import zipfile
import zlib
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from tests.fuzz.mutations import damaged, damaged_array, damaged_json

Forge = Callable[[random.Random, str, bytes], bytes]


class Format(NamedTuple):
    """A format, and what may be expected of its reader."""

    make: Callable[[Path], None]
    read: Callable[[Path], Any]
    checked: bool  # whether other content than was written is noticed, whatever the damage
    forge: Forge | None = None  # damage that knows the format
    cheap: bool = True  # whether it takes milliseconds, so that the default suite reads it
    lesser: Callable[[], list[Any]] = list  # content that may take the place of a damaged one


def forged_text(draw: random.Random, name: str, data: bytes) -> bytes:
    """Damage a JSON text, or one line of several."""
    del name
    lines = data.splitlines(keepends=True) if data.count(b"\n{") else [data]
    place = draw.randrange(len(lines))
    lines[place] = damaged_json(draw, lines[place]) + b"\n"
    return b"".join(lines)


def forged_archive(draw: random.Random, name: str, data: bytes) -> bytes:
    """Damage the arrays of an archive of ours; its checksums are right again."""
    from jaxsnn import archive

    del name
    with np.load(io.BytesIO(data)) as file:
        arrays = {key: file[key] for key in file.files if key != archive.NAMES}
    return archive.pack(damaged_array(draw, arrays))


# Packed files


def network() -> Any:
    """Return a small network with all that a packed file can hold, weights on a grid and pruned."""
    import jax.numpy as jnp

    from jaxsnn import models, tree
    from jaxsnn.neurons import LIF

    net = models.build("3C3-3B3M2-AP2-D0.5-6-V3", (6, 6, 2), LIF(0.5), norm=True, seed=1)

    def on_grid(name: str, leaf: Any) -> Any:
        if not name.endswith("kernel"):
            return leaf
        values = np.round(np.asarray(leaf) * 8) / 8
        return jnp.asarray(np.where(np.arange(values.size).reshape(values.shape) % 3, 0, values))

    return net.replace(params=tree.map_named(on_grid, net.params))


def make_packed(folder: Path) -> None:
    """Write a packed file."""
    from jaxsnn import export
    from jaxsnn.inputs import Inputs

    export.save(folder / "net.safetensors", network(), Inputs((6, 6, 2), 2), {"name": "tiny"})


def read_packed(folder: Path) -> Any:
    """Read it as `jaxsnn inspect` does."""
    from jaxsnn.cli import facts

    found, model = facts.of_file(folder / "net.safetensors")
    numbers = None if model is None else (model.network.params, model.network.stats, model.inputs)
    return {k: v for k, v in found.items() if k != "layers"}, numbers


def read_alike(folder: Path) -> Any:
    """Read it into a network that is there."""
    from jaxsnn import export

    model = export.load(folder / "own.safetensors", like=own_network())
    return model.network.params, model.network.stats, model.inputs, model.metadata


@cache
def own_network() -> Any:
    """Return numbers of every form that a file has: floats, a grid, few values, zeros."""
    from jaxsnn.network import Network

    draw = np.random.default_rng(0)
    grid = draw.choice(np.float32([-1.5, -0.5, 0.25, 2]), (3, 3, 4, 8))
    params = {
        "conv1": {"kernel": np.where(draw.random(grid.shape) < 0.1, grid, np.float32(0))},
        "conv2": {"kernel": np.where(draw.random(grid.shape) < 0.7, grid, np.float32(0))},
        "out": {"kernel": draw.normal(size=(12, 5)).astype(np.float32)},
    }
    levels = (2 * draw.integers(0, 4, (20, 6)) - 3).astype(np.float32) * np.float32(1 / 3)
    params["scaled"] = {"kernel": np.linspace(0.5, 2, 6, dtype=np.float32) * levels}
    stats = {"mean": np.arange(4.0, dtype=np.float32), "steps": np.int32(3)}
    return Network.wrap(params, _unused, stats)


def _unused(params: Any, x: Any) -> Any:
    raise AssertionError


def make_own(folder: Path) -> None:
    """Write the numbers of a network that is code."""
    from jaxsnn import export
    from jaxsnn.inputs import Inputs

    export.save(folder / "own.safetensors", own_network(), Inputs((4,), 2), {"name": "own"})


def forged_packed(draw: random.Random, name: str, data: bytes) -> bytes:
    """Damage the header of a program or of an older packed file; make its checksums right."""
    from safetensors.numpy import load, save

    del name
    tensors = load(data)
    size = int.from_bytes(data[:8], "little")
    strings = json.loads(data[8 : 8 + size])["__metadata__"]
    text = zlib.decompress(tensors.pop("jaxsnn").tobytes())
    if draw.random() < 0.3:
        tensors = damaged_array(draw, tensors)
    elif draw.random() < 0.3:
        key = draw.choice(sorted(tensors))
        content = bytearray(tensors[key].tobytes())
        for _ in range(draw.choice((1, 3))):
            content[draw.randrange(len(content))] = draw.choice((0, 1, 2, 127, 128, 255))
        tensors[key] = np.frombuffer(bytes(content), tensors[key].dtype).reshape(tensors[key].shape)
    else:
        text = damaged_json(draw, text)
    try:
        header = json.loads(text)
        header["checksums"] = {
            key: zlib.crc32(x.tobytes(), zlib.crc32(f"{x.dtype}{x.shape}".encode()))
            for key, x in tensors.items()
        }
        text = json.dumps(header).encode()
    except (ValueError, RecursionError, TypeError):
        pass
    packed = np.frombuffer(zlib.compress(text), np.uint8)
    return save({"jaxsnn": packed} | tensors, strings)


def forged_compact(draw: random.Random, name: str, data: bytes) -> bytes:
    """Damage the text of a packed file or what stands behind it, and make its checksum right."""
    from tests.export.forging import packed_text, put_together, taken_apart

    del name
    text, rest = taken_apart(data)
    if draw.random() < 0.5:
        text = damaged_json(draw, text)
    else:
        _, rest = damaged(draw, rest)
    return put_together(packed_text(text), rest)


def make_older(folder: Path) -> None:
    """Write a packed file of version 2."""
    from tests.export import older_file

    (folder / "net.safetensors").write_bytes(older_file.PATH.read_bytes())


def make_program(folder: Path) -> None:
    """Write a StableHLO program."""
    from jaxsnn import export, models
    from jaxsnn.inputs import Inputs

    net = models.build("4-3", (4,))
    export.save_stablehlo(folder / "net.program", net, Inputs((4,), timesteps=2))


def read_program(folder: Path) -> Any:
    """Read it."""
    from jaxsnn import export

    program, inputs = export.load_stablehlo(folder / "net.program")
    return program.mlir_module_serialized, inputs


# NIR


def make_nir(folder: Path) -> None:
    """Write a NIR file."""
    from jaxsnn import export, models

    export.to_nir(models.build("2C3-AP2-4R-3", (4, 4, 1)), folder / "net.nir")


def read_nir(folder: Path) -> Any:
    """Read it."""
    from jaxsnn import export

    net = export.from_nir(folder / "net.nir")
    return net.params, net.stats, net.order


def forged_nir(draw: random.Random, name: str, data: bytes) -> bytes:
    """Damage one field of a NIR file through HDF5."""
    import h5py

    del name
    stream = io.BytesIO(data)
    with h5py.File(stream, "r+") as file:
        names: list[str] = []
        file.visit(names.append)
        place = draw.choice(names)
        item = file[place]
        value = item[()] if isinstance(item, h5py.Dataset) else None
        del file[place]
        action = draw.randrange(8)
        if action == 0:
            return _closed(file, stream)
        if isinstance(value, np.ndarray) and value.dtype.kind == "f" and action < 4:
            value = value.copy()
            value.flat[draw.randrange(value.size)] = draw.choice(
                (np.nan, np.inf, 1e39, -1.0, 0.0, 1e-40)
            )
            file[place] = value
        elif isinstance(value, np.ndarray) and value.dtype.kind in "fi" and action < 6:
            file[place] = draw.choice((value[:1], value[:0], value[None], value.ravel(), -value))
        elif action == 6:
            file[place] = file["node"] if "node" in file else 0
        else:
            file[place] = draw.choice(
                (0, -1, 1.5, "x", "", np.nan, 1 << 40, [1, 2, 3], [b"a", b"b"], b"\xff", True)
            )
        return _closed(file, stream)


def _closed(file: Any, stream: io.BytesIO) -> bytes:
    file.close()
    return stream.getvalue()


# Weights of PyTorch


def weights() -> dict[str, Any]:
    """Return a small state dictionary."""
    draw = np.random.default_rng(0)
    return {
        "fc.weight": draw.normal(size=(3, 4)).astype(np.float32),
        "fc.bias": draw.normal(size=3).astype(np.float16),
        "lif.beta": np.float32(0.9),
        "lif.reset_mechanism_val": np.int64(0),
    }


def make_torch(folder: Path) -> None:
    """Write what torch.save writes."""
    from tests.export.state_dict import torch_files

    (folder / "net.pt").write_bytes(torch_files.torch_file(weights()))


def make_safetensors(folder: Path) -> None:
    """Write a safetensors file."""
    from safetensors.numpy import save

    arrays = {name: np.asarray(array) for name, array in weights().items()}
    (folder / "net.safetensors").write_bytes(save(arrays))


def read_weights(folder: Path) -> Any:
    """Fill a network from either."""
    from jaxsnn import export

    (path,) = folder.iterdir()
    net = export.from_torch(path, _empty())
    return net.params, net.stats


@cache
def _empty() -> Any:
    from jaxsnn import models
    from jaxsnn.neurons import LIF

    return models.build("3", (4,), LIF(0.5, reset="soft_undecayed"))


def forged_torch(draw: random.Random, name: str, data: bytes) -> bytes:
    """Damage the pickle or a storage in an archive of torch; its checksums are right again."""
    with zipfile.ZipFile(io.BytesIO(data)) as file:
        entries = {entry.filename: file.read(entry) for entry in file.infolist()}
    place = draw.choice([name for name in entries if entries[name]])
    if draw.random() < 0.7:
        place = "archive/data.pkl"
    entries[place] = forged_pickle(draw, name, entries[place])
    content = io.BytesIO()
    with zipfile.ZipFile(content, "w") as file:
        for entry, inner in entries.items():
            file.writestr(zipfile.ZipInfo(entry), inner)
    return content.getvalue()


# Images


def make_idx(folder: Path, pack: Callable[[bytes], bytes] = bytes, ending: str = "") -> None:
    """Write MNIST's four files."""
    rng = np.random.default_rng(0)
    for prefix, count in (("train", 6), ("t10k", 3)):
        images = rng.integers(0, 256, (count, 4, 4))
        labels = np.arange(count)
        for stem, array in (("images-idx3", images), ("labels-idx1", labels)):
            head = struct.pack(f">BBBB{array.ndim}I", 0, 0, 8, array.ndim, *array.shape)
            content = head + array.astype(np.uint8).tobytes()
            (folder / f"{prefix}-{stem}-ubyte{ending}").write_bytes(pack(content))


def make_idx_gz(folder: Path) -> None:
    """Write the same, packed."""
    make_idx(folder, lambda content: gzip.compress(content, mtime=0), ".gz")


def make_images(folder: Path) -> None:
    """Write a user's own images."""
    rng = np.random.default_rng(0)
    arrays = {}
    for part, count in (("train", 6), ("test", 3)):
        arrays[f"{part}_images"] = rng.integers(0, 256, (count, 4, 5), dtype=np.uint8)
        arrays[f"{part}_labels"] = np.arange(count) % 3
    np.savez(folder / "own.npz", **arrays)


def read_images(folder: Path) -> Any:
    """Read them."""
    from jaxsnn.data import own

    return own.read(folder)


def forged_images(draw: random.Random, name: str, data: bytes) -> bytes:
    """Damage the arrays of a file of numpy; its checksums are right again."""
    del name
    with np.load(io.BytesIO(data)) as file:
        arrays = {key: file[key] for key in file.files}
    content = io.BytesIO()
    np.savez(content, **damaged_array(draw, arrays))
    return content.getvalue()


def read_set(name: str) -> Callable[[Path], Any]:
    """Return the reader of an image set."""

    def read(folder: Path) -> Any:
        from jaxsnn.data import sources

        found = sources.read_local(name, folder)
        return found or _nothing(folder)

    return read


def _nothing(folder: Path) -> None:
    """Say what the loader says where no file of a set is there."""
    from jaxsnn.errors import UserError

    raise UserError(f"{folder}: nothing is there")


@cache
def _layout() -> Any:
    from jaxsnn.data import cifar

    layout = cifar.LAYOUTS["cifar10"]
    return layout._replace(train=("data_batch_1",), train_records=3, test_records=2)


def _cifar(form: str) -> dict[str, bytes]:
    rng = np.random.default_rng(0)
    files = {}
    for name, count in (("data_batch_1", 3), ("test_batch", 2)):
        table = rng.integers(0, 256, (count, 3073), dtype=np.uint8)
        table[:, 0] %= 10
        if form == "python":
            batch = {"data": table[:, 1:].copy(), "labels": table[:, 0].tolist(), "batch": "x"}
            files[name] = pickle.dumps(batch, protocol=2)
        else:
            files[f"{name}.bin"] = table.tobytes()
    return files


def make_cifar(form: str) -> Callable[[Path], None]:
    """Return what writes CIFAR-10 in one of its forms."""

    def make(folder: Path) -> None:
        files = _cifar("python" if "python" in form else "binary")
        if form.endswith("tar"):
            path = folder / _layout().archives[form.startswith("python")]
            with tarfile.open(path, "w:gz") as archive:
                for name, content in files.items():
                    member = tarfile.TarInfo(f"batches/{name}")
                    member.size = len(content)
                    archive.addfile(member, io.BytesIO(content))
            return
        for name, content in files.items():
            if form == "xz":
                (folder / f"{name}.xz").write_bytes(lzma.compress(content, preset=0))
            else:
                (folder / name).write_bytes(content)

    return make


def read_cifar(folder: Path) -> Any:
    """Read CIFAR-10 in any form."""
    from jaxsnn.data import cifar

    return cifar.read(folder, _layout(), "go there") or _nothing(folder)


PICKLED = (
    *(b"}", b"]", b")", b"(", b"0", b"1", b"N", b"t", b"l", b"d", b"a", b"e", b"s", b"u", b"R"),
    *(b"b", b"\x81", b"\x85", b"\x86", b"\x87", b"\x88", b"\x93", b"\x94", b"2", b"Q", b"o"),
    *(b"K\x01", b"M\x01\x02", b"J\xff\xff\xff\xff", b"U\x04data", b"X\x04\0\0\0data", b"q\x00"),
    *(b"q\x01", b"h\x00", b"h\x01", b"r\xff\xff\xff\x7f", b"j\0\0\0\0", b"I1\n", b"L9L\n"),
    *(b"S'a'\n", b"V\\u0041\n", b"F1e400\n", b"p0\n", b"g0\n", b"cos\nsystem\n", b"Pid\n"),
    *(b"cnumpy\ndtype\n", b"cnumpy\nndarray\n", b"cnumpy.core.multiarray\n_reconstruct\n"),
    *(b"c_codecs\nencode\n", b"\x8a\xff", b"\x8b\xff\xff\xff\x7f", b"B\xff\xff\xff\xff"),
    *(b"T\xff\xff\xff\x7f", b"\x8e" + b"\xff" * 8, b"\x96" + b"\xff" * 8),
    b"I" + b"9" * 5000 + b"\n",
)


def forged_pickle(draw: random.Random, name: str, data: bytes) -> bytes:
    """Put instructions of pickles into one, or write one of nothing else."""
    del name
    more = b"".join(draw.choices(PICKLED, k=draw.choice((1, 2, 5, 30, 200))))
    if draw.random() < 0.5:
        return b"\x80\x02" + more + b"."
    place = draw.randrange(len(data) + 1)
    return data[:place] + more + data[place:]


def make_imagenet(folder: Path) -> None:
    """Write Tiny-ImageNet as the zip archive that it comes as, with few images."""
    from PIL import Image

    classes = [f"n{number:08}" for number in range(200)]
    picture = io.BytesIO()
    Image.new("RGB", (64, 64), (9, 40, 90)).save(picture, "jpeg")
    files = {
        "wnids.txt": "\n".join(classes),
        f"train/{classes[3]}/images/{classes[3]}_0.JPEG": picture.getvalue(),
        "val/images/val_0.JPEG": picture.getvalue(),
        "val/val_annotations.txt": f"val_0.JPEG\t{classes[3]}\t0\t0\t9\t9\n",
    }
    _write_zip(folder / "tiny-imagenet-200.zip", "tiny-imagenet-200", files)


def _write_zip(path: Path, stem: str, files: dict[str, Any]) -> None:
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in files.items():
            archive.writestr(zipfile.ZipInfo(f"{stem}/{name}"), content)


def read_imagenet(folder: Path) -> Any:
    """Read it."""
    from jaxsnn.data import tiny_imagenet

    return tiny_imagenet.read_local(folder) or _nothing(folder)


def make_tfds(folder: Path) -> None:
    """Prepare MNIST in the format of tensorflow-datasets."""
    from jaxsnn.data import tfds

    source = folder / "source"
    source.mkdir()
    rng = np.random.default_rng(0)
    for prefix, count in (("train", 6), ("t10k", 3)):
        for stem, array in (
            ("images-idx3", rng.integers(0, 256, (count, 28, 28))),
            ("labels-idx1", np.arange(count)),
        ):
            head = struct.pack(f">BBBB{array.ndim}I", 0, 0, 8, array.ndim, *array.shape)
            path = source / f"{prefix}-{stem}-ubyte"
            path.write_bytes(head + array.astype(np.uint8).tobytes())
    tfds.prepare("mnist", source, folder / "tfds")
    for path in source.iterdir():
        path.unlink()
    source.rmdir()


def read_tfds(folder: Path) -> Any:
    """Read it."""
    from jaxsnn.data import tfds

    return tfds.read("mnist", folder / "tfds")


def forged_tfds(draw: random.Random, name: str, data: bytes) -> bytes:
    """Damage a description as JSON."""
    return forged_text(draw, name, data) if name.endswith(".json") else data[:-1]


# Events


def make_nmnist(folder: Path) -> None:
    """Write N-MNIST as recordings in folders."""
    for name, content in _nmnist().items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(content)


def make_nmnist_zip(folder: Path) -> None:
    """Write N-MNIST as archives."""
    for part in ("Train", "Test"):
        files = {k.partition("/")[2]: v for k, v in _nmnist().items() if k.startswith(part)}
        _write_zip(folder / f"{part}.zip", part, files)


def _nmnist() -> dict[str, bytes]:
    rng = np.random.default_rng(0)
    files = {}
    for part, count in (("Train", 3), ("Test", 2)):
        for number in range(count):
            table = rng.integers(0, 34, (20, 5))
            table[:, 2:] = np.stack([np.zeros(20), np.arange(20), np.arange(20)], 1)
            files[f"{part}/{number}/{number:05}.bin"] = table.astype(np.uint8).tobytes()
    return files


def read_events(name: str) -> Callable[[Path], Any]:
    """Return the reader of an event set."""

    def read(folder: Path) -> Any:
        from jaxsnn.data import event_sets

        frames = event_sets.framing(name, 2)
        parts = event_sets.read_local(name, folder, frames) or _nothing(folder)
        return parts.train.whole(), parts.test.whole(), parts.note

    return read


def make_dvs_cifar(folder: Path) -> None:
    """Write CIFAR10-DVS: two recordings a class."""
    from jaxsnn.data.event_table import EVENT_SETS

    for label, part in enumerate(EVENT_SETS["dvs_cifar10"].parts):
        (folder / part).mkdir()
        for number in range(2):
            words = [w for t in range(9) for w in ((127 - label) << 8 | (t + number) << 1, 10 * t)]
            content = b"#!AER-DAT2.0\r\n# made\r\n" + struct.pack(f">{len(words)}I", *words)
            (folder / part / f"cifar10_{part}_{number}.aedat").write_bytes(content)


def make_kept(folder: Path) -> None:
    """Write the same, and the frames that are kept of it."""
    make_dvs_cifar(folder)
    read_events("dvs_cifar10")(folder)


def make_gesture(folder: Path) -> None:
    """Write DVS-Gesture as IBM does."""
    rng = np.random.default_rng(0)
    for part, user in (("train", 1), ("test", 24)):
        times = np.arange(40) * 50
        words = np.stack(
            [rng.integers(128, size=40) << 17 | rng.integers(128, size=40) << 2 | 1, times], 1
        )
        head = struct.pack("<hhiiiiii", 1, 1, 8, 4, 0, 40, 40, 40)
        name = f"user{user:02}_led"
        content = b"#!AER-DAT3.1\r\n#!END-HEADER\r\n" + head + words.astype("<u4").tobytes()
        (folder / f"{name}.aedat").write_bytes(content)
        lines = ["class,startTime_usec,endTime_usec", "1,0,900", "5,900,1900"]
        (folder / f"{name}_labels.csv").write_text("\n".join(lines) + "\n")
        (folder / f"trials_to_{part}.txt").write_text(f"{name}.aedat\n")


def make_tables(folder: Path) -> None:
    """Write DVS-Gesture as tonic does."""
    for part in ("ibmGestureTrain", "ibmGestureTest"):
        for label in (0, 3):
            path = folder / part / "user01_led" / f"{label}.npy"
            path.parent.mkdir(parents=True, exist_ok=True)
            nine = np.arange(9)
            table = np.stack([nine, nine + label, nine % 2, nine], 1)
            np.save(path, table.astype(np.float64))


def make_spoken(folder: Path) -> None:
    """Write SHD."""
    import h5py

    rng = np.random.default_rng(0)
    for part, count in (("train", 4), ("test", 2)):
        with h5py.File(folder / f"shd_{part}.h5", "w") as file:
            file["labels"] = np.arange(count, dtype=np.uint16)
            for name, kind in (("times", np.float16), ("units", np.uint16)):
                made = file.create_dataset(f"spikes/{name}", (count,), dtype=h5py.vlen_dtype(kind))
                for index in range(count):
                    made[index] = rng.uniform(0, 1, 12).astype(kind)


# Runs and sweeps

CONFIG = {
    **{"preset": "smoke", "dataset": "digits", "seed": 0, "epochs": 3, "sparsity": {"conv1": 0.5}},
    **{"network": "4C3-{classes}", "limit": None, "log": ["jsonl"], "resume": True, "out": None},
}


def make_run(folder: Path) -> None:
    """Write what a resumed run reads: its options and its log."""
    text = json.dumps(CONFIG, indent=2)
    (folder / "config.json").write_text(text + "\n")
    rows = [
        {"phase": "dense", "epoch": n, "seconds": 1.5, "loss": 0.25, "accuracy": None}
        for n in (1, 2, 3)
    ]
    (folder / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))


def read_run(folder: Path) -> Any:
    """Read them as `Run` does."""
    from experiments.common import folder as runs

    runs.write_options(folder, CONFIG)
    return runs.read_log(folder)


def make_results(folder: Path) -> None:
    """Write results.json."""
    from jaxsnn import report
    from jaxsnn.metrics.report import LayerReport, Report

    layer = LayerReport("conv1", shape=(3, 3, 1, 8), density=0.5, bits=3)
    row = Report("dense", accuracy=0.5, layers=(layer,), accuracy_over_time=(0.25, 0.5), seed=1)
    report.write_results(
        folder, experiment="admm", dataset="digits", preset="smoke", seed=1, command="x",
        seconds=2.5, rows=[row, Report("small", bits=4.0)],
    )  # fmt: skip


def read_results(folder: Path) -> Any:
    """Read it, and make reports of its rows."""
    from jaxsnn import report
    from jaxsnn.metrics.report import Report

    found = report.read_results(folder)
    return found, [Report.from_row(row) for row in found["rows"]]


def make_options(folder: Path) -> None:
    """Write a file for --config."""
    values = {"preset": "smoke", "seed": 3, "limit": 100, "sparsity": 0.5, "network": "4C3-AP2-10"}
    (folder / "options.json").write_text(json.dumps(values))


def read_options(folder: Path) -> Any:
    """Read it as an experiment does."""
    from experiments.admm.run import EXPERIMENT
    from experiments.common import command, flat

    return flat(command.parse(EXPERIMENT, ["--config", str(folder / "options.json")]))


def make_stage(folder: Path) -> None:
    """Write a stage that is no training."""
    from jaxsnn import archive

    arrays = {"masks/conv1": np.arange(12).reshape(3, 4) % 2 == 0, "scores": np.arange(5.0)}
    (folder / "stage.npz").write_bytes(archive.pack(arrays))


def read_stage(folder: Path) -> Any:
    """Read it."""
    from jaxsnn import archive

    return archive.read(folder / "stage.npz")


POINTS = {"sparsity": np.asarray([0.5, 0.75, 0.9]), "seed": np.asarray([0, 1, 2])}


def _store(folder: Path) -> Any:
    from jaxsnn.sweep.store import Store

    return Store(folder, POINTS, "a digest")


def make_sweep(folder: Path) -> None:
    """Write the finished lanes of a sweep."""
    store = _store(folder)
    for lanes in ([0, 1], [2]):
        leaves = {
            "product/dense1/kernel": np.arange(6.0 * len(lanes), dtype=np.float32),
            "metrics/accuracy": np.asarray(lanes, np.float32),
        }
        shape = (len(lanes), 2, 3)
        leaves["product/dense1/kernel"] = leaves["product/dense1/kernel"].reshape(shape)
        store.save(lanes, leaves)


def read_sweep(folder: Path) -> Any:
    """Read them."""
    import jax

    shapes = {
        "product/dense1/kernel": jax.ShapeDtypeStruct((2, 3), np.float32),
        "metrics/accuracy": jax.ShapeDtypeStruct((), np.float32),
    }
    return _store(folder).load(shapes, 3)


def forged_sweep(draw: random.Random, name: str, data: bytes) -> bytes:
    """Damage a chunk or the description."""
    return (forged_text if name.endswith(".json") else forged_archive)(draw, name, data)


def _state(epoch: int) -> dict[str, Any]:
    return {"w": np.arange(6, dtype=np.float32).reshape(2, 3) + epoch, "step": np.int32(epoch)}


def make_checkpoints(folder: Path) -> None:
    """Write two checkpoints."""
    from jaxsnn.train import Checkpoints

    checkpoints = Checkpoints(folder / "dense")
    for epoch in (1, 2):
        checkpoints.save(epoch, _state(epoch))
    checkpoints.close()


def read_checkpoints(folder: Path) -> Any:
    """Restore the newest one that is whole."""
    from jaxsnn.train import Checkpoints

    checkpoints = Checkpoints(folder / "dense")
    try:
        return {k: np.asarray(x) for k, x in checkpoints.restore(_state(0)).items()}
    finally:
        checkpoints.close()


FORMATS: dict[str, Format] = {
    "packed file": Format(make_packed, read_packed, True, forged_compact, cheap=False),
    "packed file, like=": Format(make_own, read_alike, True, forged_compact),
    "packed file, version 2": Format(make_older, read_packed, True, forged_packed, cheap=False),
    "program": Format(make_program, read_program, True, forged_packed, cheap=False),
    "NIR": Format(make_nir, read_nir, False, forged_nir, cheap=False),
    "torch": Format(make_torch, read_weights, False, forged_torch),
    "safetensors": Format(make_safetensors, read_weights, False),
    "checkpoints": Format(
        make_checkpoints, read_checkpoints, True, cheap=False, lesser=lambda: [_state(1)]
    ),
    "idx": Format(make_idx, read_set("mnist"), False),
    "idx.gz": Format(make_idx_gz, read_set("mnist"), True),
    "own images": Format(make_images, read_images, False, forged_images),
    "CIFAR binary": Format(make_cifar("binary"), read_cifar, False),
    "CIFAR xz": Format(make_cifar("xz"), read_cifar, True),
    "CIFAR pickles": Format(make_cifar("python"), read_cifar, False, forged_pickle),
    "CIFAR tar.gz": Format(make_cifar("binary.tar"), read_cifar, True),
    "CIFAR pickles tar.gz": Format(make_cifar("python.tar"), read_cifar, True),
    "Tiny-ImageNet zip": Format(make_imagenet, read_imagenet, False, cheap=False),
    "TFDS": Format(make_tfds, read_tfds, False, forged_tfds, cheap=False),
    "N-MNIST": Format(make_nmnist, read_events("nmnist"), False),
    "N-MNIST zip": Format(make_nmnist_zip, read_events("nmnist"), False),
    "CIFAR10-DVS aedat": Format(make_dvs_cifar, read_events("dvs_cifar10"), False, cheap=False),
    "kept frames": Format(make_kept, read_events("dvs_cifar10"), False, cheap=False),
    "DVS-Gesture aedat": Format(make_gesture, read_events("dvs_gesture"), False),
    "DVS-Gesture npy": Format(make_tables, read_events("dvs_gesture"), False),
    "SHD": Format(make_spoken, read_events("shd"), False),
    "run's config and log": Format(make_run, read_run, False, forged_text),
    "results.json": Format(make_results, read_results, False, forged_text),
    "options file": Format(make_options, read_options, False, forged_text, cheap=False),
    "stage": Format(make_stage, read_stage, True, forged_archive),
    "sweep": Format(make_sweep, read_sweep, True, forged_sweep),
}
CHEAP = tuple(name for name, each in FORMATS.items() if each.cheap)
