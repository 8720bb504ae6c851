"""Weights of PyTorch networks, in networks of ours."""

from jaxsnn.export.state_dict.filling import from_torch

__all__ = ["from_torch"]
