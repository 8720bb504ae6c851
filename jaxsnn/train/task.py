"""What a network is trained to do: how samples become its input, and what is minimised."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Literal

import jax
import numpy as np
from jax import Array

from jaxsnn import losses
from jaxsnn.arrays import Number, check_range, check_whole, is_traced
from jaxsnn.compress import schedules
from jaxsnn.data import Dataset, Split
from jaxsnn.data import augment as augmentations
from jaxsnn.encode import Signal
from jaxsnn.errors import UserError
from jaxsnn.inputs import Inputs
from jaxsnn.network import Network, Output

__all__ = ["Guide", "Task"]

ReadoutLoss = Callable[[Array, Array], Array]
"""(read-out `[T, B, classes]`, labels `[B]`) -> mean over the samples `[]`; pure and traceable."""


@jax.tree_util.register_dataclass
@dataclass(frozen=True, eq=False)
class Guide:
    """A teacher that a network follows in training: its scores, its attention maps.

    The teacher sees the samples that its student sees, in evaluation mode. The loss is
    `losses.attention_guided`, in place of that of the labels alone.

    >>> from jaxsnn import models
    >>> guide = Guide(models.build("8-3", (4,), readout="current"), alpha=0.5)
    >>> Task(Inputs((4,), timesteps=2), guide=guide).guide.temperature
    4.0

    Attributes:
      teacher: a trained network with the same input.
      alpha: share of the teacher's scores in the loss, in [0, 1]; None leaves them out.
      temperature: of the scores, > 0.
      beta: weight of the attention maps, >= 0; None leaves them out.
      stages: layers whose attention maps are compared, in both networks.
      distance: between two maps.
      timesteps: T of the teacher, of an input that is the same at every step; None, and of any
        other input, that of the student.
      scores: the teacher's of all training samples, `[N, classes]`, where they are known
        beforehand (`train.guiding`); then the teacher is not asked, and may be None.
    """

    teacher: Network | None
    alpha: float | None = field(default=0.9, metadata={"static": True})
    temperature: float = field(default=4.0, metadata={"static": True})
    beta: float | None = field(default=None, metadata={"static": True})
    stages: tuple[str, ...] = field(default=(), metadata={"static": True})
    distance: Literal["mse", "l2"] = field(default="mse", metadata={"static": True})
    timesteps: int | None = field(default=None, metadata={"static": True})
    scores: Array | None = None

    def loss(
        self, output: Output, labels: Array, readout: Array, spikes: Mapping[str, Array]
    ) -> Array:
        """Return the guided loss of a student's output.

        Args:
          output: of the student.
          labels: `[B]`.
          readout: of the teacher on the same samples, `[T, B, classes]`.
          spikes: of its layers, where attention maps count.
        """
        attention: list[Any] = [None, None]
        if self.beta is not None:
            both = output.activity.spikes, spikes
            attention = [{stage: each[stage] for stage in self.stages} for each in both]
        return losses.attention_guided(
            output.readout, labels, readout, *attention, alpha=self.alpha,
            beta=self.beta, temperature=self.temperature, distance=self.distance,
        )  # fmt: skip


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class Task:
    """What is trained: how samples become input, and what is minimised. Knows no network.

        minimise  loss(read-out, labels) + spike_weight R        R spikes per neuron and step

    A value, compared by value: equal tasks share compiled programs. The loss is a mean over the
    samples, so neither micro-batches nor devices change a number beyond rounding.

    Attributes:
      inputs: encoding, normalisation, number of time steps (`Dataset.inputs`).
      loss: name of a read-out loss, "mse", "ce" or "ce_sum", or a function
        `(readout [T, B, classes], labels [B]) -> []`, best one defined in a module.
      spike_weight: weight of the mean firing rate (`losses.spike_count`), >= 0, may be traced.
      augment: changes of the training images: "none", "crop-flip", "alternate", "autoaugment"; of
        recordings "events", "event-shift" or "event-flip" (`data.augment.augmentation`).
      active: how many of the first time steps count, in [1, T], may be traced; None for all. The
        others are computed, but are in no score, loss, spike or operation count: the network is
        that of so many steps. A loss function of your own must be one of the mean over time.
      remat: steps of time in a chunk whose activations are computed again; None for no chunks.
      micro_batches: parts of a batch, computed one after the other to save memory.
      devices: that share a batch, of all processes as many each.
      guide: a teacher to follow; None for the labels alone.

    Raises:
      UserError: for a loss or an augmentation that is not known, and numbers out of range.

    Example:
      >>> from jaxsnn.inputs import Inputs
      >>> Task(Inputs((8, 8, 1), 4)) == Task(Inputs((8, 8, 1), 4), loss="mse")
      True
    """

    inputs: Inputs = field(metadata={"static": True})
    loss: str | ReadoutLoss = field(default="mse", metadata={"static": True})
    spike_weight: Number = field(default=0.0, metadata={"static": True})
    augment: augmentations.Name = field(default="none", metadata={"static": True})
    active: Number | None = field(default=None, metadata={"static": True})
    remat: int | None = field(default=None, metadata={"static": True})
    micro_batches: int = field(default=1, metadata={"static": True})
    devices: int = field(default=1, metadata={"static": True})
    guide: Guide | None = field(default=None)

    def __post_init__(self) -> None:
        if not isinstance(self.inputs, Inputs):
            raise UserError(
                f"inputs must be an Inputs, such as data.inputs(timesteps=4), found "
                f"{type(self.inputs).__name__}"
            )
        if not callable(self.loss):
            losses.readout_loss(self.loss)
        augmentations.augmentation(self.augment, pad=0)
        check_range("spike_weight", self.spike_weight, 0.0, np.inf, open_high=True)
        if self.active is not None:
            check_whole("active", self.active, 1, self.inputs.timesteps)
        if self.remat is not None:
            check_whole("remat", self.remat, 1, 1 << 20)
        for name in ("micro_batches", "devices"):
            check_whole(name, getattr(self, name), 1, 1 << 20)

    def prepare(self, key: Array, samples: Array, train: bool) -> Array | Signal:
        """Return the input of a network, `[T, B, ...]` or a constant signal.

        Args:
          key: random key, of the augmentation and the encoding.
          samples: uint8 `[B, *shape]`, or `[B, T, *shape]` of events.
          train: whether samples are augmented.
        """
        augment_key, code_key = jax.random.split(key)
        if train:
            border = self.inputs.shape[0] // 8  # 4 pixels for CIFAR, 8 for Tiny-ImageNet
            samples = augmentations.augmentation(self.augment, pad=border)(augment_key, samples)
        return self.inputs.prepare(code_key, samples)

    def in_turn(self, key: Array, samples: Array, rows: Array, epoch: Array) -> Array:
        """Return training samples as their epoch shows them, before `prepare`.

        Args:
          key: of the phase, the same in all epochs.
          samples: uint8 `[B, *shape]`.
          rows: which ones of the training set, `[B]`.
          epoch: int32 `[]`, from 0.
        """
        if self.augment != "alternate":
            return samples
        return augmentations.mirror_in_turn(key, samples, rows, epoch)

    def run(self, net: Network, x: Array | Signal, **mode: Any) -> Output:
        """Run a network; steps that do not count are weighted out of its read-out and record."""
        if self.active is None:
            return net(x, **mode)
        output = net(x, active=self.active, **mode)
        weights = schedules.time_weights(self.active, self.inputs.timesteps)
        return output._replace(readout=schedules.over_time(weights, output.readout))

    def objective(
        self,
        output: Output,
        labels: Array,
        x: Array | Signal,
        taught: Array | None = None,
        *,
        train: bool = True,
    ) -> Array:
        """Return what is minimised, `[]`; without the teacher's terms outside training.

        Args:
          output: of the network on a batch.
          labels: `[B]`.
          x: the batch, as the network took it.
          taught: the teacher's scores of it, `[B, classes]`, where its guide knows them.
          train: whether a teacher counts.
        """
        readout_loss = losses.readout_loss(self.loss) if isinstance(self.loss, str) else self.loss
        if self.guide is not None and train:
            teacher = self._taught(self.guide, x) if taught is None else (taught[None], {})
            value = self.guide.loss(output, labels, *teacher)
        else:
            readout = output.readout
            if self.loss == "ce_sum" and self.active is not None:
                readout = readout * (self.active / self.inputs.timesteps)  # a sum of fewer steps
            value = readout_loss(readout, labels)
        if is_traced(self.spike_weight) or self.spike_weight:
            value = value + self.spike_weight * losses.spike_count(output.activity)
        return value

    def _taught(self, guide: Guide, x: Array | Signal) -> tuple[Array, Mapping[str, Array]]:
        """Return what the teacher makes of a student's input: its read-out and its spikes."""
        if guide.teacher is None:
            raise UserError("the guide has scores and no teacher: name those of the batch, taught")
        if guide.timesteps is None or not (isinstance(x, Signal) and x.constant):
            output = self.run(guide.teacher, x)
        else:
            output = guide.teacher(replace(x, timesteps=guide.timesteps))
        return output.readout, output.activity.spikes

    def check(self, net: Network, split: Split, what: str = "split") -> None:
        """Refuse, in one line, a network or data that do not fit this task; nothing is computed.

        Args:
          net: the network.
          split: samples and labels.
          what: how the data are called, for the message.

        Raises:
          UserError: naming what was found and what is needed.
        """
        if isinstance(split, Dataset):
            raise UserError(f"{what} must be one split of the data set, such as data.train")
        if not (isinstance(split, tuple) and len(split) == 2):
            raise UserError(f"{what} must be (samples, labels), found {type(split).__name__}")
        samples, labels = split
        classes = self.check_samples(net, samples, what)
        if not hasattr(labels, "dtype"):
            found = type(labels).__name__
            raise UserError(f"the labels of {what} must be an array, found {found}")
        losses.check_labels(labels, len(samples), f"the labels of {what}")
        if is_traced(labels):
            return
        lowest, highest = int(np.min(labels)), int(np.max(labels))
        if lowest < 0:
            raise UserError(f"the labels of {what} must be at least 0, found {lowest}")
        if highest >= classes:
            raise UserError(
                f"the network ends in {classes} scores, but {what} has a label {highest}"
            )

    def check_samples(self, net: Network, samples: Array | np.ndarray, what: str) -> int:
        """Refuse a network or samples that do not fit this task; return the number of scores.

        Raises:
          UserError: naming what was found and what is needed.
        """
        if not isinstance(net, Network):
            raise UserError(
                f"net must be a Network (models.build, Network.of, Network.wrap), found "
                f"{type(net).__name__}"
            )
        if not hasattr(samples, "dtype"):
            found = type(samples).__name__
            raise UserError(f"the samples of {what} must be an array, found {found}")
        if np.shape(samples)[1:] != self.inputs.sample_shape:
            raise UserError(
                f"{what} has samples of the shape {np.shape(samples)[1:]}, but the task's inputs "
                f"are made for {self.inputs.sample_shape}"
            )
        if self.inputs.encoding != "events" and samples.dtype != np.uint8:
            raise UserError(
                f"{what} must have uint8 samples, 0 to 255, found {samples.dtype}: the task's "
                "inputs divide by 255 and normalise"
            )
        if not len(samples):
            raise UserError(f"{what} holds no samples")
        return int(jax.eval_shape(outline, net, self.inputs.abstract())[0].shape[-1])

    def at(self, timesteps: int) -> "Task":
        """Return the task with another number of time steps."""
        return replace(self, inputs=replace(self.inputs, timesteps=timesteps))


def as_task(task: Task) -> Task:
    """Return a task as it is.

    Raises:
      UserError: for anything else, so that swapped arguments are one line.
    """
    if not isinstance(task, Task):
        raise UserError(
            f"task must be a train.Task, such as Task(data.inputs(timesteps=4)), found "
            f"{type(task).__name__}"
        )
    return task


def outline(net: Network, x: Array | Signal) -> tuple[Array, dict[str, Array]]:
    """Return read-out and spikes: a function of the module, so that JAX finds its shapes once."""
    output = net(x)
    return output.readout, output.activity.spikes
