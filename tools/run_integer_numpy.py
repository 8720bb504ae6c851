"""Run a network of integers with numpy alone: python run_integer_numpy.py FILE SAMPLES.npy

SAMPLES holds integers `[T, N, ...]`. The format is described in `jaxsnn/export/integer/saving.py`.
"""

import json
import sys

import numpy as np


def windows(x, k, step):
    """Return the windows of `[N, H, W, C]`, `[N, H / step, W / step, C, k, k]`."""
    return np.lib.stride_tricks.sliding_window_view(x, (k, k), (1, 2))[:, ::step, ::step]


def convolve(x, kernel, stage):
    """Return the convolution of `[N, H, W, I]`, or `[N, L, I]`, with a kernel `[k, k, I, O]`."""
    border = np.array([len(kernel) - 1, len(kernel)]) // 2 * (stage["padding"] == "SAME")
    x = np.pad(x.reshape(len(x), -1, *x.shape[-2:]), ((0, 0), border, border, (0, 0)))
    return np.einsum("nhwcij,ijco->nhwo", windows(x, len(kernel), stage["stride"]), kernel)


def neurons(part, stage, x, before, u):
    """Return the potentials after a step and the output; `before` is what a block adds."""
    drive = x @ part["kernel"] if x.ndim == 2 else convolve(x, part["kernel"], stage)
    drive = (drive << part["shift"]) + part["bias"]
    if apart := stage["shortcut_stride"]:
        drive += before[:, ::apart, ::apart][..., part["sources"]] * part["weight"]
    u = np.zeros_like(drive) if u is None else u
    fired, reset = u >= part["level"], stage["reset"]  # a read-out has no reset
    if "recurrent" in part:
        drive += fired @ part["recurrent"]
    u = np.where(fired & (reset == "hard"), 0, u - part["theta"] * fired * (reset == "soft"))
    u = part["keep"] * u + (part["factor"] * u >> part["right"]) + drive
    u = u - part["theta"] * fired * (reset == "soft_undecayed")
    return u, u if reset is None else (fired if stage["fires_first"] else u >= part["level"]) * 1


def run(path, samples):
    """Return the read-out at every step, `[T, N, classes]`."""
    file = {name: each.astype(np.int64) for name, each in np.load(path).items()}
    stages = json.loads(file["stages"].astype(np.uint8).tobytes())["stages"]
    memory, outputs, before = {}, [], None
    for x in samples.astype(np.int64):
        for i, stage in enumerate(stages):
            does, size = stage["does"], stage.get("size")
            if does == "weigh":
                part = {n.partition(".")[2]: a for n, a in file.items() if n.startswith(f"{i}.")}
                (memory[i], x), before = neurons(part, stage, x, before, memory.get(i)), x
            elif does in ("sum", "max"):
                x = getattr(windows(x, size, size), does)((-2, -1))
            else:
                x = x.reshape(len(x), size, -1).sum(-1) if does == "vote" else x.reshape(len(x), -1)
        outputs.append(x)
    return np.stack(outputs)


if __name__ == "__main__":
    print(run(sys.argv[1], np.load(sys.argv[2])).sum(0))
