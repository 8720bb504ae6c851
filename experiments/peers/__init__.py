"""One training step of the benchmark's networks, written for each framework.

Each module but `measure` defines `build(problem, variant) -> Subject`; `experiments.bench` runs
`measure.py` with it in a process of its own, with the interpreter that has the framework.
"""
