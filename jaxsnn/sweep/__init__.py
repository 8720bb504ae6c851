"""Sweeps: whole trainings over a grid of numbers, as one compiled program."""

from jaxsnn.sweep.chunks import Mode
from jaxsnn.sweep.fronts import hypervolume, pareto
from jaxsnn.sweep.grid import AXES, Axis, Grid, points
from jaxsnn.sweep.lane import (
    Method,
    constants_of,
    fit,
    shortened,
    straight_through,
    training,
    with_constants,
)
from jaxsnn.sweep.lanes import Run, Swept, run

__all__ = [
    "AXES",
    "Axis",
    "Grid",
    "Method",
    "Mode",
    "Run",
    "Swept",
    "constants_of",
    "fit",
    "hypervolume",
    "pareto",
    "points",
    "run",
    "shortened",
    "straight_through",
    "training",
    "with_constants",
]
