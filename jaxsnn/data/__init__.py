"""Sets of images and of events, from memory or files, and augmentation on the device."""

from jaxsnn.data.base import Dataset, Split
from jaxsnn.data.loading import load, names

__all__ = ["Dataset", "Split", "load", "names"]
