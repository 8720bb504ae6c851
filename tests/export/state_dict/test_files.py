"""State dictionaries are read as torch wrote them, and nothing in them is executed."""

import io
import pickle
import zipfile
from pathlib import Path

import jax.numpy as jnp
import numpy as np
import pytest
from safetensors.numpy import save

from jaxsnn.errors import UserError
from jaxsnn.export.state_dict.files import read_state
from tests.export.state_dict import torch_files
from tests.export.state_dict.torch_files import ORDERED, archive, number, tensor, text, torch_file

HERE = Path(__file__).parent
ARRAYS = {
    "features.0.weight": np.arange(12, dtype=np.float32).reshape(2, 3, 2),
    "features.0.bias": np.asarray([0.5, -0.5], np.float16),
    "lif.beta": np.float64(0.9),
    "lif.reset_mechanism_val": np.int64(1),
}


def written(folder, content, name="net.pt"):
    path = folder / name
    path.write_bytes(content)
    return path


def assert_read(state, ordered):
    assert state.ordered == ordered and set(state.arrays) == set(ARRAYS)
    for name, array in ARRAYS.items():
        np.testing.assert_array_equal(state.arrays[name], array)


@pytest.mark.parametrize("part", [None, "model_state_dict", "net"])
def test_tensors_come_back_on_top_and_in_a_checkpoint(tmp_path, part):
    parts = {} if part is None else {"state": part}
    state = read_state(written(tmp_path, torch_file(ARRAYS, **parts)))
    assert_read(state, ordered=True)
    assert list(state.arrays) == list(ARRAYS)


def test_safetensors_and_dictionaries_are_read_bfloat16_too(tmp_path):
    path = written(tmp_path, save({k: np.asarray(v) for k, v in ARRAYS.items()}), "a.safetensors")
    assert_read(read_state(path), ordered=False)
    assert_read(read_state(ARRAYS), ordered=True)
    short = jnp.asarray([1.0, 2.5], jnp.bfloat16)
    head = b'{"w":{"dtype":"BF16","shape":[2],"data_offsets":[0,4]}}'
    content = len(head).to_bytes(8, "little") + head + np.asarray(short).tobytes()
    found = read_state(written(tmp_path, content, "b.safetensors")).arrays["w"]
    assert found.astype(np.float32).tolist() == [1.0, 2.5]


def test_numbers_of_numpy_beside_the_weights_do_not_matter(tmp_path):
    """A checkpoint often keeps the best accuracy."""
    data, storages = torch_files.state(ARRAYS)
    best = {"best": np.float64(0.5), "last": np.float64(0.25), "epoch": 3}
    content = pickle.dumps(best, 2)[:-1] + text("net") + data + b"s."
    assert_read(read_state(written(tmp_path, archive(content, storages))), ordered=True)


def test_a_file_of_torch_itself_is_read():
    """`tests/export/state_dict/leaky.pt`: see `leaky.py`, which wrote it by torch 2.13."""
    state = read_state(HERE / "leaky.pt")
    weight = np.arange(6, dtype=np.float32).reshape(3, 2)
    np.testing.assert_array_equal(state.arrays["fc.weight"], weight)
    np.testing.assert_array_equal(state.arrays["turned"], weight.T)  # a view with other strides
    np.testing.assert_array_equal(state.arrays["part"], weight[1:, 1])  # one with an offset
    assert state.arrays["short"].astype(np.float32).tolist() == [1.5]
    assert state.arrays["lif.beta"].shape == () and state.arrays["lif.reset_mechanism_val"] == 0


def test_a_pickle_that_would_execute_something_is_refused(tmp_path):
    class Hostile:
        def __reduce__(self):
            return open, (str(tmp_path / "made"), "w")

    path = written(tmp_path, archive(pickle.dumps({"w": Hostile()}, 2), []))
    with pytest.raises(UserError, match=r"net.pt: .*it names \S+open, which is not allowed"):
        read_state(path)
    assert not (tmp_path / "made").exists()
    model = b"\x80\x02c__main__\nNet\n)\x81."
    with pytest.raises(UserError, match="__main__.Net, which is not allowed.*state_dict"):
        read_state(written(tmp_path, archive(model, [])))


FOUR = np.arange(4, dtype=np.float32)


def stating(content, size):
    """Return an archive whose directory states another packed size of its first entry."""
    place = content.index(b"PK\1\2") + 20
    return content[:place] + size.to_bytes(4, "little") + content[place + 4 :]


def one(pickled):
    return archive(b"\x80\x02}" + text("w") + pickled + b"s.", [FOUR.tobytes()])


@pytest.mark.parametrize(
    "content, message",
    [
        (one(tensor(FOUR, 0, shape=(5,), strides=(1,))), "a tensor .5,. beyond its storage"),
        (one(tensor(FOUR, 0, offset=1)), "beyond its storage of 4 numbers"),
        (one(tensor(FOUR, 0, shape=(2,), strides=(4,))), "beyond its storage"),
        (one(tensor(FOUR, 0, shape=(1 << 30,), strides=(0,))), "beyond its storage"),
        (one(tensor(FOUR, 0, offset=-1)), "a tensor of no whole shape"),
        (one(tensor(FOUR, 0, shape=(2, 2), strides=(1,))), "a tensor without a storage"),
        (one(tensor(FOUR, 0, size=5)), "a storage of 4 numbers, 5 expected"),
        (one(tensor(FOUR, 7)), "no item named 'archive/data/7'"),
        (one(b"ctorch\nFloatStorage\n)R"), "a call of a type of storages"),
        (archive(b"\x80\x02}" + text("a") + number(1) + b"s.", []), "holds no state .* keys a"),
        (archive(ORDERED + b".", []).replace(b"data.pkl", b"data.pkk"), "0 entries data.pkl"),
        (archive(b"}.", [b"a"], kind=zipfile.ZIP_DEFLATED), "'archive/data.pkl' is compressed"),
        (stating(torch_file(ARRAYS), 1 << 31), "it states more bytes than it has"),
        (pickle.dumps({"w": 1}, 2), "a bare pickle, as torch wrote before its release 1.6"),
        (b"12345678910", "neither an archive of torch nor a safetensors file"),
        (torch_file(ARRAYS)[:200], "net.pt: damaged or cut short"),
        (b"", "net.pt: damaged or cut short"),
    ],
)  # fmt: skip
def test_what_is_wrong_with_a_file_is_one_line_with_its_name(tmp_path, content, message):
    with pytest.raises(UserError, match=message) as caught:
        read_state(written(tmp_path, content))
    assert "net.pt" in str(caught.value) and "\n" not in str(caught.value)


def test_files_that_are_not_there_and_values_that_are_no_numbers(tmp_path):
    with pytest.raises(UserError, match="no such file, expected weights of PyTorch"):
        read_state(tmp_path / "none.pt")
    with pytest.raises(UserError, match="a folder, expected weights"):
        read_state(tmp_path)
    with pytest.raises(UserError, match="w of the state dictionary is <U1, expected numbers"):
        read_state({"w": "x"})


def test_the_writer_of_the_tests_writes_what_a_zip_reader_takes():
    with zipfile.ZipFile(io.BytesIO(torch_files.torch_file(ARRAYS))) as file:
        assert file.testzip() is None
