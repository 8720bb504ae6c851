"""Two-dimensional convolution that is fast on a CPU: forward, backward, in loops, under `vmap`.

Where oneDNN is at hand (`jaxsnn.native`), each direction goes through it, unless the table
`MOST_WEIGHTS` says that XLA is faster. Elsewhere XLA's own convolution is near the processor's
limit for wide layers outside loops and falls off cliffs otherwise. Here each is gone around, on a
CPU only; other platforms take JAX's way.
Gains over XLA's form, measured on two cores with AVX-512:

| cliff                                        | here                                | gain    |
|----------------------------------------------|-------------------------------------|---------|
| gradients in a `lax.scan`, such as an epoch  | written as ordinary convolutions    | 15-55x  |
| gradient of the kernel over many samples     | sum over chunks that fit the cache  | 1.1-2x  |
| gradient of images with far fewer outputs    | a product, then a sum of columns    | 2.5x    |
| forward with 9 to 31 odd channels            | patches gathered, then a product    | 1.3-2x  |
| forward, 1 or 2 channels to fewer than 20    | outputs filled up to 20             | 3x      |
| under `vmap` with a kernel for each lane     | lanes in turn, no grouped operation |         |

Short images (bfloat16) are multiplied with rounded weights, the sums in float32 and rounded once;
the gradient of the kernel is not rounded. A CPU without such instructions computes in float32.

Layout: images `[N, H, W, C]`, kernels `[kh, kw, C, O]`.
"""

import math
from functools import partial

import jax
import jax.numpy as jnp
from jax import Array, lax
from jax.custom_batching import sequential_vmap

from jaxsnn.arrays import at_least_float32, is_short
from jaxsnn.errors import UserError
from jaxsnn.layers.grouped import convolve_groups
from jaxsnn.native import convolutions as onednn

__all__ = ["convolve"]

Borders = tuple[tuple[int, int], ...]  # zeros before and behind, of rows and of columns

LAYOUT = ("NHWC", "HWIO", "NHWC")
PADDINGS = ("SAME", "VALID")

CHUNK_BYTES = 512 * 1024  # of a chunk's largest array: half of a core's second-level cache
LEAST_SAMPLES = 8  # of a chunk; shorter products are slow
LEAST_OUTPUTS = 20  # of a thin convolution; below it XLA takes a slow path

# Of a kernel whose gradient oneDNN is faster at, by instruction set; a larger one goes through XLA
# if it has no stride. Measured by `experiments.bench --studies convolutions`: on AVX2 oneDNN takes
# 0.2 to 1 times XLA's time, but 1.05 to 1.7 times for the gradients of 590 thousand weights and
# more over 8 x 8 pixels and fewer. On AVX-512 and AMX whole steps were measured, which gain.
MOST_WEIGHTS = {"AVX2": 1 << 19, "AVX-512": math.inf, "AMX": math.inf}

# Of an output in bfloat16 on AMX below which the gradient of the kernel is a product of all
# patches: over 2 x 2, 4 x 4, 7 x 7 and 8 x 8 pixels it takes 0.1, 0.3, 0.6 and 0.9 of oneDNN's own
# time, over 14 x 14 three times as long. With fewer channels than pixels, gathering costs too much.
MOST_PIXELS = 64


def convolve(
    images: Array,
    kernel: Array,
    *,
    stride: int = 1,
    padding: str = "SAME",
    groups: int = 1,
    dtype: jax.typing.DTypeLike | None = None,
    bias: Array | None = None,
) -> Array:
    """Return the convolution (cross-correlation) of images with a kernel.

    Args:
      images: `[N, H, W, C]`.
      kernel: `[kh, kw, C / groups, O]`; rounded to the numbers of the images.
      stride: step in both directions, >= 1.
      padding: "SAME" (zeros around, as PyTorch's `(k-1)//2` for odd kernels) or "VALID".
      groups: into which channels are cut, each convolved by itself (`grouped`).
      dtype: of the result; that of the images if left out.
      bias: float32 `[O]` that is added to each output before it is rounded.

    Returns:
      `[N, H', W', O]`.

    Raises:
      UserError: for another padding.
    """
    if padding not in PADDINGS:
        raise UserError(f"padding {padding!r} is unknown; choose one of {', '.join(PADDINGS)}")
    borders = tuple(_border(size, padding) for size in kernel.shape[:2])
    found = jnp.dtype(dtype or images.dtype)
    if groups > 1:
        return _biased(convolve_groups(images, kernel, groups, stride, borders, found), bias)
    if jax.default_backend() == "cpu":
        outputs: Array = _convolve(stride, borders, found, images, kernel, bias)
        return outputs
    kernel = kernel.astype(images.dtype)
    if found != images.dtype:
        images, kernel = images.astype(found), kernel.astype(found)
    return _biased(_native(stride, borders, images, kernel), bias)


def _biased(outputs: Array, bias: Array | None) -> Array:
    if bias is None:
        return outputs
    return (at_least_float32(outputs) + bias[None, None, None]).astype(outputs.dtype)


def _border(size: int, padding: str) -> tuple[int, int]:
    return ((size - 1) // 2, size // 2) if padding == "SAME" else (0, 0)


def _native(stride: int, borders: Borders, images: Array, kernel: Array) -> Array:
    strides = (stride, stride)
    return lax.conv_general_dilated(images, kernel, strides, borders, dimension_numbers=LAYOUT)


@partial(jax.custom_vjp, nondiff_argnums=(0, 1, 2))
def _convolve(
    stride: int,
    borders: Borders,
    dtype: jnp.dtype,
    images: Array,
    kernel: Array,
    bias: Array | None,
) -> Array:
    apply = sequential_vmap(partial(_apply, stride, borders, dtype))
    outputs: Array = apply(images, kernel.astype(images.dtype), bias)
    return outputs


def _forward(
    stride: int,
    borders: Borders,
    dtype: jnp.dtype,
    images: Array,
    kernel: Array,
    bias: Array | None,
) -> tuple[Array, tuple[Array, Array, Array | None]]:
    return _convolve(stride, borders, dtype, images, kernel, bias), (images, kernel, bias)


def _backward(
    stride: int,
    borders: Borders,
    dtype: jnp.dtype,
    saved: tuple[Array, Array, Array | None],
    cotangent: Array,
) -> tuple[Array, Array, Array | None]:
    del dtype
    images, kernel, bias = saved
    to_images = partial(_gradient_of_images, stride, borders, images.shape[1:3])
    to_weights = partial(_gradient_of_weights, stride, borders, kernel.shape, bias is not None)
    d_kernel, d_bias = sequential_vmap(to_weights)(images, cotangent)
    cotangent = cotangent.astype(images.dtype)
    d_images = sequential_vmap(to_images)(cotangent, kernel.astype(images.dtype))
    return d_images, d_kernel.astype(kernel.dtype), d_bias


_convolve.defvjp(_forward, _backward)


# The form of each direction is chosen here and nowhere else.


def _by_onednn(images: Array) -> bool:
    return onednn.available(images.dtype) and _is_known(images)


def _in_reach(*arrays: Array) -> tuple[Array, ...]:
    """Return arrays as they are computed with: in float32 unless oneDNN takes shorter numbers."""
    return arrays if _by_onednn(arrays[0]) else tuple(map(at_least_float32, arrays))


def _is_known(images: Array) -> bool:
    """Return whether the number of samples is known; in a program for any batch size it is not."""
    return isinstance(images.shape[0], int)


def _apply(
    stride: int,
    borders: Borders,
    dtype: jnp.dtype,
    images: Array,
    kernel: Array,
    bias: Array | None,
) -> Array:
    images, kernel = _in_reach(images, kernel)
    if _by_onednn(images):
        rounded = dtype if is_short(images.dtype) else images.dtype
        return onednn.convolve(stride, borders, images, kernel, rounded, bias).astype(dtype)
    return _biased(_by_xla(stride, borders, images, kernel), bias).astype(dtype)


def _by_xla(stride: int, borders: Borders, images: Array, kernel: Array) -> Array:
    channels, outputs = kernel.shape[2:]
    if _is_known(images) and stride == 1 and 8 < channels < 32 and channels % 8 and outputs < 64:
        return _by_patches(borders, images, kernel)
    if channels <= 2 and outputs < LEAST_OUTPUTS:
        filled = jnp.pad(kernel, ((0, 0), (0, 0), (0, 0), (0, LEAST_OUTPUTS - outputs)))
        return _native(stride, borders, images, filled)[..., :outputs]
    return _native(stride, borders, images, kernel)


def _gradient_of_images(
    stride: int, borders: Borders, size: tuple[int, ...], cotangent: Array, kernel: Array
) -> Array:
    dtype = cotangent.dtype
    cotangent, kernel = _in_reach(cotangent, kernel)
    if _by_onednn(cotangent):
        return onednn.gradient_of_images(stride, borders, size, cotangent, kernel).astype(dtype)
    return _images_by_xla(stride, borders, size, cotangent, kernel).astype(dtype)


def _images_by_xla(
    stride: int, borders: Borders, size: tuple[int, ...], cotangent: Array, kernel: Array
) -> Array:
    # An ordinary convolution visits every pixel of the images, patches every output.
    if math.prod(size) > 1.5 * math.prod(cotangent.shape[1:3]):
        return _sum_of_columns(stride, borders, size, cotangent, kernel)
    full = _spread(stride, borders, size, kernel.shape[:2], cotangent)
    flipped = jnp.flip(kernel, (0, 1)).transpose(0, 1, 3, 2)
    back = tuple(
        (k - 1 - low, k - 1 - high)
        for k, (low, high) in zip(kernel.shape[:2], borders, strict=True)
    )
    return _native(1, back, full, flipped)


def _gradient_of_weights(
    stride: int,
    borders: Borders,
    shape: tuple[int, ...],
    biased: bool,
    images: Array,
    cotangent: Array,
) -> tuple[Array, Array | None]:
    """Return the gradients of the kernel and of the bias, whose sums are of nothing rounded."""
    exact, (images, cotangent) = cotangent, _in_reach(images, cotangent.astype(images.dtype))
    if _by_onednn(images) and _are_few(cotangent):
        found = onednn.gradient_of_kernel_by_patches(stride, borders, shape, images, cotangent)
    elif _by_onednn(images) and _is_faster(stride, shape):
        by_onednn = partial(onednn.gradient_of_kernel, stride, borders, shape, images, cotangent)
        if biased and exact.dtype == cotangent.dtype:
            return by_onednn(biased=True)
        found = by_onednn()[0]
    else:
        images, cotangent = map(at_least_float32, (images, cotangent))
        found = _kernel_by_xla(stride, borders, shape, images, cotangent)
    return found, at_least_float32(exact).sum((0, 1, 2)) if biased else None


def _are_few(cotangent: Array) -> bool:
    """Return whether outputs have so few pixels that patches and a product are faster."""
    pixels, channels = math.prod(cotangent.shape[1:3]), cotangent.shape[-1]
    few = pixels <= min(MOST_PIXELS, channels)
    return few and is_short(cotangent.dtype) and onednn.instructions() == "AMX"


def _is_faster(stride: int, shape: tuple[int, ...]) -> bool:
    """Return whether oneDNN is faster than XLA at the gradient of a kernel of a shape."""
    return stride > 1 or math.prod(shape) <= MOST_WEIGHTS[onednn.instructions()]


def _kernel_by_xla(
    stride: int, borders: Borders, shape: tuple[int, ...], images: Array, cotangent: Array
) -> Array:
    def gradient(images: Array, cotangent: Array) -> Array:
        full = _spread(stride, borders, images.shape[1:3], shape[:2], cotangent)
        columns, errors = lax.optimization_barrier(
            (images.transpose(3, 1, 2, 0), full.transpose(1, 2, 0, 3))
        )
        return _native(1, borders, columns, errors).transpose(1, 2, 0, 3)

    images, cotangent = (_chunks(x, cotangent) for x in (images, cotangent))
    if len(images) == 1:
        return gradient(images[0], cotangent[0])
    start = jnp.zeros(shape, images.dtype)
    add = lambda sums, x: (sums + gradient(*x), None)  # noqa: E731
    total: Array = lax.scan(add, start, (images, cotangent))[0]
    return total


def _spread(
    stride: int, borders: Borders, size: tuple[int, ...], taps: tuple[int, ...], cotangent: Array
) -> Array:
    """Undo the stride: a strided convolution is one of stride 1 of which some outputs were kept."""
    padded = [n + sum(border) for n, border in zip(size, borders, strict=True)]
    used = [(n - 1) * stride + k for n, k in zip(cotangent.shape[1:3], taps, strict=True)]
    spare = [p - u for p, u in zip(padded, used, strict=True)]
    zero = jnp.zeros((), cotangent.dtype)
    return lax.pad(cotangent, zero, [(0, 0, 0), *((0, s, stride - 1) for s in spare), (0, 0, 0)])


def _by_patches(borders: Borders, images: Array, kernel: Array) -> Array:
    """Convolve as one product of all patches of the images with the kernel."""
    rows, columns, _, outputs = kernel.shape
    images = jnp.pad(images, ((0, 0), *borders, (0, 0)))
    height, width = images.shape[1] - rows + 1, images.shape[2] - columns + 1

    def product(images: Array) -> Array:
        patches = [
            images[:, i : i + height, j : j + width] for i in range(rows) for j in range(columns)
        ]
        joined: Array = lax.optimization_barrier(jnp.concatenate(patches, -1))
        return joined @ kernel.reshape(-1, outputs)

    size = jax.ShapeDtypeStruct((len(images), height, width, kernel[..., 0].size), images.dtype)
    found: Array = lax.map(product, _chunks(images, size))
    return found.reshape(-1, height, width, outputs)


def _sum_of_columns(
    stride: int, borders: Borders, size: tuple[int, ...], cotangent: Array, kernel: Array
) -> Array:
    """Return the gradient of the images: every output's patch, each added to where it came from."""
    rows, columns, channels, outputs = kernel.shape
    _, height, width, _ = cotangent.shape
    padded = [n + sum(border) for n, border in zip(size, borders, strict=True)]
    across = kernel.transpose(3, 1, 0, 2).reshape(outputs, -1)  # [O, kw kh C]

    def gradient(cotangent: Array) -> Array:
        n = len(cotangent)
        patches: Array = lax.optimization_barrier(cotangent @ across)
        patches = patches.reshape(n, height, width, columns, rows * channels)
        wide = jnp.zeros((n, height, padded[1], rows * channels), cotangent.dtype)
        for j in range(columns):
            wide = wide.at[:, :, j : j + stride * width : stride].add(patches[..., j, :])
        wide = wide.reshape(n, height, padded[1], rows, channels)
        images = jnp.zeros((n, *padded, channels), cotangent.dtype)
        for i in range(rows):
            images = images.at[:, i : i + stride * height : stride].add(wide[..., i, :])
        (top, _), (left, _) = borders
        return images[:, top : top + size[0], left : left + size[1]]

    largest = (len(cotangent), height, width, kernel[..., 0].size)
    chunks = _chunks(cotangent, jax.ShapeDtypeStruct(largest, cotangent.dtype))
    images: Array = lax.map(gradient, chunks)
    return images.reshape(-1, *size, channels)


def _chunks(array: Array, largest: Array | jax.ShapeDtypeStruct) -> Array:
    """Cut the samples into equal chunks, `[chunks, n, ...]`; `largest` is an array that decides."""
    samples = len(array)
    enough = CHUNK_BYTES / (largest.size * largest.dtype.itemsize / samples)
    least = max(enough, LEAST_SAMPLES)
    size = next((n for n in range(1, samples) if samples % n == 0 and n >= least), samples)
    return array.reshape(samples // size, size, *array.shape[1:])
