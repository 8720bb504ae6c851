"""The memory that a training or an evaluation needs at least, checked before its first step.

Bytes of arrays that must be there at the same time, `b` samples of `n_l` neurons in layer `l`:

    training      weights + state of the optimizer + max(input, T b sum_l n_l potentials)
    evaluation    max(input, T b max_l n_l potentials)

The backward pass starts from the potentials of all steps and layers; a forward pass needs those of
one layer. With `remat` the T of a training is that of a chunk, with micro-batches `b` a part of the
batch. What a compiler needs beside them is not known here.
"""

import math
from typing import Any

import jax

from jaxsnn import memory
from jaxsnn.compress.phase import Phase
from jaxsnn.network import Network
from jaxsnn.neurons.scanning import UNROLL_LIMIT
from jaxsnn.train.task import Task, outline

__all__: list[str] = []  # nothing here is promised to users

FLOAT = 4  # bytes


def check_training(task: Task, net: Network, phase: Phase, batch_size: int) -> None:
    """Raise if a training cannot fit the memory.

    Raises:
      UserError: with the estimate, what is free and what to change.
    """
    change = "take fewer time steps, a smaller batch, micro_batches"
    memory.check(
        f"training on {_problem(task, batch_size)}",
        of_training(task, net, phase, batch_size),
        change + ("" if net.has_norms else " or remat"),
    )


def check_evaluation(task: Task, net: Network, batch_size: int) -> None:
    """Raise if an evaluation cannot fit the memory.

    Raises:
      UserError: with the estimate, what is free and what to change.
    """
    memory.check(
        f"running on {_problem(task, batch_size)}",
        of_evaluation(task, net, batch_size),
        "take fewer time steps or a smaller batch",
    )


def of_training(task: Task, net: Network, phase: Phase, batch_size: int) -> float:
    """Return the bytes that a training needs beside the network that it starts from."""
    steps = min(task.remat or task.inputs.timesteps, task.inputs.timesteps)
    part = batch_size / task.micro_batches / _spread(task)
    state = memory.size_of(net.params)
    if state >= memory.SMALL:  # what follows the shapes of the weights costs a trace
        state += memory.size_of(jax.eval_shape(phase.optimizer.init, net.params))
    potentials = steps * part * sum(_neurons(task, net))
    return state + FLOAT * max(_input(task, batch_size), potentials)


def of_evaluation(task: Task, net: Network, batch_size: int) -> float:
    """Return the bytes that an evaluation needs beside the network."""
    steps = task.inputs.timesteps
    # Few steps are written out one after the other, and what is made of them at once.
    kept = steps if steps > UNROLL_LIMIT else 0
    potentials = kept * batch_size / _spread(task) * max(_neurons(task, net), default=0)
    return FLOAT * max(_input(task, batch_size), potentials)


def _problem(task: Task, batch_size: int) -> str:
    return f"batches of {batch_size:,} with {task.inputs.timesteps:,} time steps"


def _spread(task: Task) -> int:
    """Return over how many memories a batch is spread; the devices of a CPU share one."""
    return 1 if jax.default_backend() == "cpu" else task.devices


def _input(task: Task, batch_size: int) -> float:
    """Return the numbers of an input on one device."""
    steps = 1 if task.inputs.encoding == "direct" else task.inputs.timesteps
    return steps * batch_size / _spread(task) * math.prod(task.inputs.shape)


def _neurons(task: Task, net: Network) -> list[int]:
    """Return the neurons of each layer; none of a wrapped function, which keeps what it wants."""
    if not net.synapses:
        return []
    spikes: dict[str, Any] = jax.eval_shape(outline, net, task.inputs.abstract())[1]
    return [math.prod(each.shape[1:]) for each in spikes.values()]
