"""Image data sets, from memory, files or tensorflow-datasets, and augmentation on the device."""

from jaxsnn.data import augment
from jaxsnn.data.base import Dataset, Split
from jaxsnn.data.loading import load, names

__all__ = ["Dataset", "Split", "augment", "load", "names"]
