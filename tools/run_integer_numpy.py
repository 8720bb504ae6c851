"""Run a network of integers with numpy alone: python run_integer_numpy.py FILE SAMPLES.npy

SAMPLES holds integers `[T, N, ...]`. The format is described in `jaxsnn/export/integer/saving.py`.
"""

import json
import sys

import numpy as np


def weigh(x, kernel, stride, padding):
    """Return the products of `[N, ..., I]` with a kernel `[I, O]` or `[k, k, I, O]`."""
    if kernel.ndim == 2:
        return x @ kernel
    k = len(kernel)
    if padding == "SAME":
        x = np.pad(x, ((0, 0), *[((k - 1) // 2, k // 2)] * 2, (0, 0)))
    view = np.lib.stride_tricks.sliding_window_view(x, (k, k), (1, 2))[:, ::stride, ::stride]
    return np.einsum("nhwcij,ijco->nhwo", view, kernel)


def pool(x, size, largest):
    """Return sums or maxima over windows; rows and columns left over are dropped."""
    n, h, w, c = x.shape
    x = x[:, : h // size * size, : w // size * size].reshape(n, h // size, size, w // size, size, c)
    return x.max((2, 4)) if largest else x.sum((2, 4))


def run(path, samples):
    """Return the read-out at every step, `[T, N, classes]`."""
    file = np.load(path)
    stages, memory, outputs = json.loads(file["stages"].tobytes())["stages"], {}, []
    for x in samples.astype(np.int64):
        block = x
        for i, stage in enumerate(stages):
            if stage["does"] == "flatten":
                x = x.reshape(len(x), -1)
            elif stage["does"] == "vote":
                x = x.reshape(len(x), stage["size"], -1).sum(-1)
            elif stage["does"] != "weigh":
                x = pool(x, stage["size"], stage["does"] == "max")
            else:
                x, block = neurons(file, i, stage, x, block, memory), x
        outputs.append(x)
    return np.stack(outputs)


def neurons(file, i, stage, x, block, memory):
    """Return what a layer gives at a step; `memory` has its potentials."""
    get = lambda name: file[f"{i}.{name}"].astype(np.int64)  # noqa: E731
    drive = (weigh(x, get("kernel"), stage["stride"], stage["padding"]) << get("shift")) + get(
        "bias"
    )
    if apart := stage["shortcut_stride"]:
        drive += block[:, ::apart, ::apart][..., get("sources")] * get("weight")
    u, reset = memory.get(i, np.zeros_like(drive)), stage["reset"]
    fired = (u >= get("level")) & (reset is not None)
    if f"{i}.recurrent" in file:
        drive += fired @ get("recurrent")
    u = u - get("theta") * fired if reset == "soft" else u
    u = get("keep") * u + (get("factor") * u >> get("right"))
    u = u * ~fired if reset == "hard" else u
    u = u - get("theta") * fired if reset == "soft_undecayed" else u
    memory[i] = u = u + drive
    return u if reset is None else (fired if stage["fires_first"] else u >= get("level")) * 1


if __name__ == "__main__":
    print(run(sys.argv[1], np.load(sys.argv[2])).sum(0))
