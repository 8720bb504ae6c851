"""The benchmark on a GPU: who runs how, what is said without one, what every table names."""

import configparser
import subprocess
from pathlib import Path

import pytest
from rich.console import Console

from experiments.bench import command, contenders, limits, machine, problems, tables
from experiments.bench.contenders import INSTALL_JAX, INSTALL_TORCH, PEERS, Interpreters
from jaxsnn.errors import UserError

ROOT = Path(__file__).parents[3]
SEEN = {"each": {"jax": {"device": "NVIDIA H200"}, "torch": {"device": "NVIDIA H200"}}}


@pytest.fixture
def smi(monkeypatch):
    """Return a function that lets nvidia-smi answer so, or not be there."""

    def answer(text, code=0):
        def run(*_, **__):
            if text is None:
                raise FileNotFoundError
            return subprocess.CompletedProcess(machine.ASK, code, text, "")

        monkeypatch.setattr(machine.subprocess, "run", run)
        machine.gpu.cache_clear()

    yield answer
    machine.gpu.cache_clear()


@pytest.mark.parametrize("text, code", [(None, 0), ("no devices", 9), ("", 0)])
def test_without_a_gpu_nothing_is_measured(smi, text, code):
    smi(text, code)
    assert machine.gpu() is None
    with pytest.raises(UserError, match="no GPU: nvidia-smi finds none here"):
        command.run(command.Config(device="gpu"))


def test_a_framework_that_does_not_see_the_gpu_is_named():
    machine.check_seen(SEEN)
    for name, what in {"jax": r"jax\[cuda12\]", "torch": "--peer-python"}.items():
        blind = {"each": SEEN["each"] | {name: {"device": "cpu"}}}
        with pytest.raises(UserError, match=f"no GPU: {name} sees the CPU only; .*{what}"):
            machine.check_seen(blind)


def test_every_table_names_what_it_was_measured_on(smi):
    for text in ("NVIDIA H200\nNVIDIA H200\n", None):
        smi(text)
        console = Console(record=True, width=120)
        console.print(tables.new_table("title", "a", 60 * "b"))
        said = console.export_text()
        assert machine.processor() in said and ("NVIDIA H200" in said) == bool(text)


def test_torch_peers_take_what_a_gpu_is_fast_with():
    fast = {name: contenders.on_gpu(peer, "bfloat16") for name, peer in PEERS.items()}
    assert fast["spikingjelly"].variant == "gpu amp" and fast["torch"].variant == "gpu amp"
    assert fast["torch-tuned"].variant == "tuned gpu amp" and not fast["torch-tuned"].preload
    assert fast["spyx"] == PEERS["spyx"]
    assert "autocast" in fast["spikingjelly"].note
    wide = contenders.on_gpu(PEERS["snntorch"], "float32")
    assert wide.variant == "gpu" and "autocast" not in wide.note
    ours = contenders.Contender("jaxsnn_step", "epoch")
    assert contenders.on_gpu(ours, "bfloat16") == ours


def test_a_gpu_is_hidden_from_what_runs_on_the_processor():
    assert Interpreters(device="gpu").environment == {}
    assert Interpreters().environment == {"CUDA_VISIBLE_DEVICES": "", "JAX_PLATFORMS": "cpu"}


def test_compilation_is_counted_without_imports_and_the_step():
    run = {"median_ms": 500.0, "start_seconds": 9.0, "import_seconds": 2.0, "unit": 4}
    assert tables.compile_seconds([run]) == 5.0
    assert tables.compile_seconds([{"median_ms": 1.0, "start_seconds": 1.0}]) is None


def test_large_batches_are_for_gpus():
    for name in problems.USUAL["gpu"]:
        assert name in problems.WORKLOADS
    large = problems.WORKLOADS["vgg16-gpu"]
    assert large.batch == 128 and large.layout == problems.VGG16.layout
    # The step that was measured on an H200: 7.04 ms at 136 TFLOP/s.
    assert limits.operations(large) == pytest.approx(7.04e-3 * 136e12, rel=0.01)


def test_half_the_bytes_of_activities_move_in_bfloat16():
    w2 = problems.W2
    weights = 4 * 9 * (784 * 800 + 800 * 10)
    wide, short = (limits.traffic(w2, dtype) - weights for dtype in ("float32", "bfloat16"))
    assert wide == 2 * short


def test_the_least_that_is_kept_is_spikes_of_a_byte_and_one_potential():
    w2 = problems.W2
    samples = w2.timesteps * w2.batch
    assert limits.kept(w2) == samples * (4 * 800 + 800 + 4 * 10)  # its input is an argument
    assert limits.kept(w2, "bfloat16") == samples * (2 * 800 + 800 + 2 * 10)


# --- Installing -----------------------------------------------------------------------------------


def words(text):
    """Return the words of a command that may be broken into lines."""
    return text.replace("\\\n", " ").split()


def test_the_hints_install_what_the_peers_import():
    needed = {"torch==2.13.0", "numpy", "scipy", "matplotlib", "tqdm", "loguru", "pbr"}
    packages = {peer.package for peer in PEERS.values()}
    assert needed | {p for p in packages if not p.startswith(("torch", "spyx", "snnax"))} <= set(
        words(INSTALL_TORCH)
    )
    assert {"jax", "spyx", "snnax", "equinox"} <= set(words(INSTALL_JAX))
    setup = configparser.ConfigParser()
    setup.read(ROOT / "setup.cfg")
    extra = setup["options.extras_require"]["peers"].split()
    assert {"pbr", "torch==2.13.0"} <= set(extra)


def test_the_help_shows_the_hints():
    text = " ".join(words(command.__doc__))
    for hint in (INSTALL_TORCH, INSTALL_JAX):
        assert " ".join(words(hint)) in text
