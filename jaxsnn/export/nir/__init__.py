"""Networks as NIR files, in the reading of each framework that takes them."""

from jaxsnn.export.nir.dialects import DIALECTS
from jaxsnn.export.nir.files import read_nir, write_nir
from jaxsnn.export.nir.graph import to_nir
from jaxsnn.export.nir.reader import from_nir

__all__ = ["DIALECTS", "from_nir", "read_nir", "to_nir", "write_nir"]
