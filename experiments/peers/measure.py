"""Time one framework's training step in this process and print one line of JSON.

Run by its path, `python measure.py MODULE PROBLEM.npz`, so that any interpreter with numpy and
the framework will do; MODULE is a file beside this one. What it must define is

    build(problem, variant) -> (loss, gradient_norm, run, steps_per_run)

`loss` and `gradient_norm` are those of the given weights on the given batch, before any update:
two frameworks whose numbers differ do not compute the same thing, and no ratio of their times is
worth printing. `run()` performs `steps_per_run` training steps and blocks until they are done.
"""

import argparse
import importlib
import json
import os
import resource
import statistics
import time

import numpy as np


def read_problem(path):
    """Return the benchmark's problem: its arrays by name and, under "spec", what they mean."""
    with np.load(path) as file:
        problem = {name: file[name] for name in file.files}
    problem["spec"] = json.loads(str(problem["spec"]))
    return problem


def machine_seconds():
    """Return the processor time that the whole machine has spent, None where none can tell."""
    try:
        with open("/proc/stat") as file:
            user, nice, system, _, _, irq, softirq, steal = map(int, file.readline().split()[1:9])
    except OSError:
        return None
    return (user + nice + system + irq + softirq + steal) / os.sysconf("SC_CLK_TCK")


def time_runs(run, steps, seconds, warmup, least):
    """Return the seconds per step of each run, and the cores that we and others kept busy."""
    for _ in range(warmup):
        run()
    times: list[float] = []
    machine, start, busy = machine_seconds(), time.perf_counter(), time.process_time()
    while len(times) < least or time.perf_counter() - start < seconds:
        before = time.perf_counter()
        run()
        times.append((time.perf_counter() - before) / steps)
    wall = time.perf_counter() - start
    ours = (time.process_time() - busy) / wall
    others = None if machine is None else (machine_seconds() - machine) / wall - ours
    return times, ours, others


def main():
    """Build the step, check in with its loss, time it, print the numbers."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("module")
    parser.add_argument("problem")
    parser.add_argument("--variant", default="")
    parser.add_argument("--seconds", type=float, default=3.0)
    parser.add_argument("--warmup", type=int, default=3)
    parser.add_argument("--least", type=int, default=5)
    args = parser.parse_args()

    start = time.perf_counter()
    build = importlib.import_module(args.module).build
    loss, gradient_norm, run, steps = build(read_problem(args.problem), args.variant)
    run()
    first = time.perf_counter() - start
    times, ours, others = time_runs(run, steps, args.seconds, args.warmup, args.least)
    result = {
        "loss": loss,
        "gradient_norm": gradient_norm,
        "median_ms": 1e3 * statistics.median(times),
        "fastest_ms": 1e3 * min(times),
        "slowest_ms": 1e3 * max(times),
        "runs": len(times),
        "steps_per_run": steps,
        "start_seconds": first,
        "cores_busy": ours,
        "others_busy": others,
        "peak_mib": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024,
    }
    print(json.dumps(result), flush=True)


if __name__ == "__main__":
    main()
