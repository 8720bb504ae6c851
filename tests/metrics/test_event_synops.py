"""The operations of a first layer on recordings, against a count of the raw events by hand."""

import os
import zipfile
from pathlib import Path

import jax
import numpy as np
import pytest

from jaxsnn import data, metrics, models, train, tree

REAL = Path(os.environ.get("JAXSNN_DATA", "/nonexistent"))
SIDE = 34


def pruned(layout, seed=0):
    """Build a network of N-MNIST with half of its weights."""
    net = models.build(layout, (SIDE, SIDE, 2), seed=seed)
    rng = np.random.default_rng(seed)
    params = jax.tree.map(lambda x: np.asarray(x) * (rng.random(x.shape) < 0.5), net.params)
    return net.replace(params=jax.tree.map(np.float32, params))


def reached(kernel, stride=1):
    """Count the weights that an event at each pixel meets in a 3 x 3 convolution, one by one.

    Output `(i, j)` looks at rows `stride i - 1 .. stride i + 1`, where there are such.
    """
    size = -(-SIDE // stride)
    found = np.zeros((SIDE, SIDE, 2), int)
    for i in range(size):
        for j in range(size):
            for di in range(3):
                for dj in range(3):
                    row, column = stride * i + di - 1, stride * j + dj - 1
                    if row < SIDE and column < SIDE and min(row, column) >= 0:
                        found[row, column] += np.count_nonzero(kernel[di, dj], axis=-1)
    return found


def raw_events(content):
    """Return row, column and polarity of each event of 5 bytes."""
    table = np.frombuffer(content, np.uint8).reshape(-1, 5)
    return [(int(y), int(x), int(flags) >> 7) for x, y, flags, _, _ in table]


def recordings(count, seed=0):
    """Make recordings of N-MNIST: some pixels fire several times within a frame."""
    rng = np.random.default_rng(seed)
    found = []
    for _ in range(count):
        table = rng.integers(0, 256, (rng.integers(200, 400), 5))
        table[:, :2] = rng.integers(0, SIDE, (len(table), 2)) % rng.integers(4, SIDE + 1)
        times = np.sort(rng.integers(0, 1 << 18, len(table)))  # they never go back
        table[:, 2] = table[:, 2] & 128 | times >> 16
        table[:, 3:] = np.stack([times >> 8 & 255, times & 255], 1)
        found.append(table.astype(np.uint8).tobytes())
    return found


@pytest.mark.long
@pytest.mark.parametrize(("layout", "stride"), [("4C3-AP2-10", 1), ("3C3S2-10", 2), ("9-10", None)])
def test_synops_are_the_fan_out_of_every_raw_event(layout, stride, tmp_path):
    contents = recordings(12)
    for part in ("Train", "Test"):
        with zipfile.ZipFile(tmp_path / f"{part}.zip", "w") as archive:
            for number, content in enumerate(contents):
                archive.writestr(f"{part}/{number % 10}/{number + 1:05}.bin", content)
    found = data.load("nmnist", tmp_path, timesteps=3, validation=0)
    net = pruned(layout)
    name = net.order[0]
    kernel = np.asarray(tree.named_leaves(net.params)[f"{name}/kernel"])
    if stride is None:
        table = np.count_nonzero(kernel, axis=1).reshape(SIDE, SIDE, 2)
    else:
        table = reached(kernel, stride)
    total = sum(int(table[event]) for content in contents for event in raw_events(content))
    task = train.Task(found.inputs())
    report = metrics.measure(task, net, found.test, batch_size=5)
    assert report.layers[0].synops == total / len(contents) > 0
    assert report.macs == 0 and all(not layer.macs for layer in report.layers)
    energy = report.synops * 0.9
    assert report.energy_pj == pytest.approx(energy)


@pytest.mark.skipif(not (REAL / "nmnist").is_dir(), reason="JAXSNN_DATA has no nmnist/")
def test_synops_on_real_recordings_are_those_of_a_hand_count():
    net = pruned("4C3-AP2-10")
    dense = models.build("4C3-AP2-10", (SIDE, SIDE, 2), seed=0)
    counts = np.zeros((SIDE, SIDE, 2), np.int64)
    with zipfile.ZipFile(REAL / "nmnist" / "Test.zip") as archive:
        names = [name for name in archive.namelist() if name.endswith(".bin")]
        for name in names:
            records = np.frombuffer(archive.read(name), np.uint8).reshape(-1, 5)
            np.add.at(counts, (records[:, 1], records[:, 0], records[:, 2] >> 7), 1)
    found = data.load("nmnist", REAL, limit=10, timesteps=10, validation=0)
    for each in (net, dense):
        table = reached(np.asarray(each.params["conv1"]["kernel"]))
        report = metrics.measure(train.Task(found.inputs()), each, found.test)
        assert report.layers[0].synops == int((counts * table).sum()) / len(names)
        assert report.layers[0].macs == 0
