"""Time jaxsnn beside other frameworks on the same networks, weights and data.

Every contender runs in a process of its own, the rounds interleaved (A B C A B C ...). A row's
figure is the median over the rounds of each process's median, its spread the least and the greatest
of these. A ratio is the contender's time over that of `jaxsnn` in the contender's own flavour of
the neuron (column `ours`): above 1, ours is faster. It is printed only if both get the same loss
and the same number of output spikes from the same weights and batch.

`jaxsnn` is the cost of a step inside the compiled epoch, shuffling and gathering the batch
included, or of a batch inside `train.predict`; `jaxsnn step` a single compiled step; `jaxsnn
direct` an epoch whose direct-coded image is handed over once. `of rate` is the share of this
machine's matrix-product rate, measured in the same run; `cores` how many were busy, `MiB` the peak
memory, of a GPU its own, `start s` what passes until the first step (or epoch) is done: imports
and compilation; `compile s` is that without the imports and the step.

Workloads: W1 (convolutions, T=10), W2 (dense, T=25), W3 (recurrent, T=100), W4 (VGG, direct coding,
T=4), two of them also without training; vgg16 and resnet20 want a GPU. With `--device gpu` all run
there, VGG-16 in batches of 128 among them, and torch peers with channels last, TF32, fused Adam
and, with `--dtype bfloat16`, autocast; SpikingJelly with its own fused kernels. Install the peers
by

    python3 -m venv torch-venv && torch-venv/bin/pip install torch==2.13.0 numpy scipy \\
        matplotlib tqdm loguru pbr snntorch nir nirtorch && \\
        torch-venv/bin/pip install --no-deps spikingjelly norse sinabs
    python3 -m venv jax-venv && jax-venv/bin/pip install jax spyx snnax equinox

and run, in about an hour and a half,

    python -m experiments.bench --peer-python torch-venv/bin/python \\
        --jax-peer-python jax-venv/bin/python --out runs/bench
"""

import importlib.metadata
import json
import os
import platform
import shlex
import sys
import time
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any, Literal

from rich.console import Console

from experiments.bench import machine
from experiments.bench.comparison import compare, our_rows
from experiments.bench.contenders import Contender, Interpreters, choose, note_of, on_gpu
from experiments.bench.limits import estimate, measure_rates
from experiments.bench.problems import USUAL, WORKLOADS, WorkloadName
from experiments.bench.rounds import Effort
from experiments.bench.studies.compiled import compiled
from experiments.bench.studies.registry import STUDIES
from experiments.bench.tables import WIDTH, describe, draw, show
from jaxsnn import native
from jaxsnn.cli import arguments
from jaxsnn.errors import UserError
from jaxsnn.files import write_atomic

PeerName = Literal[
    "installed",
    "torch",
    "torch-tuned",
    "torch-bf16",
    "snntorch",
    "spikingjelly",
    "norse",
    "sinabs",
    "spyx",
    "snnax",
]
StudyName = Literal[
    "time-memory",
    "sweep",
    "lanes",
    "shrunk",
    "quickstart",
    "qp-snn",
    "spike-thrift",
    "convolutions",
    "precision",
    "compiled",
    "mixed",
    "residuals",
    "gpu-program",
    "gpu-kernels",
    "neurons",
]


@dataclass(frozen=True)
class Config:
    """Time jaxsnn beside other frameworks."""

    peers: tuple[PeerName, ...] = ("installed",)
    """Who runs beside jaxsnn; "installed" is everybody whom the interpreters have."""
    device: Literal["cpu", "gpu"] = "cpu"
    """What is measured; gpu needs one, and frameworks that see it."""
    workloads: tuple[WorkloadName, ...] | None = None
    """What is computed; with nothing after it, none; left out, what suits the device."""
    studies: tuple[StudyName, ...] = ()
    """More: time and memory against T, a step of many networks (sweep), whole sweeps (lanes), a
    shrunk network, the quickstart, QP-SNN, Spike-Thrift, convolutions through XLA and oneDNN,
    the accuracy in bfloat16, compressed networks as C, bits of layers and channels (mixed), what a
    step keeps for its backward pass (residuals), the program of an H100 (gpu-program), what
    a GPU at hand does in a step (gpu-kernels), what each kind of neuron costs beside LIF
    (neurons)."""
    products: tuple[Path, ...] = ()
    """Packed networks that the study `compiled` times, too."""
    rounds: int = 5
    """Processes started for each row."""
    seconds: float = 3.0
    """Time measured in each process, warm-up left out."""
    peer_python: Path = Path(sys.executable)
    """Interpreter that has the torch peers."""
    jax_peer_python: Path = Path(sys.executable)
    """Interpreter that has the JAX peers."""
    dtype: Literal["float32", "bfloat16"] = "float32"
    """Of our products, spikes and saved potentials; sums and everybody else stay float32."""
    plain: bool = False
    """Add a row of ours without the settings of the whole process."""
    seed: int = 0
    """Seed of weights, inputs and labels."""
    out: Path | None = None
    """Write bench.json and bench.png to this folder."""


def check(config: Config) -> None:
    """Refuse options that cannot be meant, before anything is measured."""
    for option in ("rounds", "seconds"):
        if not getattr(config, option) > 0:
            raise UserError(f"--{option} {getattr(config, option)}: must be positive")
    if config.out is not None and config.out.exists() and not config.out.is_dir():
        raise UserError(f"--out {config.out}: is a file; name a folder")
    if config.workloads == () and not config.studies:
        raise UserError("--workloads and --studies are both empty: nothing to measure")
    if config.products and "compiled" not in config.studies:
        raise UserError("--products are networks of the study compiled: add --studies compiled")


def run(config: Config) -> dict[str, Any]:
    """Measure what is asked for, print the tables, and return everything."""
    check(config)
    is_gpu = config.device == "gpu"
    if is_gpu:
        machine.check_gpu()
    interpreters = Interpreters(config.peer_python, config.jax_peer_python, config.device)
    peers = choose(config.peers, interpreters)
    if is_gpu:
        peers = {name: on_gpu(peer, config.dtype) for name, peer in peers.items()}
    workloads = USUAL[config.device] if config.workloads is None else config.workloads
    notes = {name: note_of(peer) for name, peer in peers.items()}
    console = Console(width=WIDTH)
    cases, studies, rates = [], {}, None
    with Console(stderr=True).status("") as status:
        warn = lambda line: print(line, file=sys.stderr)  # noqa: E731
        effort = Effort(config.rounds, config.seconds, interpreters, status.update, warn)
        if workloads:
            status.update("matrix products")
            rates = measure_rates(peers, interpreters)
            if is_gpu:
                machine.check_seen(rates)
        for name in workloads:
            assert rates is not None
            cases.append(run_workload(console, name, config, peers, effort, rates, notes))
        for title in config.studies:
            study = STUDIES[title]
            if title == "compiled":
                study = partial(compiled, products=config.products)
            studies[title] = study(console, peers, effort, config.seed)
    return {"rates": rates, "workloads": cases, "studies": studies}


def run_workload(
    console: Console,
    name: str,
    config: Config,
    peers: dict[str, Contender],
    effort: Effort,
    rates: dict[str, Any],
    notes: dict[str, str],
) -> dict[str, Any]:
    """Measure one workload, print its table, and return its record."""
    workload = WORKLOADS[name]
    limit = estimate(workload, rates, config.dtype)
    rows = compare(
        name,
        workload,
        peers,
        effort,
        seed=config.seed,
        dtype=config.dtype,
        plain=config.plain,
        limit=limit,
        rounded=config.device == "gpu" or config.dtype == "bfloat16",
    )
    what = "training" if workload.train else "inference"
    heading = f"{name}: {what}, T={workload.timesteps}, batch {workload.batch}"
    show(console, f"{heading}\n{workload.layout}", rows, notes)
    console.print(describe(limit, rates, config.dtype), highlight=False)
    console.print()
    return {"workload": name, **asdict(workload), "limit": limit, "rows": rows}


def write(config: Config, folder: Path, results: dict[str, Any]) -> None:
    """Write everything with what is needed to repeat it, and the chart."""
    ours = {name: importlib.metadata.version(name) for name in ("jax", "jaxlib", "flax", "numpy")}
    peers = {
        name: version
        for case in results["workloads"]
        for row in case["rows"]
        if row["contender"] not in our_rows(WORKLOADS[case["workload"]], plain=True)
        for name, version in row["rounds"][0]["versions"].items()
    }
    record = {
        "experiment": "bench",
        "date": time.strftime("%Y-%m-%d"),
        "command": "python -m experiments.bench " + shlex.join(sys.argv[1:]),
        "config": {name: str(value) for name, value in asdict(config).items()},
        "versions": {"python": platform.python_version(), "ours": ours, "peers": peers},
        "machine": {
            "processor": machine.processor(),
            "gpu": machine.gpu(),
            "cores": os.cpu_count(),
            "instructions": machine.instructions(),
            "native": native.describe(),
        },
        **results,
    }
    write_atomic(folder / "bench.json", json.dumps(record, indent=1) + "\n")
    if results["workloads"]:
        draw(folder / "bench.png", results["workloads"])


def main() -> None:
    """Read the command line, measure, print and write."""
    config = arguments.parse(Config, "python -m experiments.bench", __doc__, None)
    results = run(config)
    if config.out is not None:
        write(config, config.out, results)
        print(f"results  {config.out / 'bench.json'}")
