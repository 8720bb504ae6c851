"""Accuracy when a network sees each image both ways round: twice the work of a decision."""

import numpy as np

from jaxsnn.data import Split
from jaxsnn.errors import UserError
from jaxsnn.network import Network
from jaxsnn.train.evaluation import BATCH, predict
from jaxsnn.train.task import Task, as_task

__all__ = ["mirrored_accuracy"]


def mirrored_accuracy(task: Task, net: Network, split: Split, *, batch_size: int = BATCH) -> float:
    """Return the accuracy of the mean of two scores, of each image and of its mirror image.

    Spikes and operations of such a decision are those of two passes.

    >>> from jaxsnn import data, models
    >>> digits = data.load("digits", limit=100)
    >>> net, task = models.build("8-10", digits.shape), Task(digits.inputs(timesteps=1))
    >>> 0 <= mirrored_accuracy(task, net, digits.test) <= 1
    True

    Args:
      task: how images become input.
      net: the network.
      split: images `[N, H, W, C]` and labels.
      batch_size: images at a time.

    Raises:
      UserError: if network or images do not fit the task, or the samples are no images.
    """
    as_task(task).check(net, split)
    images, labels = (np.asarray(part) for part in split)
    if images.ndim != 4:
        raise UserError(f"only images [N, H, W, C] have a mirror image, found {images.shape}")
    mirrored = np.ascontiguousarray(images[:, :, ::-1])
    scores = predict(task, net, images, batch_size=batch_size)
    scores += predict(task, net, mirrored, batch_size=batch_size)
    return float((np.asarray(scores).argmax(-1) == labels).mean())
