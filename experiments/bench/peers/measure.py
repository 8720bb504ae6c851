"""Time one framework in this process and print one line of JSON.

Run by its path, `python measure.py MODULE PROBLEM.npz`, so that any interpreter with numpy and
the framework will do; MODULE is a file beside this one. It names its `PACKAGES`, and defines

    build(problem, variant) -> {"run": ..., "check": ..., "unit": ..., **facts}

`run(n)` takes n steps (training steps, or passes without a gradient) and blocks until they are
done; n is a multiple of `unit` (1 if left out). `check()` returns what the problem's weights give
on its batch: the "loss", the "rate" (output spikes per neuron and step) and, where it is at hand,
the "gradient_norm". Two frameworks that differ in them do not compute the same thing, and no ratio
of their times is worth printing. Whatever else the dictionary holds is passed on.
"""

import argparse
import importlib
import importlib.metadata
import json
import os
import resource
import statistics
import time

import numpy as np

GROUP = 0.5  # seconds: steps are timed in groups that take about as long
SLOW = 4.0  # seconds a step from which on a contender gets no warm-up and only a few steps


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


def clock(run, steps):
    """Return how many seconds `steps` steps take."""
    start = time.perf_counter()
    run(steps)
    return time.perf_counter() - start


def time_groups(run, unit, seconds):
    """Return the seconds per step of each group, and the cores that we and others kept busy.

    As long as is measured, nothing is measured before.
    """
    machine, start, busy = machine_seconds(), time.perf_counter(), time.process_time()
    took = clock(run, unit)
    size = unit * max(1, round(min(GROUP, seconds / 6) / took))
    times = [took / unit]
    if times[0] < SLOW:
        while time.perf_counter() - start < seconds:  # warm up: a process's memory grows at first
            clock(run, max(size, 3))
        times = []
        machine, start, busy = machine_seconds(), time.perf_counter(), time.process_time()
    while len(times) < 2 or time.perf_counter() - start < seconds:
        times.append(clock(run, size) / size)
    wall = time.perf_counter() - start
    ours = (time.process_time() - busy) / wall
    others = None if machine is None else (machine_seconds() - machine) / wall - ours
    return times, size, ours, others


def peak_mib():
    """Return the greatest resident memory that this process has had."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def build_lanes(build, problem, variant):
    """Build one subject for each lane of a sweep; a step is then one step of all of them."""
    lanes = problem["spec"]["lanes"]
    weights = {name for name in problem if "/" in name}
    subjects = [
        build({k: v[i] if k in weights else v for k, v in problem.items()}, variant)
        for i in range(lanes)
    ]

    def run(steps):
        for _ in range(steps):
            for subject in subjects:
                subject["run"](1)

    def check():
        found = [subject["check"]() for subject in subjects]
        return {name: np.mean([one[name] for one in found]).item() for name in ("loss", "rate")}

    return {"run": run, "check": check}


def main():
    """Build the step, time it, check in with its loss, print the numbers."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("module")
    parser.add_argument("problem")
    parser.add_argument("--variant", default="")
    parser.add_argument("--seconds", type=float, default=3.0)
    args = parser.parse_args()

    problem = read_problem(args.problem)
    start = time.perf_counter()
    module = importlib.import_module(args.module)
    imported = time.perf_counter()
    if "lanes" in problem["spec"] and not getattr(module, "TAKES_LANES", False):
        subject = build_lanes(module.build, problem, args.variant)
    else:
        subject = module.build(problem, args.variant)
    run, check, unit = subject.pop("run"), subject.pop("check"), subject.pop("unit", 1)
    run(unit)
    first = time.perf_counter()
    times, size, ours, others = time_groups(run, unit, args.seconds)
    peak = peak_mib()
    result = {
        **check(),
        "median_ms": 1e3 * statistics.median(times),
        "fastest_ms": 1e3 * min(times),
        "slowest_ms": 1e3 * max(times),
        "groups": len(times),
        "steps_per_group": size,
        "unit": unit,
        "import_seconds": imported - start,
        "start_seconds": first - start,
        "cores_busy": ours,
        "others_busy": others,
        "peak_mib": peak,
        "versions": {name: importlib.metadata.version(name) for name in module.PACKAGES},
        **subject,
    }
    print(json.dumps(result), flush=True)


if __name__ == "__main__":
    main()
