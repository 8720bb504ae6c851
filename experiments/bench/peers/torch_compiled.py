"""A network in PyTorch on one core, beside the C code of its integers; tuned as `torch_step` is.

A step is one pass over the problem's samples. `variant` is "" or "amp": products in bfloat16.
"""

import os

os.environ["OMP_NUM_THREADS"] = "1"
if hasattr(os, "sched_setaffinity"):
    os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})

import torch  # noqa: E402
import torch_step  # noqa: E402
from torch import nn  # noqa: E402

PACKAGES = ("torch",)


def build(problem, variant):
    """Return what `measure` times."""
    torch.set_num_threads(1)
    network = nn.Sequential(
        *torch_step.stack(problem, lambda layer: torch_step.Neurons(problem, layer, True))
    ).to(memory_format=torch.channels_last)
    x, _ = torch_step.batch_of(problem)
    timesteps = len(x)

    def scores():
        folded = x.flatten(0, 1)
        if folded.ndim == 4:
            folded = folded.contiguous(memory_format=torch.channels_last)
        with torch.no_grad(), torch.autocast("cpu", torch.bfloat16, enabled=variant == "amp"):
            return network(folded).unflatten(0, (timesteps, -1)).float().mean(0)

    def run(steps):
        for _ in range(steps):
            total = scores().sum()
        total.item()

    def check():
        found = scores().double()
        weights = torch.arange(1, found.numel() + 1).reshape(found.shape)
        return {"loss": (found * weights).sum().item(), "rate": found.abs().sum().item()}

    return {"run": run, "check": check}
