"""The benchmark's networks, written for each framework as its own tutorials would.

Each `*_step` module defines `build(problem, variant)`; `experiments.bench` runs `measure.py` with
it in a process of its own, with the interpreter that has the framework. The peers' modules import
each other from beside themselves and nothing of jaxsnn, so that such an interpreter needs none of
it.
"""
