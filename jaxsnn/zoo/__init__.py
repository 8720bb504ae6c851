"""Compressed networks to take as they are: packed files of some kilobytes, each with its card."""

from jaxsnn.zoo.cards import Card, load, names

__all__ = ["Card", "load", "names"]
