"""A leaf as few bytes: the smallest of some forms, which returns every weight bit for bit."""

from jaxsnn.coding.forms import MAX_VALUES, PARTS
from jaxsnn.coding.levels import OnGrid
from jaxsnn.coding.reading import decode, stored_step
from jaxsnn.coding.writing import bits, encode, num_bytes

__all__ = ["MAX_VALUES", "PARTS", "OnGrid", "bits", "decode", "encode", "num_bytes", "stored_step"]
