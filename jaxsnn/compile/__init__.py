"""A compressed network as one C file: no dependency, no heap, the integer network bit for bit."""

from jaxsnn.compile.call import Compiled, build, to_c
from jaxsnn.compile.source import Source

__all__ = ["Compiled", "Source", "build", "to_c"]
