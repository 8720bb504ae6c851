"""Networks that run on integers alone: conversion with a proof, a runner, and what is exact."""

from jaxsnn.export.integer.conversion import to_integer
from jaxsnn.export.integer.inputs import (
    PIXELS,
    SPIKES,
    IntegerGrid,
    PixelTable,
    pixel_table,
    split_before,
)
from jaxsnn.export.integer.network import IntegerNetwork, IntegerOutput, run_integer
from jaxsnn.export.integer.saving import save_integer
from jaxsnn.export.integer.verdict import LayerVerdict

__all__ = [
    "PIXELS",
    "SPIKES",
    "IntegerGrid",
    "IntegerNetwork",
    "IntegerOutput",
    "LayerVerdict",
    "PixelTable",
    "pixel_table",
    "run_integer",
    "save_integer",
    "split_before",
    "to_integer",
]
