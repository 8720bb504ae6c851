"""A network that can be run as it is: with what its input looks like, and how it is evaluated."""

from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import jax
from jax import Array

from jaxsnn.arrays import check_whole
from jaxsnn.data import Split
from jaxsnn.errors import UserError, shortened, shown
from jaxsnn.inputs import Inputs
from jaxsnn.network import Network, Output
from jaxsnn.train import Evaluation, Task, evaluation, parallel

__all__ = ["Model"]

LONGEST = 200  # characters of what a layer, or JAX, says of a signal


@dataclass(frozen=True, eq=False)
class Model:
    """A network, how its input is made, and what is known of it.

    Attributes:
      network: the network with its numbers.
      inputs: how samples become its input; None if that is not known.
      metadata: strings that were saved with it.
      written_by: releases of jaxsnn and jax that wrote its file.

    Example:
      >>> from jaxsnn import models
      >>> model = Model(models.build("6-3", (4,)), Inputs((4,), timesteps=2))
      >>> model.classes
      3
    """

    network: Network
    inputs: Inputs | None = None
    metadata: dict[str, str] = field(default_factory=dict)
    written_by: dict[str, str] = field(default_factory=dict)

    @property
    def task(self) -> Task:
        """Return the task of evaluating it, with the mean squared error as its loss.

        Raises:
          UserError: if the inputs are not known.
        """
        return Task(self.known_inputs())

    @cached_property
    def shapes(self) -> Output:
        """Return what a pass over one sample gives, with shapes in the place of arrays.

        Raises:
          UserError: if the layers do not fit the input or each other, or the inputs are not known.
        """
        inputs = self.known_inputs()
        try:
            found: Output = jax.eval_shape(lambda net, x: net(x), self.network, inputs.abstract())
        except (ArithmeticError, TypeError, ValueError) as error:
            line = shortened(str(error).strip().partition("\n")[0], LONGEST)
            shape = shown(inputs.shape)
            raise UserError(f"the layers do not fit an input {shape}: {line}") from error
        return found

    @property
    def classes(self) -> int:
        """Return the number of scores."""
        return int(self.shapes.readout.shape[-1])

    def known_inputs(self) -> Inputs:
        """Return `inputs`.

        Raises:
          UserError: if there are none.
        """
        if self.inputs is None:
            raise UserError("nothing is known of the network's input: save it with inputs=")
        return self.inputs

    def scores(self, samples: Any, *, batch_size: int = 100, seed: int = 0) -> Array:
        """Return the read-out's mean over time, `[N, classes]`.

        Args:
          samples: uint8 `[N, *shape]`, or `[N, T, *shape]` of events.
          batch_size: samples at a time.
          seed: of the encoding's random numbers.
        """
        task = self._task_for(batch_size)
        return evaluation.predict(task, self.network, samples, batch_size=batch_size, seed=seed)

    def evaluate(self, split: Split, *, batch_size: int = 100, seed: int = 0) -> Evaluation:
        """Run the network over a data set.

        Args:
          split: samples and labels.
          batch_size: samples at a time; random encodings draw by batch.
          seed: of the encoding's random numbers.
        """
        task = self._task_for(batch_size)
        return evaluation.evaluate(task, self.network, split, batch_size=batch_size, seed=seed)

    def _task_for(self, batch_size: int) -> Task:
        check_whole("batch_size", batch_size, 1, 1 << 20)
        return Task(self.known_inputs(), devices=parallel.most_devices(batch_size))
