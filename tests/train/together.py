"""What several processes compute together, or one alone: the program of `test_distributed.py`.

python tests/train/together.py '{"coordinator": null, "devices": 1, "epochs": 2, "folder": "..."}'
"""

import json
import sys
from pathlib import Path

import jax
import numpy as np
import optax

from jaxsnn import compress, data, models, sweep, train, tree
from jaxsnn.cli.ending import exit_code

HOW = {"batch_size": 24, "show": False}
ADAM = optax.adam(2e-2)


def spikes(output):
    """Return the spikes of each hidden neuron, the mean over the samples."""
    return {name: each.mean(0) for name, each in output.activity.spikes.items()}


def logits(params, output):
    """Return the scores of each sample."""
    del params
    return output.readout.mean(0)


def lane(point, start):
    """Return what a lane of the sweep trains."""
    grid = compress.uniform_grid(point["bits"])
    return compress.quantized(ADAM, {"*/kernel": grid}), start


def outcome(devices, epochs, folder=None):
    """Train, score, prune, train on, evaluate and sweep; return all numbers by name."""
    digits = data.load("digits", limit=300)
    net = models.build("24-16-10", digits.shape, seed=0, norm=True, use_bias="readout")
    task = train.Task(digits.inputs(timesteps=3), devices=devices)
    checkpoints = train.Checkpoints(folder / "dense", keep=2) if folder else None
    net = train.fit(
        task, ADAM, net, digits.train, epochs=epochs, validation=digits.validation,
        checkpoints=checkpoints, **HOW,
    )  # fmt: skip
    if checkpoints:
        checkpoints.close()
    images, few = digits.train.images, {"batch_size": 24, "devices": devices}
    scores = train.over_batches(task, net, images, spikes, batches=2, **few).mean
    pruned, masks = compress.prune(net, {"*/kernel": compress.keep_largest(0.8)})
    pruned = train.fit(
        task, compress.pruned(ADAM, masks), pruned, digits.train, epochs=1, name="pruned", **HOW
    )
    found = train.evaluate(task, pruned, digits.test, batch_size=24)
    samples = list(train.each_batch(task, pruned, images, logits, batches=2, **few))
    swept = sweep.run(
        lane, {"bits": [2, 3, 4]}, task, pruned, digits, epochs=1,
        directory=folder and folder / "sweep", **HOW,
    )  # fmt: skip
    return tree.named_leaves(
        {
            "params": pruned.params, "stats": pruned.stats, "masks": masks, "scores": scores,
            "accuracy": np.float64(found.accuracy), "counts": found.counts.spikes,
            "samples": samples, "predicted": train.predict(task, pruned, images, batch_size=24),
            "swept": swept.products.params, "lanes": swept.metrics["test_accuracy"],
        }
    )  # fmt: skip


def main(coordinator, devices, epochs, folder, count=None, own=None, facts=None, timeout=30.0):
    """Run one process."""
    folder = Path(folder)
    with train.processes(coordinator, count, own, facts=facts, timeout=timeout):
        found = outcome(devices, epochs, folder)
        np.savez(folder / f"{jax.process_index()}-of-{jax.process_count()}.npz", **found)


if __name__ == "__main__":
    sys.exit(exit_code(lambda: main(**json.loads(sys.argv[1]))))
