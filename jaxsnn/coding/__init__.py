"""A leaf as few bytes: the smallest of some forms, which returns every weight bit for bit."""

from jaxsnn.coding.comparing import entropy, least, sizes
from jaxsnn.coding.finding import columns, distinct
from jaxsnn.coding.forms import MAX_VALUES, PARTS
from jaxsnn.coding.levels import LeafGrid, OnGrid
from jaxsnn.coding.reading import decode, stored_step
from jaxsnn.coding.writing import (
    Cost,
    bits,
    cost,
    encode,
    known_or_found,
    mean_bits,
    num_bytes,
)

__all__ = [
    "MAX_VALUES",
    "PARTS",
    "Cost",
    "LeafGrid",
    "OnGrid",
    "bits",
    "columns",
    "cost",
    "decode",
    "distinct",
    "encode",
    "entropy",
    "known_or_found",
    "least",
    "mean_bits",
    "num_bytes",
    "sizes",
    "stored_step",
]
