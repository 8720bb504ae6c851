"""Run a NIR file in the framework it was written for, and save every spike of every layer.

`python read_nir.py TARGET FOLDER`, by an interpreter that has the framework. For each `NAME.nir` of
the folder, inputs `[T, B, ...]`, channels first, are read from `NAME.npy`, and `NAME.npz` gets the
spikes `[T, B, ...]` of every node called `*_neurons`. Nothing is changed in what the framework's
own importer makes of the file.
"""

import sys
from pathlib import Path

import nir
import numpy as np
import torch
from trial import begin


def load(target, graph, batch):
    """Return the module that the framework's importer makes of a graph."""
    if target == "snntorch":
        from snntorch.import_nir import import_from_nir

        return import_from_nir(graph)
    if target == "spikingjelly":
        from spikingjelly.activation_based.nir_exchange import import_from_nir

        return import_from_nir(graph)
    if target == "norse":
        import norse.torch

        return norse.torch.from_nir(graph, ignore_warnings=True)
    if target == "sinabs":
        import sinabs.nir

        return sinabs.nir.from_nir(graph, batch_size=batch)
    raise SystemExit(f"{target}: no such target")


def watch(module):
    """Return name -> list that grows by what the node puts out at each call."""
    seen = {}
    for name, part in module.named_modules():
        if name.endswith("_neurons"):
            seen[name] = []

            def note(_, __, output, steps=seen[name]):
                spikes = output[0] if isinstance(output, tuple) else output
                steps.append(spikes.detach().numpy().copy())

            part.register_forward_hook(note)
    return seen


def run(target, path, inputs):
    """Return the spikes `[T, B, ...]` of each layer."""
    timesteps, batch = inputs.shape[:2]
    # sinabs reads the constants of images only in a form that the standard's check refuses.
    module = load(target, nir.read(path, type_check=target != "sinabs"), batch)
    seen = watch(module)
    with torch.no_grad():
        if target == "sinabs":  # takes all steps at once, samples before steps
            module(torch.tensor(inputs).transpose(0, 1).flatten(0, 1))
            return {
                name: steps[0].reshape(batch, timesteps, *steps[0].shape[1:]).swapaxes(0, 1)
                for name, steps in seen.items()
            }
        state = None
        for step in torch.tensor(inputs):
            _, state = module(step, state)
    return {name: np.stack(steps) for name, steps in seen.items()}


if __name__ == "__main__":
    begin()
    target, folder = sys.argv[1:]
    for path in Path(folder).glob("*.nir"):
        np.savez(path.with_suffix(".npz"), **run(target, path, np.load(path.with_suffix(".npy"))))
