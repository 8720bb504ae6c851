"""Networks that run on integers alone: conversion with a proof, a runner, and what is exact."""

from jaxsnn.export.integer.conversion import to_integer
from jaxsnn.export.integer.inputs import PIXELS, SPIKES, Grid, PixelTable, cut, pixel_table
from jaxsnn.export.integer.network import IntegerNetwork, IntegerOutput, run_integer
from jaxsnn.export.integer.verdict import LayerReport

__all__ = [
    "PIXELS",
    "SPIKES",
    "Grid",
    "IntegerNetwork",
    "IntegerOutput",
    "LayerReport",
    "PixelTable",
    "cut",
    "pixel_table",
    "run_integer",
    "to_integer",
]
