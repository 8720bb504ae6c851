"""A leaf as few bytes: the smallest of some forms, which returns every weight bit for bit."""

from jaxsnn.coding.forms import MAX_VALUES, PARTS, OnGrid, bits, decode, encode, num_bytes, step

__all__ = ["MAX_VALUES", "PARTS", "OnGrid", "bits", "decode", "encode", "num_bytes", "step"]
