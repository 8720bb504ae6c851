"""Write what `torch.save` writes, without torch: a zip of stored entries, a pickle among them."""

import io
import struct
import zipfile

import numpy as np

NAMES = {"f4": "Float", "f8": "Double", "f2": "Half", "i8": "Long", "i4": "Int", "u1": "Byte"}
ORDERED = b"ccollections\nOrderedDict\n)R"


def torch_file(arrays, **parts):
    """Return the bytes of `torch.save(state_dict)`, of a checkpoint if there are parts.

    The word `state` among the parts is the name under which the state dictionary stands.
    """
    data, storages = state(arrays)
    if "state" in parts:
        data = b"}" + text(parts["state"]) + data + b"s" + text("epoch") + number(3) + b"s"
    return archive(b"\x80\x02" + data + b".", storages)


def archive(pickle, storages, root="archive", kind=zipfile.ZIP_STORED):
    """Return the zip archive of a pickle and its storages."""
    content = io.BytesIO()
    with zipfile.ZipFile(content, "w", kind) as file:
        file.writestr(zipfile.ZipInfo(f"{root}/data.pkl"), pickle, kind)
        file.writestr(zipfile.ZipInfo(f"{root}/byteorder"), b"little", kind)
        for key, storage in enumerate(storages):
            file.writestr(zipfile.ZipInfo(f"{root}/data/{key}"), storage, kind)
        file.writestr(zipfile.ZipInfo(f"{root}/version"), b"3\n", kind)
    return content.getvalue()


def state(arrays):
    """Return the pickled dictionary, and its storages."""
    data, storages = ORDERED + b"(", []
    for name, array in arrays.items():
        array = np.asarray(array)
        data += text(name) + tensor(array, len(storages))
        storages.append(np.ascontiguousarray(array).tobytes())
    return data + b"u}" + text("_metadata") + ORDERED + b"sb", storages


def tensor(array, key, offset=0, shape=None, strides=None, size=None):
    """Return a pickled tensor; what is given besides the array may be wrong."""
    kind = NAMES[array.dtype.str[1:]]
    steps = [step // array.itemsize for step in np.ascontiguousarray(array).strides]
    steps = steps if array.shape else []
    place = text("storage") + f"ctorch\n{kind}Storage\n".encode() + text(str(key)) + text("cpu")
    place += number(array.size if size is None else size)
    return (
        b"ctorch._utils\n_rebuild_tensor_v2\n((" + place + b"tQ" + number(offset)
        + numbers(array.shape if shape is None else shape)
        + numbers(steps if strides is None else strides) + b"\x89" + ORDERED + b"tR"
    )  # fmt: skip


def text(words):
    return b"X" + struct.pack("<I", len(words.encode())) + words.encode()


def number(value):
    return b"J" + struct.pack("<i", value)


def numbers(values):
    return b"(" + b"".join(map(number, values)) + b"t"
