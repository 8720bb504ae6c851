"""Programs on recordings end with a report and a raster: of a camera, of a cochlea."""

import json
import zipfile

import h5py
import numpy as np
import pytest

from jaxsnn import export
from jaxsnn.cli.commands import data_for

pytestmark = pytest.mark.run

FEW = ["--dense-epochs", "1", "--batch-size", "20", "--limit", "40", "--ways", "one-shot"]
FEW += ["--pull-epochs", "1", "--retrain-epochs", "0", "--no-control"]


def nmnist(root):
    """Write a small N-MNIST: 40 and 20 recordings of 60 events, times in order."""
    rng = np.random.default_rng(0)
    for part, count in (("Train", 40), ("Test", 20)):
        with zipfile.ZipFile(root / f"{part}.zip", "w") as archive:
            for number in range(count):
                table = rng.integers(0, 34, (60, 5))
                table[:, 2] = 128 * rng.integers(0, 2, 60)
                table[:, 3] = 0
                table[:, 4] = np.arange(60)
                content = table.astype(np.uint8).tobytes()
                archive.writestr(f"{part}/{number % 10}/{number + 1:05}.bin", content)


def shd(root):
    """Write a small SHD: 40 and 20 recordings of 50 spikes."""
    rng = np.random.default_rng(0)
    for split, count in (("train", 40), ("test", 20)):
        with h5py.File(root / f"shd_{split}.h5", "w") as file:
            file["labels"] = np.arange(count, dtype=np.uint16) % 20
            for name, kind in (("times", np.float16), ("units", np.uint16)):
                lists = file.create_dataset(
                    f"spikes/{name}", (count,), dtype=h5py.vlen_dtype(np.dtype(kind))
                )
                for index in range(count):
                    top = 1.39 if name == "times" else 700
                    lists[index] = (rng.random(50) * top).astype(kind)


SETS = {
    "nmnist": (
        nmnist,
        ["--augment", "event-shift", "--network", "4C3-AP2-{classes}", "--frames-by", "time"],
    ),
    "shd": (shd, ["--network", "16R-{classes}", "--frame-size", "70", "--timesteps", "6"]),
}


@pytest.mark.thorough
@pytest.mark.parametrize("name", ["nmnist", "shd"])
def test_a_run_on_recordings_ends_with_report_and_raster(name, tmp_path, run_in_process):
    make, options = SETS[name]
    make(tmp_path)
    out = tmp_path / "out"
    argv = ["--preset", "smoke", "--dataset", name, "--data-dir", tmp_path, "--out", out]
    run_in_process("admm", [*argv, *FEW, *options])
    page = (out / "report.html").read_text()
    assert "was not drawn" not in page and "Spikes of one sample." in page
    rows = json.loads((out / "results.json").read_text())["rows"]
    assert [row["name"] for row in rows] == ["dense", "pruned one-shot"]
    for row in rows:
        assert row["macs"] == 0 and row["synops"] > 0
    path = out / "models" / "pruned-one-shot.safetensors"
    found = data_for(export.load(path), path, name, str(tmp_path))  # of `jaxsnn eval`
    alike = {"nmnist": "2 frames of equal length, 34x34", "shd": "6 frames of 233.333 ms, 70 units"}
    assert alike[name] in found.notes
    names = [layer["name"] for layer in rows[1]["layers"]]
    if name == "shd":
        assert names[:2] == ["dense1", "dense1/recurrent"]
        assert rows[1]["layers"][1]["density"] < 1
    assert rows[1]["density"] == pytest.approx(0.2, abs=0.02)
