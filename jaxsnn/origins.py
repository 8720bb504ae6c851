"""Where the channels of a signal come from: facts of a pass, made of tuples alone.

A channel is an entry of the last axis. Whoever cuts channels (`export.shrink`) has to know which of
them belong together: what a sum joins goes together, what stands side by side goes apart, behind a
flattening a channel is many entries, and through a function that nobody knows nothing is followed.
"""

from typing import NamedTuple

__all__ = ["Chosen", "Mixed", "Origin", "Own", "Side", "Sum", "Tiled"]


class Own(NamedTuple):
    """The channels of a layer's own neurons."""

    layer: str


class Sum(NamedTuple):
    """Channels that are added, each to the one in its place."""

    parts: tuple["Origin", ...]


class Side(NamedTuple):
    """Channels side by side."""

    parts: tuple["Origin", ...]
    widths: tuple[int, ...]


class Tiled(NamedTuple):
    """All channels of one pixel after those of another."""

    part: "Origin"
    pixels: int


class Chosen(NamedTuple):
    """Channels that a shortcut picks, and picks anew when some are gone; -1 for nothing."""

    part: "Origin"
    sources: tuple[int, ...]


class Mixed(NamedTuple):
    """What is no longer known by channel; `by` says who made it."""

    part: "Origin"
    by: str


Origin = Own | Sum | Side | Tiled | Chosen | Mixed | None  # None: what enters the network
