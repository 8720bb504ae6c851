"""Kernels and biases of float layers, and the integers that they become.

Letters in shapes: `O` output channels.
"""

import numpy as np

from jaxsnn import layers
from jaxsnn.compress.codes import Step
from jaxsnn.errors import UserError
from jaxsnn.export.integer.inputs import IntegerGrid
from jaxsnn.export.integer.units import scales
from jaxsnn.export.integer.verdict import IntegerWeights
from jaxsnn.layers.grouped import ordinary

__all__ = ["bias_of", "laid_out", "weights_of"]

COARSEST_BIAS = 2.0**20  # of a unit; channels that norms have all but switched off have larger ones


def laid_out(name: str, layer: layers.Synapse, kernel: np.ndarray) -> np.ndarray:
    """Return a kernel as integer networks have it: of one group, square, zeros in between."""
    if not isinstance(layer, layers.Conv):
        return kernel
    kernel = ordinary(kernel, layer.groups)
    if not isinstance(layer, layers.Conv1d):
        return kernel
    size = len(kernel)
    if layer.padding != "SAME" and size > 1:
        raise UserError(f"{name!r}, Conv1d, has integers with padding 'SAME' only")
    square = np.zeros((size, *kernel.shape), kernel.dtype)
    square[(size - 1) // 2] = kernel  # the row that meets the only row of its images
    return square


def weights_of(
    name: str,
    layer: layers.Synapse,
    grid: IntegerGrid,
    step: Step | None,
    weight_bits: int,
    *,
    apart: bool,
) -> IntegerWeights:
    """Return the kernel of a layer in integers.

    Args:
      name: of the layer, for messages.
      layer: the layer.
      grid: of its input.
      step: of its kernel, if it is known.
      weight_bits: of a kernel on no grid.
      apart: whether channels have scales of their own.

    Raises:
      UserError: for weights that are no finite numbers.
    """
    kernel = np.asarray(layer.kernel[...].astype(layer.dtype), np.float64)
    rows = kernel.reshape(-1, kernel.shape[-1])
    if not (np.isfinite(rows).all() and np.isfinite(bias_of(layer)).all()):
        raise UserError(f"{name!r} has weights that are no finite numbers")
    least = np.abs(bias_of(layer)) / grid.unit / COARSEST_BIAS
    scale = _known_scale(step, apart=apart)
    if scale is None:
        scale = scales(rows if apart else rows.reshape(-1, 1), weight_bits)
    scale = np.maximum(scale, least if apart else least.max())
    scale = np.broadcast_to(scale, rows.shape[1:])
    return IntegerWeights(rows, np.rint(rows / scale), scale, grid)


def bias_of(layer: layers.Synapse) -> np.ndarray:
    """Return the bias of each channel, 0 where there is none, float64 `[O]`."""
    bias = 0.0 if layer.bias is None else layer.bias[...]
    return np.broadcast_to(np.asarray(bias, np.float64), layer.kernel.shape[-1:])


def _known_scale(step: Step | None, *, apart: bool) -> np.ndarray | None:
    """Return what a code of 1 stands for, `[O]` or `[1]`; None if that is not known, or not one."""
    if step is None or np.any(np.asarray(step.offset)):
        return None
    scale = (np.asarray(step.scale, np.float64) * np.asarray(step.unit, np.float64)).ravel()
    if not apart and scale.size > 1:
        least = scale.min(initial=np.inf, where=scale > 0)
        if not np.isfinite(least) or np.any(scale / least % 1):
            return None
        return np.array([least])  # powers of two, say: the others' codes are multiples of it
    return np.where(scale == 0, scale.max() or 1.0, scale)
