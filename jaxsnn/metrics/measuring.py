"""Evaluate networks and report on them: the functions `measure` and `compare`."""

from jaxsnn import timing, train
from jaxsnn.data import Split
from jaxsnn.errors import UserError
from jaxsnn.metrics.report import Comparison, Report
from jaxsnn.network import Network

__all__ = ["compare", "measure"]


def measure(
    task: train.Task,
    net: Network,
    split: Split,
    *,
    name: str = "network",
    seed: int | None = None,
    file_bytes: int | None = None,
    batch_size: int = 100,
) -> Report:
    """Evaluate a network on a data set and report what it is worth and what it costs.

    Random input spikes are drawn with the seed 0, so that networks are compared on the same ones.

    Args:
      task: how samples become input; it says T.
      net: the network.
      split: the images and their labels.
      name: of the report's row.
      seed: of the run that trained the network, written in the row; nothing is drawn from it.
      file_bytes: size of the packed file, bytes.
      batch_size: samples at a time.

    Raises:
      UserError: if network or data do not fit the task.

    Example:
      >>> import numpy as np
      >>> from jaxsnn import data, inputs, models
      >>> split = data.Split(np.full((4, 16), 200, np.uint8), np.zeros(4, np.int32))
      >>> task = train.Task(inputs.Inputs((16,), timesteps=2))
      >>> measure(task, models.build("64-10", (16,), seed=0), split).timesteps
      2
    """
    with timing.activity("score"):
        found = train.evaluate(task, net, split, batch_size=batch_size)
        return Report.of(name, net, found, seed=seed, file_bytes=file_bytes)


def compare(task: train.Task, split: Split, **networks: Network) -> Comparison:
    """Evaluate networks on one data set, one row each; ratios are against the first.

    Args:
      task: how samples become input.
      split: the images and their labels.
      **networks: name of the row -> network, the baseline first.

    Raises:
      UserError: if no network is given, or one does not fit the task.

    Example:
      >>> import numpy as np
      >>> from jaxsnn import compress, data, inputs, models
      >>> split = data.Split(np.full((4, 16), 200, np.uint8), np.zeros(4, np.int32))
      >>> dense, task = models.build("64-10", (16,)), train.Task(inputs.Inputs((16,), timesteps=2))
      >>> pruned, _ = compress.prune(dense, {"*/kernel": compress.keep_largest(0.5)})
      >>> [row.density for row in compare(task, split, dense=dense, pruned=pruned).rows]
      [1.0, 0.5]
    """
    if not networks:
        raise UserError("networks: none was given; pass them by name, as dense=net")
    return Comparison(tuple(measure(task, net, split, name=name) for name, net in networks.items()))
