"""Sweeps: whole trainings over a grid of numbers, as one compiled program."""

from jaxsnn.sweep.fronts import hypervolume, pareto
from jaxsnn.sweep.grid import AXES
from jaxsnn.sweep.lane import Lane, run, with_constants
from jaxsnn.sweep.lanes import Swept
from jaxsnn.sweep.searching import search

__all__ = ["AXES", "Lane", "Swept", "hypervolume", "pareto", "run", "search", "with_constants"]
