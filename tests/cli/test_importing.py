"""The command `jaxsnn import`: NIR files and weights become packed files that run."""

import numpy as np
import pytest

from jaxsnn import models
from jaxsnn.cli import main
from jaxsnn.export import load, to_nir
from jaxsnn.inputs import Inputs
from jaxsnn.neurons import LIF
from tests.export.state_dict.torch_files import torch_file


def normal(*shape):
    return np.random.default_rng(len(shape)).normal(size=shape).astype(np.float32)


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    weights = {
        "features.0.weight": normal(2, 1, 3, 3), "features.0.bias": normal(2),
        "fc.weight": normal(3, 32), "fc.bias": normal(3),
    }  # fmt: skip
    (tmp_path / "weights.pt").write_bytes(torch_file(weights))
    beta = {
        "lif.beta": np.float32(0.75),
        "lif.alpha": np.float32(0.5),
        "a.weight": normal(3, 4),
        "a.bias": normal(3),
    }
    (tmp_path / "leaky.pt").write_bytes(torch_file(beta | {"head.weight": normal(9, 9)}))
    to_nir(models.build("3", (4,), LIF(0.5)), tmp_path / "net.nir")
    return tmp_path


WEIGHTS = "import weights.pt --layout 2C3-3 --shape 4 4 1 --timesteps 5 --out net"


def test_weights_and_a_layout_become_a_packed_file(folder, capsys):
    line = f"{WEIGHTS} --decay 0.5 --threshold 0.5 --reset hard --inclusive --decay-input yes"
    assert main([*line.split(), "--map", "conv1=features.0", "dense1=fc"]) == 0
    assert "bytes; layers conv1, dense1" in capsys.readouterr().out
    model = load(folder / "net")
    assert model.inputs == Inputs((4, 4, 1), 5) and model.metadata == {"from": "weights.pt"}
    neurons = model.network.module.conv1.neurons
    assert float(neurons.threshold[...]) == 1.0 and not neurons.options.strict


def test_constants_of_the_weights_count_and_others_are_left_out(folder):
    line = "import leaky.pt --layout 3 --shape 4 --decay 0.1 --reset soft --timesteps 5 --out net"
    assert main([*line.split(), "--synaptic-decay", "0.1", "--ignore", "head.*"]) == 0
    neurons = load(folder / "net").network.module.dense1.neurons
    assert float(neurons.decay[...]) == 0.75 and float(neurons.synaptic_decay[...]) == 0.5


def test_a_nir_file_says_its_layers(folder, capsys):
    line = "import net.nir --timesteps 5 --encoding events --reset soft --out net"
    assert main(line.split()) == 0
    model = load(folder / "net")
    assert model.inputs == Inputs((4,), 5, "events")
    assert model.network.module.dense1.neurons.options.reset == "soft"


@pytest.mark.parametrize(
    "line, message",
    [
        (WEIGHTS, "weights.pt: weights do not say it, pass --decay, --reset"),
        (f"{WEIGHTS} --decay 0.5 --reset hard", "weights.pt: nothing says whether conv1/neurons"),
        (f"{WEIGHTS} --decay 0.5 --reset hard --map conv1", "--map conv1: write LAYER=MODULE"),
        (f"{WEIGHTS} --dt 1e-3", "--dt is for a NIR file, and weights.pt is weights"),
        ("import net.nir --timesteps 5 --out net --layout 3", "--layout is for weights, and net"),
        ("import none.pt --timesteps 5 --out net", "pass --layout, --shape, --decay, --reset"),
        (f"{WEIGHTS.replace('weights.pt', 'none.pt')} --decay 0.5 --reset hard", "none.pt: no "),
        ("import net.nir --out net", "--timesteps"),
    ],
)  # fmt: skip
def test_what_is_missing_is_one_line(folder, capsys, line, message):
    assert main(line.split()) == 2
    printed = capsys.readouterr()
    assert message in printed.err and printed.err.count("\n") == 1
    assert not (folder / "net").exists()


def test_the_help_teaches(capsys):
    with pytest.raises(SystemExit):
        main(["import", "--help"])
    text = " ".join(capsys.readouterr().out.split())
    for words in ("jaxsnn import net.nir --timesteps 10", "torch.save(model.state_dict()", "--map"):
        assert words in text
