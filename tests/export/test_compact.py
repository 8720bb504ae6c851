"""The packed file says everything in few bytes, and whatever is wrong with one is named."""

import json
import tempfile
import tracemalloc
from functools import cache
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file

from jaxsnn import models, tree
from jaxsnn.cli import facts
from jaxsnn.errors import UserError
from jaxsnn.export import architecture, load, pack, save
from jaxsnn.inputs import Inputs
from jaxsnn.network import Network
from jaxsnn.neurons import LIF
from tests.export import older_file
from tests.export.forging import packed_text, put_together, taken_apart
from tools import forms

NAME = "net.safetensors"
INPUTS = Inputs((8, 8, 2), 4, mean=(0.5, 0.4), std=(0.2, 0.3))
ABOUT = {"name": "compressed", "dataset": "cifar10", "accuracy": "0.912300"}
TEN = "4C3-4C3-6C3-6C3-MP2-6C3-8C3-8C3-AP2-8C3-12-10"


def rest_of(path):
    """Return the bytes of a file that are no weights."""
    contents = pack.read(path)
    return contents.num_bytes - sum(each.nbytes for each in contents.tensors.values())


@pytest.mark.parametrize("norm", [False, True])
def test_ten_layers_take_less_than_five_hundred_bytes_beside_their_weights(tmp_path, norm):
    net = models.build(TEN, (8, 8, 2), LIF(0.9, 1.0), norm=norm, seed=0)
    size = save(tmp_path / NAME, net, INPUTS, ABOUT)
    assert size == (tmp_path / NAME).stat().st_size
    assert len(net.synapses) == 10 and rest_of(tmp_path / NAME) < 500
    contents = pack.read(tmp_path / NAME)
    assert contents.header["architecture"] == architecture.describe_network(net)
    assert contents.header["inputs"] == INPUTS.to_data() and contents.metadata == ABOUT
    assert load(tmp_path / NAME).network.order == net.order


def test_any_safetensors_reader_finds_one_tensor_of_bytes(tmp_path):
    save(tmp_path / NAME, models.build("6-3", (4,)))
    (name, tensor), *others = load_file(tmp_path / NAME).items()
    assert name == "jaxsnn3" and not others and tensor.dtype == np.uint8
    assert tensor.nbytes >= (tmp_path / NAME).stat().st_size - 80


@pytest.mark.long
def test_a_file_of_version_2_is_read(tmp_path):
    net = older_file.network()
    model = load(older_file.PATH)
    assert model.inputs == older_file.INPUTS and model.metadata == older_file.METADATA
    assert model.written_by["jaxsnn"] == "0.2.0"
    for name, leaf in tree.named_leaves(net.params).items():
        np.testing.assert_array_equal(tree.named_leaves(model.network.params)[name], leaf)
    size = save(tmp_path / NAME, model.network, model.inputs, model.metadata)
    assert 2 * size < older_file.PATH.stat().st_size
    new, old = pack.read(tmp_path / NAME).header, pack.read(older_file.PATH).header
    for field in ("architecture", "inputs", "numbers"):
        assert new[field] == old[field]


QUICKSTART = Path(__file__).with_name("quickstart.safetensors")


@pytest.mark.long
def test_a_product_takes_the_bytes_that_the_page_of_the_format_says(tmp_path):
    told = json.loads(forms.OUT.read_text(encoding="utf-8"))["rows"]
    assert forms.rows_of("quickstart", QUICKSTART) == [
        row for row in told if row["product"] == "quickstart"
    ]
    for row in facts.forms_of(QUICKSTART):
        assert row["forms"][row["form"]] == row["bytes"]
    model = load(QUICKSTART)
    save(tmp_path / NAME, model.network, model.inputs, model.metadata)
    old, new = pack.read(QUICKSTART), pack.read(tmp_path / NAME)
    for name, tensor in old.tensors.items():
        assert new.tensors[name].tobytes() == tensor.tobytes()


def test_leaves_of_other_types_and_names_return(tmp_path):
    params = {"a": {"kernel": np.ones((3, 2), np.float32)}, "b/c": np.zeros(5, np.float32)}
    stats = {
        "whole": np.int32([1, 2]),
        "wide": np.float64(0.1),
        "low": np.float32([0, -0.0]),
        "mean": np.float32([0.5, 0.5, 1]),
        "one": np.float32(0.1),
    }
    net = Network.wrap(params, lambda params, x: x, stats)
    save(tmp_path / NAME, net, metadata={"größe": "ä", "a": '"\\'})
    again = load(tmp_path / NAME, like=net)
    assert again.metadata == {"größe": "ä", "a": '"\\'}
    contents = pack.read(tmp_path / NAME)
    assert contents.header["architecture"] is None
    assert contents.header["numbers"] == {"stats/one": float(np.float32(0.1))}
    assert contents.tensors["stats/wide"].dtype == np.float64
    for name, leaf in stats.items():
        assert contents.tensors.get(f"stats/{name}", leaf).tobytes() == leaf.tobytes() or (
            name == "mean"
        )
    np.testing.assert_array_equal(again.network.stats["mean"], stats["mean"])
    assert np.signbit(again.network.stats["low"]).tolist() == [False, True]


@cache
def small_file():
    """Return the bytes of a file with two layers."""
    with tempfile.TemporaryDirectory() as folder:
        net = models.build("6-3", (4,), LIF(0.5), seed=0)
        save(f"{folder}/{NAME}", net, Inputs((4,), 3))
        return Path(folder, NAME).read_bytes()


def forge(change):
    """Return what changes the text of a file, or puts other bytes into its place."""

    def forged(path):
        text, rest = taken_apart(path.read_bytes())
        text = json.loads(text)
        changed = change(text) or text
        if not isinstance(changed, bytes):
            changed = packed_text(json.dumps(changed).encode())
        path.write_bytes(put_together(changed, rest))

    return forged


def layer(**changes):
    return forge(lambda text: text["layers"][0].update(changes))


def leaf(name, shape):
    return forge(lambda text: text["layers"][0]["params"].update({name: shape}))


def twice(text):
    text["layers"].append(text["layers"][0] | {"new": True})


def many(text):
    wide = {f"x{i}": 0 for i in range(4000)}
    text["layers"] = [text["layers"][0] | wide] + [{"kind": "dense", "name": "d"}] * 4000


def oracle(text):
    for each in text["layers"]:
        each["kind"] = "oracle"


def behind_the_text(change):
    """Return what changes what stands behind the text of a file."""

    def forged(path):
        text, rest = taken_apart(path.read_bytes())
        path.write_bytes(put_together(packed_text(text), change(rest)))

    return forged


def other_version(path):
    path.write_bytes(path.read_bytes().replace(b'"jaxsnn3"', b'"jaxsnn4"', 1))


def other_size(path):
    path.write_bytes(path.read_bytes().replace(b"[0,", b"[1,", 1))


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (other_version, "expected version 3 of the format, found '4'; read it with"),
        (other_size, "another safetensors file|damaged or cut short"),
        (forge(lambda text: text.pop("by") and None), "the text lacks the field 'by'"),
        (forge(lambda text: text.update(more=1)), "the text has the field 'more', unknown"),
        (forge(lambda text: text.update(layers=3)), "field 'layers' is 3, expected a list"),
        (forge(lambda text: text.update(metadata={"a": 1})), "field 'metadata' is"),
        (forge(lambda text: text.update(inputs={})), "the input lacks the field 'shape'"),
        (forge(lambda text: [text]), r"the text is \[\{"),
        (forge(lambda text: b"\xff\xff"), "damaged or cut short"),
        (forge(lambda text: packed_text(b"{}") + b"x"), "no end within 4194304 bytes"),
        (forge(lambda text: packed_text(bytes(5 * 10**6))), "no end within 4194304 bytes"),
        (forge(twice), "params/dense1/bias stands there twice"),
        (leaf("kernel", [2**31] * 65), "field 'shape' is .*, expected a list of at most 64"),
        (forge(many), "its layers have too many fields"),
        (layer(kind=None), "a layer without a name or a kind"),
        (layer(name=3), "a layer without a name or a kind"),
        (layer(params=[]), "layer 'dense1': params or stats are no objects"),
        (forge(oracle), "layer 'dense1': field 'kind' is 'oracle', expected one of conv"),
        (layer(stats={"neurons/decay": "x"}), "field 'stats/dense1/neurons/decay' is 'x'"),
        (layer(stats={"neurons/decay": 1e300}), "neurons/decay' is 1e"),
        (layer(stats={"neurons/decay": ["object", [1]]}), "damaged or cut short"),
        (leaf("kernel", [4, 2**31]), r"the architecture has \(4, 2147483648\), the numbers|bytes"),
        (leaf("kernel", [-4, 6]), "field 'shape' is .-4, 6., expected a list"),
        (leaf("kernel", "x"), "leaves take|has no such leaf|expected a number"),
        (behind_the_text(lambda rest: rest + b"0"), "its leaves take .* bytes"),
        (behind_the_text(lambda rest: b"\x7f" + rest[1:]), "damaged or cut short"),  # a form
        (behind_the_text(lambda rest: b"\xff" * 99), "a number has too many bytes"),
    ],
)
def test_what_is_forged_is_named(tmp_path, damage, message):
    (tmp_path / NAME).write_bytes(small_file())
    damage(tmp_path / NAME)
    with pytest.raises(UserError, match=f"{NAME}: .*({message})"):
        load(tmp_path / NAME)


LONG = "x" * 5000


def long_name_and_kind(text):
    text["layers"][0]["name"] = LONG
    for each in text["layers"]:
        each["kind"] = LONG


def long_name_and_other_bias(text):
    text["layers"][0]["name"] = LONG
    text["layers"][0]["params"]["bias"] = [1, 6]


def long_name_and_no_parameters(text):
    text["layers"][0] |= {"name": LONG, "params": []}


def long_name_of_a_number(text):
    text["layers"][0]["stats"][LONG] = 0.5


def long_name_and_constant(text):
    text["layers"][1] |= {"name": LONG, "stats": {"neurons/decay": 7.0}}


def pooled_away(text):
    pool = {"name": "pool1", "kind": "average_pool", "size": 9}
    text["layers"] = [pool, {"name": "flatten1", "kind": "flatten"}, *text["layers"]]
    text["inputs"]["shape"] = [2, 2, 1]


def long_name_and_other_input(text):
    text["layers"][0]["name"] = LONG
    text["inputs"]["shape"] = [7]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            long_name_and_kind,
            r"layer 'x{59} \.\.\.: field 'kind' is 'x{59} \.\.\., expected one of",
        ),
        (
            long_name_and_other_bias,
            r"params/x{60} \.\.\.: the architecture has \(6,\), the numbers",
        ),
        (long_name_and_no_parameters, r"layer 'x{59} \.\.\.: params or stats are no objects"),
        (long_name_of_a_number, r"stats/dense1/x{53} \.\.\.: the architecture has no such leaf"),
        (long_name_and_constant, r"x{60} \.\.\./decay must be in \[0, 1\], found 7\.0"),
        (long_name_and_other_input, r"the layers do not fit an input \(7,\): layer 'x{59}"),
        (
            pooled_away,
            r"the layers do not fit an input \(2, 2, 1\): layer 'dense1' takes 4 features",
        ),
    ],
)
def test_what_is_forged_is_named_in_a_line_that_is_not_long(tmp_path, change, message):
    path = tmp_path / NAME
    path.write_bytes(small_file())
    forge(change)(path)
    with pytest.raises(UserError, match=message) as caught:
        facts.of_file(path)
    assert str(caught.value).startswith(f"{path}: ") and len(str(caught.value)) < 600


def test_few_bytes_that_say_many_zeros_are_refused_before_they_are_made(tmp_path):
    kernel = np.zeros((100, 100), np.float32)
    net = Network.wrap({"kernel": kernel}, lambda params, x: x)
    size = save(tmp_path / NAME, net)
    assert size < 400
    load(tmp_path / NAME, like=net)

    def change(text):
        text["layers"][0]["params"]["kernel"] = [1 << 14, 1 << 14]

    forge(change)(tmp_path / NAME)
    contents = pack.read(tmp_path / NAME)
    tracemalloc.start()
    with pytest.raises(UserError, match=f"{NAME}: its leaves take 1,073,741,824 bytes, and a file"):
        pack.leaves(tmp_path / NAME, contents)
    with pytest.raises(UserError, match="the tensor params/kernel is damaged: stream says steps"):
        pack.leaves(tmp_path / NAME, contents, bounded=False)
    assert tracemalloc.get_traced_memory()[1] < 1 << 24
    tracemalloc.stop()
