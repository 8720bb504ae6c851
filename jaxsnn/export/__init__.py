"""What leaves the workshop: smaller networks, networks without norms, files for other programs."""

from jaxsnn.export.fold import fold_norms
from jaxsnn.export.integer import run_integer, save_integer, to_integer
from jaxsnn.export.lava import to_lava
from jaxsnn.export.model import Model
from jaxsnn.export.nir import from_nir, to_nir
from jaxsnn.export.npz import save_npz
from jaxsnn.export.pack import load, save
from jaxsnn.export.shrinking import shrink, silence
from jaxsnn.export.stablehlo import load_stablehlo, save_stablehlo
from jaxsnn.export.state_dict import from_torch

__all__ = [
    "Model",
    "fold_norms",
    "from_nir",
    "from_torch",
    "load",
    "load_stablehlo",
    "run_integer",
    "save",
    "save_integer",
    "save_npz",
    "save_stablehlo",
    "shrink",
    "silence",
    "to_integer",
    "to_lava",
    "to_nir",
]
