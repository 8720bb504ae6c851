"""What leaves the workshop: smaller networks, networks without norms, files for other programs."""

from jaxsnn.export.fold import fold_norms
from jaxsnn.export.model import Model
from jaxsnn.export.pack import load, save
from jaxsnn.export.shrinking import shrink, silence

__all__ = ["Model", "fold_norms", "load", "save", "shrink", "silence"]
