"""The three directions of a convolution through oneDNN, as functions inside of any JAX program.

They are the same numbers as XLA's up to the order of sums: products in the arrays' type, sums in
float32. Which direction of which shape goes this way is decided in `layers/convolution.py`.
"""

import contextlib
import os
from collections.abc import Iterator
from functools import cache
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from jaxsnn.errors import UserError
from jaxsnn.native import onednn
from jaxsnn.native.handlers import threads

__all__ = [
    "available",
    "convolve",
    "describe",
    "gradient_of_images",
    "gradient_of_kernel",
    "gradient_of_kernel_by_patches",
    "instructions",
    "missing",
    "off",
]

Borders = tuple[tuple[int, int], ...]  # zeros before and behind, of rows and of columns

_switched_off: list[bool] = []  # one entry for each open `off`


@contextlib.contextmanager
def off() -> Iterator[None]:
    """Trace with XLA's convolutions inside of the block: for programs that leave the process."""
    _switched_off.append(True)
    try:
        yield
    finally:
        _switched_off.pop()


def available(dtype: jax.typing.DTypeLike) -> bool:
    """Return whether oneDNN convolves arrays of a type here."""
    if _switched_off or _failure() is not None:
        return False
    if dtype == jnp.bfloat16:
        return onednn.instruction_set() >= onednn.AVX512
    return bool(dtype == jnp.float32)


def describe() -> str:
    """Return one line: which convolutions a program gets on this CPU, and why.

    Example:
      >>> from jaxsnn import native
      >>> native.describe().startswith(("convolutions: oneDNN", "convolutions: XLA"))
      True
    """
    if (failure := _failure()) is not None:
        return f"convolutions: XLA ({failure})"
    version = onednn.load().jaxsnn_onednn_version()
    return f"convolutions: oneDNN {version // 100}.{version % 100} ({instructions()})"


@cache
def instructions() -> str:
    """Return the widest instructions that oneDNN uses here: SSE, AVX2, AVX-512 or AMX."""
    widest = onednn.instruction_set()
    names = {onednn.AVX2: "AVX2", onednn.AVX512: "AVX-512", onednn.AMX: "AMX"}
    known = [bits for bits in names if bits & widest == bits]
    return names[max(known)] if known else "SSE"


@cache
def missing() -> str | None:
    """Return why oneDNN is not at hand, None if it is; JAX is not started by it."""
    if os.environ.get("JAXSNN_NATIVE") == "0":
        return "$JAXSNN_NATIVE is 0"
    try:
        onednn.load()
    except UserError as error:
        return str(error)
    return None


@cache
def _failure() -> str | None:
    if jax.default_backend() != "cpu":
        return f"the device is {jax.default_backend()}"
    if missing() is None and instructions() == "SSE":
        return "this processor has no AVX2, without which oneDNN was not measured"
    return missing()


def convolve(
    stride: int, borders: Borders, images: Array, kernel: Array,
    dtype: jax.typing.DTypeLike | None = None, bias: Array | None = None,
) -> Array:  # fmt: skip
    """Return the convolution of `[N, H, W, C]` with `[kh, kw, C / groups, O]`, and a bias `[O]`.

    Its sums are rounded to `dtype`, that of the images if left out.
    """
    shape = (len(images), *_size(stride, borders, images, kernel), kernel.shape[-1])
    groups = images.shape[-1] // kernel.shape[2]
    # An operand is needed where there is no bias.
    added = kernel if bias is None else bias.astype(jnp.float32)
    outputs: Array = _handler(
        "jaxsnn_convolve", jax.ShapeDtypeStruct(shape, dtype or images.dtype)
    )(images, kernel, added, biased=bias is not None, **_known(stride, borders, groups))
    return outputs


def gradient_of_images(
    stride: int, borders: Borders, size: tuple[int, ...], cotangent: Array, kernel: Array,
    groups: int = 1,
) -> Array:  # fmt: skip
    """Return the gradient of images of a size (H, W) from that of the outputs, `[N, H', W', O]`."""
    shape = (len(cotangent), *size, kernel.shape[2] * groups)
    images: Array = _handler("jaxsnn_to_images", jax.ShapeDtypeStruct(shape, cotangent.dtype))(
        cotangent, kernel, **_known(stride, borders, groups)
    )
    return images


def gradient_of_kernel(
    stride: int, borders: Borders, shape: tuple[int, ...], images: Array, cotangent: Array,
    *, biased: bool = False,
) -> tuple[Array, Array]:  # fmt: skip
    """Return the gradient of a kernel of a shape, from images and the gradient of the outputs.

    And that of the bias, `[O]`, undefined unless `biased`. Both are float32, whatever these are.
    """
    groups = images.shape[-1] // shape[2]
    results = [jax.ShapeDtypeStruct(each, jnp.float32) for each in (shape, shape[-1:])]
    kernel, bias = _handler("jaxsnn_to_kernel", results)(
        images, cotangent, biased=biased, **_known(stride, borders, groups)
    )
    return kernel, bias


def gradient_of_kernel_by_patches(
    stride: int, borders: Borders, shape: tuple[int, ...], images: Array, cotangent: Array
) -> Array:
    """Return the gradient of a kernel, in float32, from images and the gradient in bfloat16.

    All patches are laid out, a few megabytes at a time, and multiplied at once: over few pixels
    that is many times faster than oneDNN's own way.
    """
    result = jax.ShapeDtypeStruct(shape, jnp.float32)
    kernel: Array = _handler("jaxsnn_to_kernel_by_patches", result)(
        images, cotangent, **_known(stride, borders, 1)
    )
    return kernel


def _size(stride: int, borders: Borders, images: Array, kernel: Array) -> list[int]:
    return [
        (n + sum(border) - taps) // stride + 1
        for n, border, taps in zip(images.shape[1:3], borders, kernel.shape[:2], strict=True)
    ]


def _handler(name: str, results: Any) -> Any:
    return jax.ffi.ffi_call(name, results, vmap_method="sequential")


def _known(stride: int, borders: Borders, groups: int) -> dict[str, Any]:
    """Return the numbers that each function is told."""
    return {
        "stride": np.int64(stride),
        "borders": np.array(borders, np.int64).ravel(),
        "groups": np.int64(groups),
        "threads": np.int64(threads()),
    }
