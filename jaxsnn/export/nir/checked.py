"""The fields of a NIR graph, checked before anything is made of them.

The package `nir` hands over whatever a file has: a text where weights should be, numbers that are
not finite, a stride of 0. Here each field that the reader looks at is checked by a row of a table;
what a node means, and whether a layer computes it, is the reader's business.
"""

from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np

from jaxsnn import errors
from jaxsnn.errors import UserError
from jaxsnn.export.nir.dialects import DIALECTS

__all__ = ["check_nodes", "said_by", "shown"]

LARGEST = float(np.finfo(np.float32).max)
SIDE = 1 << 31  # no axis is as long


class Numbers(NamedTuple):
    """What a field may hold."""

    what: str  # for the message
    low: float = -LARGEST
    high: float = LARGEST
    ndim: int | None = None  # None for any
    whole: bool = False
    word: bool = False  # whether a text is allowed, too
    optional: bool = False  # whether nothing is allowed, too

    def fits(self, value: Any) -> bool:
        """Return whether the value is an array of such numbers, or a word."""
        if (self.word and isinstance(value, str | bytes)) or (self.optional and value is None):
            return True
        try:
            array = np.asarray(value)
        except ValueError:  # lists of several lengths
            return False
        if array.dtype.kind not in "biuf" or array.size == 0 or self.ndim not in (None, array.ndim):
            return False
        inside = bool(np.all((array >= self.low) & (array <= self.high)))  # NaN is not
        return inside and (not self.whole or bool(np.all(array == np.floor(array))))


NUMBERS = Numbers("finite numbers")
POSITIVE = Numbers("finite numbers above 0", low=float(np.finfo(np.float32).tiny))
SIZES = Numbers("whole numbers from 1 on", low=1, high=SIDE, whole=True)
MATRIX = Numbers("a matrix of finite numbers", ndim=2)
FILTERS = Numbers("finite numbers with 4 axes", ndim=4)
BIAS = Numbers("one finite number for each output")
RESET = NUMBERS._replace(optional=True)  # files of older releases do not say it
BORDER = Numbers("whole numbers from 0 on", low=0, high=SIDE, whole=True)
CONVOLUTION = {
    "bias": BIAS,
    "stride": SIZES,
    "padding": BORDER._replace(word=True),
    "dilation": SIZES,
    "groups": SIZES._replace(ndim=0),
}
AXIS = Numbers("the number of an axis", low=-8, high=8, ndim=0, whole=True)
POOL = {"kernel_size": SIZES, "stride": SIZES, "padding": BORDER}

# Kind of node -> field -> what it may hold.
NODES: Mapping[str, Mapping[str, Numbers]] = {
    "Affine": {"weight": MATRIX, "bias": BIAS},
    "Linear": {"weight": MATRIX},
    "Conv1d": {"weight": FILTERS._replace(ndim=3, what="finite numbers with 3 axes")} | CONVOLUTION,
    "Conv2d": {"weight": FILTERS} | CONVOLUTION,
    "LIF": {
        "tau": POSITIVE,
        "r": NUMBERS,
        "v_leak": NUMBERS,
        "v_reset": RESET,
        "v_threshold": POSITIVE,
    },
    "CubaLIF": {
        "tau_syn": POSITIVE,
        "tau_mem": POSITIVE,
        "r": NUMBERS,
        "w_in": NUMBERS,
        "v_leak": NUMBERS,
        "v_reset": RESET,
        "v_threshold": POSITIVE,
    },
    "IF": {"r": NUMBERS, "v_reset": RESET, "v_threshold": POSITIVE},
    "Scale": {"scale": NUMBERS},
    "LI": {"tau": POSITIVE, "r": NUMBERS, "v_leak": NUMBERS},
    "I": {"r": NUMBERS},
    "AvgPool2d": POOL,
    "SumPool2d": POOL,
    "Flatten": {"start_dim": AXIS, "end_dim": AXIS},
}


def check_nodes(nodes: Mapping[str, Any]) -> None:
    """Check the fields of the nodes that the reader knows.

    Args:
      nodes: name -> node.

    Raises:
      UserError: naming the node and the field, what was found and what was expected.
    """
    for name, node in nodes.items():
        kind = type(node).__name__
        for field, expected in NODES.get(kind, {}).items():
            value = getattr(node, field, None)
            if not expected.fits(value):
                raise UserError(
                    f"node {shown(name)} ({kind}): field {field!r} is {shown(value)}, "
                    f"expected {expected.what}"
                )


def said_by(graph: Any, writer: str) -> tuple[str | None, float | None]:
    """Return the target and the step in seconds that a graph states, if it is from this writer.

    Raises:
      UserError: if they are none.
    """
    said = graph.metadata if isinstance(graph.metadata, dict) else {}
    if not isinstance(said.get("writer"), str) or said["writer"] != writer:
        return None, None
    target, dt = said.get("target"), said.get("dt")
    if not isinstance(target, str) or target not in DIALECTS:
        raise UserError(f"metadata of the NIR graph: target is {shown(target)}, unknown")
    if not POSITIVE._replace(ndim=0).fits(dt):
        raise UserError(f"metadata of the NIR graph: dt is {shown(dt)}, expected seconds above 0")
    return target, float(dt)  # type: ignore[arg-type]


def shown(value: Any) -> str:
    """Return a wrong value as a part of one line."""
    if isinstance(value, np.ndarray) and value.size > 4 and value.dtype.kind in "biuf":
        finite = "" if np.all(np.isfinite(value)) else ", not all finite"
        return f"{value.dtype}{list(value.shape)} from {value.min():g} to {value.max():g}{finite}"
    return errors.shown(value)
