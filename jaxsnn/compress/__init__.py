"""Compression as geometry: a set to stay in, a way to hold weights there, a schedule."""

from jaxsnn.compress import masks, mixed, rewiring, schedules, singular, starting
from jaxsnn.compress.codes import Quantized, Step
from jaxsnn.compress.gradual import prune_gradually
from jaxsnn.compress.grids import (
    binary_grid,
    pow2_grid,
    symmetric_uniform,
    ternary_grid,
    uniform_grid,
)
from jaxsnn.compress.groups import n_of_m
from jaxsnn.compress.latent_weights import latent, snap
from jaxsnn.compress.phase import Phase, gradually_pruned, pruned, pulled, quantized, rewired
from jaxsnn.compress.projections import (
    Projection,
    Recipe,
    compose,
    keep_largest,
    on_mask,
    project,
    prune,
    quantize,
    restrict,
)
from jaxsnn.compress.rescaling import gradient_rule, rescaled, vanilla
from jaxsnn.compress.scales import learned_scales
from jaxsnn.compress.transforms import confine, pull
from jaxsnn.compress.widths import learned_bits

__all__ = [
    "Phase",
    "Projection",
    "Quantized",
    "Recipe",
    "Step",
    "binary_grid",
    "compose",
    "confine",
    "gradient_rule",
    "gradually_pruned",
    "keep_largest",
    "latent",
    "learned_bits",
    "learned_scales",
    "masks",
    "mixed",
    "n_of_m",
    "on_mask",
    "pow2_grid",
    "project",
    "prune",
    "prune_gradually",
    "pruned",
    "pull",
    "pulled",
    "quantize",
    "quantized",
    "rescaled",
    "restrict",
    "rewired",
    "rewiring",
    "schedules",
    "singular",
    "snap",
    "starting",
    "symmetric_uniform",
    "ternary_grid",
    "uniform_grid",
    "vanilla",
]
