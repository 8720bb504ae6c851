"""jaxsnn: train spiking neural networks and make them small, as pure functions over pytrees."""

from jaxsnn import compress, encode, functional, losses, metrics, models, neurons, surrogate
from jaxsnn.errors import UserError

__version__ = "0.1.0"

__all__ = [
    "UserError",
    "compress",
    "encode",
    "functional",
    "losses",
    "metrics",
    "models",
    "neurons",
    "surrogate",
]
