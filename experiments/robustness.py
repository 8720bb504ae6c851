"""How accuracy falls when the images are noisy."""

from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from experiments.common.problem import Network
from jaxsnn import data, train
from jaxsnn.encode import Signal
from jaxsnn.train.parallel import most_devices

BATCH_SIZE = 100


def noise_sweep(
    network: Network, split: data.Split, sigmas: Sequence[float], *, seeds: int
) -> np.ndarray:
    """Return the accuracies on images with Gaussian noise, `[seeds, sigmas]`.

        x -> x + sigma n,    n ~ Normal(0, 1) for each value

    on the normalised image, before it is encoded: random spikes of a value beyond +-1 come at every
    step. One compiled program serves all of a network's evaluations.

    Args:
      network: as trained.
      split: test images and their labels.
      sigmas: standard deviations, >= 0.
      seeds: draws of the noise, and of the input's spikes.

    References: Chowdhury et al. 2021, https://arxiv.org/abs/2104.12528 claim 1 to 4 points more for
    pruned networks; their noise is not known, this protocol is ours.
    """
    inputs = network.problem.inputs

    def prepare(key: Array, values: Array, training: bool) -> Array | Signal:
        del training
        return inputs.encode(jax.random.split(key)[1], values)

    task = train.Task(
        network.problem.net.apply, prepare, lambda output, labels: jnp.zeros(()),
        devices=most_devices(BATCH_SIZE),
    )  # fmt: skip
    clean = inputs.normalise(jnp.asarray(split.images))
    found = np.zeros((seeds, len(sigmas)))
    for seed in range(seeds):
        noise = jax.random.normal(jax.random.key(seed), clean.shape)
        for i, sigma in enumerate(sigmas):
            noisy = data.Split(np.asarray(clean + sigma * noise), split.labels)
            found[seed, i] = train.evaluate(
                task, network.params, network.stats, noisy, batch_size=BATCH_SIZE, seed=seed
            ).accuracy
    return found
