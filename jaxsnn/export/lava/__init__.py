"""Networks for Loihi's fixed point, as lava computes it: exact, or refused by the layer's name."""

from jaxsnn.export.lava.writing import to_lava

__all__ = ["to_lava"]
