"""What leaves the workshop: smaller networks, networks without norms, files for other programs."""

from jaxsnn.export.fold import fold_norms
from jaxsnn.export.pack import load, save
from jaxsnn.export.shrink import shrink, silence

__all__ = ["fold_norms", "load", "save", "shrink", "silence"]
