"""Leaves in the forms of older files, which are read and no longer written."""

import numpy as np

from jaxsnn.coding import bitstream, groups
from jaxsnn.coding.forms import MAX_WIDTH, OLD, code_bits
from jaxsnn.coding.levels import grid_of
from jaxsnn.coding.writing import ulp_width


def parts_of(form, leaf, known=None):
    """Return the parts of a leaf in an older form that can hold it."""
    weights = np.asarray(leaf, np.float32) + np.float32(0)
    flat, grid, parts = weights.ravel(), grid_of(weights, known), {}
    stored = flat != 0
    if "bitmap" in OLD[form]:
        parts["bitmap"] = np.packbits(stored)
    elif "gaps" in OLD[form]:
        width = bitstream.gap_size(stored)[1]
        parts = {"gap_width": np.uint8([width]), "gaps": bitstream.pack_gaps(stored, width)}
    elif "patterns" in OLD[form]:
        found = groups.search(weights != 0)
        stored, parts = found.marks, found.parts
    else:
        stored = np.full(flat.size, True)
    if "codebook" in OLD[form]:
        codebook, codes = np.unique(flat[stored], return_inverse=True)
        return parts | {
            "codebook": codebook,
            "codes": bitstream.pack(codes, code_bits(codebook.size)),
        }
    if "values" in OLD[form]:
        return parts | {"values": flat[stored]}
    return parts | on_grid(form, grid, stored, np.any(flat[stored] == 0))


def on_grid(form, grid, stored, zeros):
    """Return the parts that are codes of a grid."""
    levels = grid.levels[stored]
    if "gamma" in OLD[form]:
        codes = bitstream.pack((levels + 2**grid.bits - 1) // 2, grid.bits)
        return {"gamma": grid.scale, "width": np.uint8([grid.bits]), "codes": codes}
    if "widths" in OLD[form]:
        each = np.where(stored, np.resize(grid.widths, stored.size), 0)
        packed = [
            bitstream.pack(grid.levels[each == b] + 2 ** (b - 1), b)
            for b in range(1, MAX_WIDTH + 1)
        ]
        widths = grid.widths.astype(np.uint8)
        codes = np.concatenate(packed)
        return {"scale": grid.scale, "unit": grid.unit, "widths": widths, "codes": codes}
    span = grid.whole if zeros else grid.others
    parts = {"scale": grid.scale, "unit": grid.unit, "low": np.int16([span.low])}
    parts["grid"] = np.uint8([span.stride, span.width, grid.bits])
    parts["codes"] = bitstream.pack(span.codes(levels), span.width)
    if "ulps" in OLD[form]:
        width = ulp_width(grid.ulps)
        packed = bitstream.pack(grid.ulps.ravel() + 2 ** (width - 1), width)
        parts["ulps"] = np.concatenate([np.uint8([width]), packed])
    return parts
