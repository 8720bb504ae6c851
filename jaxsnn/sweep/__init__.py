"""Sweeps: whole trainings over a grid of numbers, as one compiled program."""

from jaxsnn.sweep.fronts import hypervolume, pareto
from jaxsnn.sweep.grid import AXES, Axis, SweepGrid, points
from jaxsnn.sweep.lane import Lane, fit_traced, run, training, with_constants
from jaxsnn.sweep.lanes import Swept, run_lanes

__all__ = [
    "AXES",
    "Axis",
    "Lane",
    "SweepGrid",
    "Swept",
    "fit_traced",
    "hypervolume",
    "pareto",
    "points",
    "run",
    "run_lanes",
    "training",
    "with_constants",
]
