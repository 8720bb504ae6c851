"""Files that other programs load: the packed model."""

from jaxsnn.export.pack import load, save

__all__ = ["load", "save"]
