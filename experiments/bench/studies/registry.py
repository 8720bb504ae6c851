"""More to measure: time and memory against T, a sweep, a shrunk network, the quickstart."""

import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

from rich.console import Console

from experiments.bench.contenders import PEERS_FOLDER, Contender
from experiments.bench.limits import multiply_adds
from experiments.bench.problems import W1, W2, Workload, make_problem
from experiments.bench.rounds import Effort, Entries, measure_all
from experiments.bench.studies.channels import channels
from experiments.bench.studies.compiled import compiled
from experiments.bench.studies.convolutions import convolutions
from experiments.bench.studies.gpu_kernels import gpu_kernels
from experiments.bench.studies.gpu_program import gpu_program
from experiments.bench.studies.lanes import lanes
from experiments.bench.studies.mixed import mixed
from experiments.bench.studies.neurons import neurons
from experiments.bench.studies.precision import precision
from experiments.bench.studies.residuals import residuals
from experiments.bench.studies.thrift import thrift
from experiments.bench.tables import is_same, new_table
from jaxsnn.errors import UserError

Peers = dict[str, Contender]
Rows = list[dict[str, Any]]

TIMESTEPS = (4, 8, 16, 32, 64)
MICRO_BATCHES = 4
LANES = 8
LANE_NETWORKS = (
    Workload("256-10", (784,), 25, 64, rate=0.2),
    Workload("16C3-AP2-32C3-AP2-10", (28, 28, 1), 4, 32, rate=0.2),
)
SHRUNK = replace(W1, layout="8C5V-AP2-20C5V-AP2-150-10", train=False)


def median_ms(runs: Rows) -> float:
    """Return the median over the rounds of each process's median."""
    return statistics.median(run["median_ms"] for run in runs)


def time_memory(console: Console, peers: Peers, effort: Effort, seed: int) -> Rows:
    """Train W2 with growing T: milliseconds, peak memory, and XLA's own temporaries of ours.

    Ours on one device, so that its memory is in one figure. The peak is of the whole process: the
    interpreter, the framework and the compiler are in it.
    """
    ours = {
        "jaxsnn": Contender("jaxsnn_step", "step devices=1"),
        "jaxsnn micro": Contender("jaxsnn_step", f"step devices=1 micro_batches={MICRO_BATCHES}"),
    }
    wanted = ("torch", "snntorch", "spikingjelly", "spyx")
    rows = ours | {name: peers[name] for name in wanted if name in peers}
    records = []
    for timesteps in TIMESTEPS:
        problem = make_problem(replace(W2, timesteps=timesteps), seed)
        entries: Entries = {name: (contender, problem) for name, contender in rows.items()}
        measured = measure_all(f"W2, T={timesteps}", entries, effort)
        for name, runs in measured.items():
            records.append(
                {
                    "contender": name,
                    "timesteps": timesteps,
                    "median_ms": median_ms(runs),
                    "peak_mib": max(run["peak_mib"] for run in runs),
                    "temporaries_mib": runs[0].get("temporaries_mib"),
                    "rounds": runs,
                }
            )
    measures = {"median_ms": "ms/step", "peak_mib": "peak MiB", "temporaries_mib": "XLA MiB"}
    table = new_table(
        "Time and memory against T (W2, training)", "", "", *(f"T={t}" for t in TIMESTEPS)
    )
    for name in rows:
        for measure, heading in measures.items():
            found = {r["timesteps"]: r[measure] for r in records if r["contender"] == name}
            if any(value is not None for value in found.values()):
                cells = (f"{found[t]:.4g}" if t in found else "failed" for t in TIMESTEPS)
                table.add_row(name, heading, *cells)
    console.print(table)
    console.print(f"  jaxsnn micro: {MICRO_BATCHES} micro-batches", style="dim", highlight=False)
    return records


def sweep(console: Console, peers: Peers, effort: Effort, seed: int) -> Rows:
    """Train 8 networks of one kind on the same batch: one step of all of them."""
    rows = {
        "jaxsnn vmap": Contender("jaxsnn_sweep", "vmap"),
        "jaxsnn loop": Contender("jaxsnn_sweep", "loop"),
    }
    if (os.cpu_count() or 1) > 1:
        rows["jaxsnn spread"] = Contender("jaxsnn_sweep", "spread")
    rows |= {name: peers[name] for name in ("snntorch",) if name in peers}
    records = []
    for network in LANE_NETWORKS:
        problem = make_problem(network, seed, lanes=LANES)
        entries: Entries = {name: (contender, problem) for name, contender in rows.items()}
        found = measure_all(f"sweep of {LANES} {network.layout}", entries, effort)
        reference = found["jaxsnn vmap"]
        title = f"A step of {LANES} networks {network.layout}, T={network.timesteps}"
        table = new_table(title, "", "ms", "ratio", "MiB")
        for name, runs in found.items():
            same = is_same(runs[0], reference[0])
            ratio = median_ms(runs) / median_ms(reference) if same else None
            text = "other loss" if ratio is None else f"{ratio:.2f}x"
            peak = max(run["peak_mib"] for run in runs)
            table.add_row(name, f"{median_ms(runs):.4g}", text, f"{peak:.0f}")
            records.append(
                {
                    "contender": name,
                    "layout": network.layout,
                    "median_ms": median_ms(runs),
                    "ratio": ratio,
                    "rounds": runs,
                }
            )
        console.print(table)
    return records


def shrunk(console: Console, peers: Peers, effort: Effort, seed: int) -> Rows:
    """Run W1 with half of every hidden width: what the operations removed are worth in time."""
    del peers
    networks = {"dense": replace(W1, train=False), "shrunk": SHRUNK}
    entries: Entries = {
        name: (Contender("jaxsnn_step", "predict"), make_problem(workload, seed))
        for name, workload in networks.items()
    }
    found = measure_all("shrunk", entries, effort)
    table = new_table(
        "Inference of a shrunk W1", "", "layout", "MMAC", "of dense", "ms", "of dense"
    )
    records: Rows = []
    for name, workload in networks.items():
        macs = sum(multiply_adds(workload)) * workload.timesteps * workload.batch
        record: dict[str, Any] = {
            "network": name,
            "multiply_adds": macs,
            "median_ms": median_ms(found[name]),
        }
        record["of_operations"] = macs / (records[0]["multiply_adds"] if records else macs)
        first = records[0]["median_ms"] if records else record["median_ms"]
        record["of_time"] = record["median_ms"] / first
        records.append(record | {"rounds": found[name]})
        table.add_row(
            name,
            workload.layout,
            f"{macs / 1e6:.0f}",
            f"{record['of_operations']:.2f}",
            f"{record['median_ms']:.4g}",
            f"{record['of_time']:.2f}",
        )
    console.print(table)
    return records


def quickstart(console: Console, peers: Peers, effort: Effort, seed: int) -> Rows:
    """Run `experiments.quickstart` once, as a user would, and take the time."""
    del peers
    effort.say("quickstart")
    with tempfile.TemporaryDirectory() as folder:
        command = [sys.executable, "-m", "experiments.quickstart", "--seed", str(seed)]
        command += ["--out", str(Path(folder) / "run")]
        start = time.perf_counter()
        done = subprocess.run(command, cwd=PEERS_FOLDER.parents[2], capture_output=True, text=True)
    seconds = time.perf_counter() - start
    if done.returncode != 0:
        last = (done.stderr.strip().splitlines() or ["no message"])[-1]
        raise UserError(f"the quickstart failed: {last}")
    console.print(f"quickstart: {seconds:.1f} s", highlight=False)
    return [{"seconds": seconds}]


STUDIES: dict[str, Callable[[Console, Peers, Effort, int], Rows]] = {
    "time-memory": time_memory,
    "sweep": sweep,
    "lanes": lanes,
    "shrunk": shrunk,
    "quickstart": quickstart,
    "qp-snn": channels,
    "spike-thrift": thrift,
    "convolutions": convolutions,
    "precision": precision,
    "compiled": compiled,
    "mixed": mixed,
    "residuals": residuals,
    "gpu-program": gpu_program,
    "gpu-kernels": gpu_kernels,
    "neurons": neurons,
}
