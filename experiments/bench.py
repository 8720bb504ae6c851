"""Time a training step beside hand-written PyTorch and snnTorch, on the same weights and data.

Claim: a training step is faster than that of a careful hand-written PyTorch step of the same
network, and than snnTorch's as installed. Every contender runs in a process of its own, one after
the other, the rounds interleaved (A B C A B C ...); a contender's figure is the median over the
rounds of the median of each process, and its spread the least and the greatest of these. A ratio
is printed only if both compute the same loss from the same weights and the same batch.

Two rows are ours: `jaxsnn step` is one call of the compiled step on one batch, `jaxsnn epoch` the
cost of a step inside the compiled scan over an epoch, with shuffling and gathering the batch: what
training costs. In the tables `/ step` and `/ epoch` are the ratios to these two, `gradient` is the
norm of the first gradient relative to ours, `cores` how many were busy, `MiB` the peak memory.

    python -m venv torch-venv && torch-venv/bin/pip install torch==2.13.0 numpy snntorch
    python -m experiments.bench --peer-python torch-venv/bin/python --out runs/bench.json
"""

import importlib.metadata
import json
import os
import platform
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
from rich import box
from rich.console import Console
from rich.table import Table

from experiments import skeleton
from jaxsnn.errors import UserError
from jaxsnn.files import write_atomic

PEERS = Path(__file__).parent / "peers"


@dataclass(frozen=True)
class Workload:
    """A network, in the notation of `jaxsnn.models`, and its batch."""

    layout: str
    input_shape: tuple[int, ...]
    batch: int


@dataclass(frozen=True)
class Contender:
    """One row of the table: a module of `experiments.peers` and how to run it."""

    module: str
    variant: str = ""
    ours: bool = False
    note: str = ""


WORKLOADS = {
    "mnist_conv": Workload("32C3-AP2-32C3-AP2-128-10", (28, 28, 1), 64),
    "mlp": Workload("800-10", (784,), 128),
}

OURS = {
    "jaxsnn step": Contender("jaxsnn_step", "step", ours=True),
    "jaxsnn epoch": Contender("jaxsnn_step", "epoch", ours=True),
}

RIVALS = {
    "torch": Contender("torch_step", note="by hand, eager"),
    "torch-tuned": Contender("torch_step", "tuned", note="by hand: NHWC, backward, fused Adam"),
    "snntorch": Contender("snntorch_step", note="reset detached from the gradient"),
}

# Relative difference of the initial losses above which two contenders are not comparable.
SAME_LOSS = 1e-4

# Cores that other programs may keep busy during a measurement before the table says so.
BUSY = 0.15


@dataclass(frozen=True)
class Config:
    """Time jaxsnn's training step beside that of other frameworks."""

    peers: tuple[Literal["torch", "torch-tuned", "snntorch"], ...] = ("torch", "snntorch")
    """Who runs beside jaxsnn."""
    workloads: tuple[Literal["mnist_conv", "mlp"], ...] = ("mnist_conv", "mlp")
    """Networks to train."""
    timesteps: tuple[int, ...] = (10, 25)
    """Timesteps T; each makes a table of its own."""
    inputs: Literal["spikes", "images"] = "spikes"
    """Bernoulli spikes, other ones at each step, or one image for all steps."""
    rounds: int = 5
    """Processes started for each row."""
    seconds: float = 3.0
    """Time measured in each process, warm-up left out."""
    peer_python: Path = Path(sys.executable)
    """Interpreter that has the peers' frameworks (and numpy)."""
    seed: int = 0
    """Seed of weights, inputs and labels."""
    out: Path | None = None
    """Write all numbers to this JSON file."""


def layers_of(layout: str) -> Iterator[tuple[str, str, int]]:
    """Yield (kind, name, output channels) for each word of a layout: 32C3, AP2 or 128."""
    count = {"conv": 0, "pool": 0, "dense": 0}
    for word in layout.split("-"):
        kind = "pool" if word == "AP2" else "conv" if word.endswith("C3") else "dense"
        count[kind] += 1
        channels = 0 if kind == "pool" else int(word.removesuffix("C3"))
        yield kind, f"{kind}{count[kind]}", channels


def make_problem(name: str, timesteps: int, inputs: str, seed: int) -> dict[str, Any]:
    """Make the weights, one batch and its description, the same for every framework.

    Kernels are `[3, 3, in, out]` and `[in, out]`, uniform with the variance that keeps the layers
    firing. Spikes are `[T, B, *input]`, 0 or 1; images `[B, *input]`, 0 to 255; both uint8, one
    pixel in five lit.
    """
    workload = WORKLOADS[name]
    random = np.random.default_rng(seed)
    shape, layers = workload.input_shape, []
    arrays: dict[str, Any] = {}
    for kind, layer, channels in layers_of(workload.layout):
        layers.append((kind, layer))
        if kind == "pool":
            shape = (shape[0] // 2, shape[1] // 2, shape[2])
            continue
        kernel = (3, 3, shape[-1], channels) if kind == "conv" else (int(np.prod(shape)), channels)
        bound = np.sqrt(6.0 / np.prod(kernel[:-1]))
        arrays[f"{layer}/kernel"] = random.uniform(-bound, bound, kernel).astype(np.float32)
        arrays[f"{layer}/bias"] = np.full(channels, 0.01, np.float32)
        shape = (*shape[:2], channels) if kind == "conv" else (channels,)
    constant = inputs == "images"
    size = (workload.batch, *workload.input_shape)
    lit = random.random(size if constant else (timesteps, *size)) < 0.2
    values = random.integers(128, 256, size) if constant else 1
    arrays["x"] = (lit * values).astype(np.uint8)
    arrays["labels"] = random.integers(0, 10, workload.batch)
    spec = {
        "layout": workload.layout,
        "layers": layers,
        "input_shape": workload.input_shape,
        "classes": 10,
        "timesteps": timesteps,
        "constant_input": constant,
        "constants": {"threshold": 0.5, "decay": 0.2, "width": 1.0},
        "learning_rate": 1e-3,
    }
    return {**arrays, "spec": np.array(json.dumps(spec))}


def run_once(contender: Contender, problem: Path, config: Config) -> dict[str, Any]:
    """Run one contender in a process of its own and return what it measured."""
    python = sys.executable if contender.ours else str(config.peer_python)
    command = [python, str(PEERS / "measure.py"), contender.module, str(problem)]
    command += ["--variant", contender.variant, "--seconds", str(config.seconds)]
    environment = dict(os.environ)
    if contender.ours:
        environment["PYTHONPATH"] = str(PEERS.parents[1])  # a checkout need not be installed
    try:
        done = subprocess.run(command, env=environment, capture_output=True, text=True)
    except OSError as error:
        raise UserError(f"--peer-python {python}: cannot be started ({error.strerror})") from None
    if done.returncode != 0:
        last = (done.stderr.strip().splitlines() or ["no message"])[-1]
        hint = "" if contender.ours else "; --peer-python names an interpreter that has it"
        raise UserError(f"{contender.module} {contender.variant} failed: {last}{hint}")
    return json.loads(done.stdout.strip().splitlines()[-1])


def summarize(rounds: dict[str, list[dict[str, Any]]]) -> list[dict[str, Any]]:
    """Turn the measurements of each contender into one row each, with ratios to both of ours."""
    medians = {
        name: statistics.median(run["median_ms"] for run in runs) for name, runs in rounds.items()
    }
    reference = rounds["jaxsnn step"][0]["loss"]
    rows = []
    for name, runs in rounds.items():
        loss = runs[0]["loss"]
        same = abs(loss - reference) <= SAME_LOSS * abs(reference)
        row = {
            "contender": name,
            "median_ms": medians[name],
            "least_ms": min(run["median_ms"] for run in runs),
            "greatest_ms": max(run["median_ms"] for run in runs),
            "loss": loss,
            "gradient_norm": runs[0]["gradient_norm"],
            "same_loss": same,
            "rounds": runs,
        }
        for ours in OURS:
            row[f"ratio_to_{ours.replace(' ', '_')}"] = (
                medians[name] / medians[ours] if same else None
            )
        rows.append(row)
    return rows


def show(console: Console, title: str, rows: list[dict[str, Any]]) -> None:
    """Print the rows of one workload as a table."""
    table = Table(title=title, title_justify="left", box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0))
    headings = ("ms/step", "spread", "/ step", "/ epoch", "gradient", "cores", "MiB")
    for heading in ("", *headings):
        table.add_column(heading, justify="right" if heading else "left", no_wrap=True)
    for row in rows:
        ratios = [row["ratio_to_jaxsnn_step"], row["ratio_to_jaxsnn_epoch"]]
        table.add_row(
            row["contender"],
            f"{row['median_ms']:.4g}",
            f"{row['least_ms']:.4g}-{row['greatest_ms']:.4g}",
            *("other loss" if ratio is None else f"{ratio:.2f}x" for ratio in ratios),
            f"{row['gradient_norm'] / rows[0]['gradient_norm']:.3f}",
            f"{statistics.median(run['cores_busy'] for run in row['rounds']):.2f}",
            f"{max(run['peak_mib'] for run in row['rounds']):.0f}",
        )
    console.print(table)
    for row in rows:
        note = RIVALS[row["contender"]].note if row["contender"] in RIVALS else ""
        if note:
            console.print(f"  {row['contender']}: {note}")
    others = max(run["others_busy"] or 0.0 for row in rows for run in row["rounds"])
    if others > BUSY:
        console.print(f"  other programs kept up to {others:.1f} cores busy: do not trust this")


def cases(config: Config) -> Iterator[tuple[str, int]]:
    """Yield every (workload, timesteps) that is asked for."""
    for name in config.workloads:
        for timesteps in config.timesteps:
            yield name, timesteps


def run(config: Config) -> list[dict[str, Any]]:
    """Measure every case, print its table, and return the rows of all of them."""
    for option in ("rounds", "seconds"):
        if not getattr(config, option) > 0:
            raise UserError(f"--{option} {getattr(config, option)}: must be positive")
    if any(timesteps < 1 for timesteps in config.timesteps):
        raise UserError(f"--timesteps {config.timesteps}: every one must be at least 1")
    console = Console()
    contenders = OURS | {name: RIVALS[name] for name in config.peers}
    results = []
    with tempfile.TemporaryDirectory() as folder, Console(stderr=True).status("") as status:
        for name, timesteps in cases(config):
            problem = Path(folder) / "problem.npz"
            np.savez(problem, **make_problem(name, timesteps, config.inputs, config.seed))
            batch = WORKLOADS[name].batch
            title = f"{name}, T={timesteps}, batch {batch}, {config.inputs}"
            rounds: dict[str, list[dict[str, Any]]] = {contender: [] for contender in contenders}
            for number in range(config.rounds):
                for contender, how in contenders.items():
                    status.update(f"{title}: round {number + 1}/{config.rounds}, {contender}")
                    rounds[contender].append(run_once(how, problem, config))
            rows = summarize(rounds)
            show(console, title, rows)
            case = {"workload": name, "timesteps": timesteps, "batch": batch}
            results += [case | row for row in rows]
    return results


def write(config: Config, results: list[dict[str, Any]]) -> None:
    """Write the rows with what is needed to repeat them."""
    assert config.out is not None
    versions = {name: importlib.metadata.version(name) for name in ("jax", "jaxlib", "flax")}
    record = {
        "experiment": "bench",
        "config": {name: str(value) for name, value in asdict(config).items()},
        "versions": {"python": platform.python_version()} | versions,
        "machine": {"processor": platform.machine(), "cores": os.cpu_count()},
        "rows": results,
    }
    write_atomic(config.out, json.dumps(record, indent=1) + "\n")


def main() -> None:
    """Read the command line, measure, print and write."""
    config = skeleton.parse(lambda preset, dataset: Config(), "bench")
    results = run(config)
    if config.out is not None:
        write(config, results)


if __name__ == "__main__":
    skeleton.main(main)
