"""Measure what this machine can do at best: matrix products and moving memory.

Run by its path, `python rates.py jax` or `python rates.py torch`. It prints one line of JSON: the
best rate of a product of two square float32 matrices in FLOP/s (2 n^3 for n x n), the same in
bfloat16, and the best rate of `x = 1.5 x` in bytes/s, read and written. The matrices are 2048 x
2048 on a CPU, 8192 x 8192 elsewhere, but smaller where a product takes long: without instructions
for it, a product in bfloat16 may take minutes. The best of 15, not the median: this is a limit.
"""

import json
import os
import sys
import time

STREAM = 64 << 20  # numbers that are read and written: 256 MiB


LONG = 0.1  # seconds: a product that takes as long is large enough


def best(function, times=15):
    """Return the least seconds that a call takes, after warming up."""
    for _ in range(3):
        function()
    taken = []
    for _ in range(times):
        start = time.perf_counter()
        function()
        taken.append(time.perf_counter() - start)
    return min(taken)


def product_rate(multiply, dtype, largest):
    """Return the FLOP/s of a product of square matrices, the largest that does not take long."""
    size = 256
    while True:
        seconds = best(multiply(dtype, size))
        if size == largest or seconds > LONG:
            return 2 * size**3 / seconds
        size *= 2


def in_jax():
    """Return (name of the device, size, product, scale); the last two are called and block."""
    import jax
    import jax.numpy as jnp

    size = 2048 if jax.default_backend() == "cpu" else 8192
    keys = jax.random.split(jax.random.key(0))
    product = jax.jit(lambda a, b: a @ b)
    in_place = jax.jit(lambda x: 1.5 * x, donate_argnums=0)
    x = jnp.ones(STREAM)

    def multiply(dtype, size):
        a, b = (jax.random.normal(key, (size, size), jnp.dtype(dtype)) for key in keys)
        return lambda: product(a, b).block_until_ready()

    def scale():
        nonlocal x
        x = in_place(x).block_until_ready()

    return jax.devices()[0].device_kind, size, multiply, scale


def in_torch():
    """Return the same for PyTorch."""
    import torch

    cuda = torch.cuda.is_available()
    device = "cuda" if cuda else "cpu"
    torch.set_num_threads(os.cpu_count() or 1)
    size = 8192 if cuda else 2048
    wait = torch.cuda.synchronize if cuda else lambda: None
    x = torch.ones(STREAM, device=device)

    def multiply(dtype, size):
        a, b = (torch.randn(size, size, device=device).to(getattr(torch, dtype)) for _ in "ab")
        out = torch.empty_like(a)

        def run():
            torch.mm(a, b, out=out)
            wait()

        return run

    def scale():
        x.mul_(1.5)
        wait()

    return torch.cuda.get_device_name() if cuda else "cpu", size, multiply, scale


def main():
    """Measure in the framework that is named, and print."""
    device, size, multiply, scale = {"jax": in_jax, "torch": in_torch}[sys.argv[1]]()
    result = {
        "device": device,
        "float32": product_rate(multiply, "float32", size),
        "bfloat16": product_rate(multiply, "bfloat16", size),
        "bytes": 2 * 4 * STREAM / best(scale),
    }
    print(json.dumps(result), flush=True)


if __name__ == "__main__":
    main()
