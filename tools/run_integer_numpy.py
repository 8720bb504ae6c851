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


def leak(part, u, of=""):
    """Return what is left after a step."""
    return part[f"{of}keep"] * u + (part[f"{of}factor"] * u >> part[f"{of}right"])


def neurons(part, stage, x, before, u, s):
    """Return what neurons carry after a step, potential and second state, and the output."""
    reset, kind, first, step = map(stage.get, ("reset", "second", "fires_first", "shortcut_stride"))
    rises = kind == "adaptation"  # the threshold does, by the second state
    on, theta = u - s * rises >= part["level"], part["theta"] + s * rises
    drive = x @ part["kernel"] if x.ndim == 2 else convolve(x, part["kernel"], stage)
    drive = (drive << part["shift"]) + part["bias"] + np.dot(on, part.get("recurrent", 0))
    drive += before[:, ::step, ::step][..., part["sources"]] * part["weight"] if step else 0
    u = np.where(on & (reset == "hard"), 0, u - theta * on * (reset == "soft"))
    u = leak(part, u) - theta * on * (reset == "soft_undecayed")  # a read-out has no reset
    now = leak(part, s, "second_") + part["second_jump"] * on + drive * (not rises) if kind else s
    u, s = u + {"current": now, "delayed": s}.get(kind, drive), now
    return (u, s), u if reset is None else (on if first else u - s * rises >= part["level"]) * 1


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
                (memory[i], x), before = neurons(part, stage, x, before, *memory.get(i, (0, 0))), x
            elif does in ("sum", "max"):
                x = getattr(windows(x, size, size), does)((-2, -1))
            else:
                x = x.reshape(len(x), size, -1).sum(-1) if does == "vote" else x.reshape(len(x), -1)
        outputs.append(x)
    return np.stack(outputs)


if __name__ == "__main__":
    print(run(sys.argv[1], np.load(sys.argv[2])).sum(0))
