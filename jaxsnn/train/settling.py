"""Running statistics of batch norms, measured anew for weights that no training step has seen.

Weights that were averaged, or whose network got other time steps, have norms whose running means
and variances belong to others. Here they settle on those of some batches: passes in training mode,
whose gradients nobody asks for.
"""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array, lax

from jaxsnn import timing
from jaxsnn.network import Network
from jaxsnn.train import demand, parallel
from jaxsnn.train.calibrate import choose
from jaxsnn.train.task import Task, as_task

__all__ = ["settle_norms"]

Tree = Any

BATCHES = 50  # of a norm's momentum 0.9 then half a percent of what it had before is left


def settle_norms(
    task: Task,
    net: Network,
    images: np.ndarray,
    *,
    batches: int = BATCHES,
    batch_size: int = 100,
    seed: int = 0,
) -> Network:
    """Return a network whose norms have the statistics of its present weights.

    Each batch moves them by the norms' momentum, as a training step does; nothing else changes.

    Args:
      task: how images become input, augmented as in training.
      net: the network; without norms it stays as it is.
      images: uint8 `[N, *shape]`, the training images.
      batches: how many.
      batch_size: images in each; no image comes twice.
      seed: of the choice of images, their augmentation and their encoding.

    Raises:
      UserError: if network or images do not fit the task, or there are fewer images than asked for.

    Example:
      >>> from jaxsnn import inputs, models
      >>> net = models.build("8-3", (16,), norm=True)
      >>> task = Task(inputs.Inputs((16,), timesteps=2))
      >>> images = np.full((4, 16), 200, np.uint8)
      >>> after = settle_norms(task, net, images, batches=1, batch_size=4)
      >>> bool((after.stats["dense1"]["norm"]["mean"] == net.stats["dense1"]["norm"]["mean"]).any())
      False
    """
    as_task(task).check_samples(net, images, "images")
    rows, key = choose(len(images), batches, batch_size, seed)
    if not net.has_norms:
        return net
    demand.check_evaluation(task, net, batch_size)
    with timing.activity("score"):
        arguments = parallel.replicate((net, jax.device_put(images[rows]), key), devices=1)
        return net.replace(stats=_settled(task, *arguments))


@jax.jit
def _settled(task: Task, net: Network, images: Array, key: Array) -> Tree:
    def batch(stats: Tree, numbered: tuple[Array, Array]) -> tuple[Tree, None]:
        i, samples = numbered
        input_key, network_key = jax.random.split(jax.random.fold_in(key, i))
        x = task.prepare(input_key, samples, True)
        keys = jax.random.split(network_key, samples.shape[0])
        return task.run(net.replace(stats=stats), x, train=True, key=keys).stats, None

    stats: Tree = lax.scan(batch, net.stats, (jnp.arange(images.shape[0]), images))[0]
    return stats
