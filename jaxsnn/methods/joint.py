"""The joint pipeline: channels, connections, bits, time steps and spikes, one after the other.

None of the four papers has it whole. A network holds more and more sets, and whatever is trained
later stays in all of them:

    channels      cut out the channels whose spike maps have the lowest rank (Wei et al. 2025,
                  https://arxiv.org/abs/2502.05905, Eq. 11 to 13; `compress.singular`)
    connections   keep the largest weights after an ADMM phase that pulls the others to zero, or at
                  once (Deng et al. 2019, https://arxiv.org/abs/1911.00822)
    bits          quantize what is left, with a scale for each channel (Wei et al. 2025, Eq. 9, 10)
                  or one for a layer (Deng et al. 2019, Eq. 13)
    timesteps     train on with fewer and fewer time steps while the accuracy on held-out images
                  stays (Chowdhury et al. 2021, https://arxiv.org/abs/2104.12528)
    spikes        add the mean firing rate to the loss (Deng et al. 2019)

Any order is possible, some can be left out, and neighbours can be trained together. The pipeline,
its order and all its numbers are ours; there is no published result to compare with.
"""

from dataclasses import dataclass, replace
from typing import Annotated, Any, Literal

import jax
import numpy as np
import optax

from jaxsnn import compress as sets
from jaxsnn import export, train, tree
from jaxsnn.compress import schedules
from jaxsnn.compress.projections import Projection
from jaxsnn.data import Dataset
from jaxsnn.errors import UserError
from jaxsnn.methods import admm, channels
from jaxsnn.methods.gains import with_gains
from jaxsnn.methods.result import CONTROL, Result, Trained, Trainer
from jaxsnn.network import Network
from jaxsnn.options import PerLayer, Range, Whole, checked
from jaxsnn.train import Fit, Task

__all__ = ["STAGES", "Options", "check", "compress", "groups"]

Stage = Literal["channels", "connections", "bits", "timesteps", "spikes"]
STAGES: tuple[Stage, ...] = ("channels", "connections", "bits", "timesteps", "spikes")
BITS = {"rescaled": (1, 8), "uniform": (2, 8), "pow2": (2, 6)}  # fewest and most of each levels


@checked
class Options:
    """Options of the joint pipeline."""

    stages: tuple[Stage, ...] = STAGES
    """What to compress, in this order: channels, connections, bits, timesteps, spikes."""
    together: tuple[Stage, ...] = ()
    """Stages next to each other in `stages` that are trained once, after the last of them."""
    channel_ratios: Annotated[PerLayer, Range(0, 1, open_high=True)] = 0.5
    """Share of channels to remove from each hidden layer: one number, or layer=number,..."""
    calibration_batches: Annotated[int, Whole(1)] = 5
    """Batches of training images on which channels are scored."""
    calibration_batch_size: Annotated[int, Whole(1)] = 128
    """Images in each of them."""
    channels_epochs: Annotated[int, Whole(0)] = 3
    """Epochs of training after channels were cut out."""
    sparsity: Annotated[float, Range(0, 1, open_high=True)] = 0.9
    """Share of the connections to remove, of those that are there when their stage begins."""
    allocation: Literal["root", "uniform"] = "root"
    """How to spread a sparsity: root (a layer keeps as the root of its size) or uniform."""
    pruning: Literal["admm", "magnitude"] = "admm"
    """Which connections go: the smallest after an ADMM phase, or the smallest at once."""
    pull_epochs: Annotated[int, Whole(1)] = 3
    """Epochs of the ADMM phase."""
    penalty: Annotated[float, Range(0, open_low=True, open_high=True)] = 1e-2
    """ADMM penalty rho at the start; it grows tenfold after each third of the phase."""
    dual_steps: Annotated[int, Whole(1)] = 10
    """Dual updates in each epoch of the ADMM phase."""
    connections_epochs: Annotated[int, Whole(0)] = 3
    """Epochs of training after connections were removed."""
    levels: Literal["rescaled", "uniform", "pow2", "ternary", "binary"] = "rescaled"
    """Levels of the weights: rescaled, or those of ADMM."""
    bits: Annotated[int, Whole(1, 8)] = 2
    """Bits of the levels rescaled, uniform and pow2."""
    per: Literal["leaf", "channel"] = "leaf"
    """One scale of ADMM's levels for each layer (leaf), or one for each output channel."""
    bits_epochs: Annotated[int, Whole(0)] = 3
    """Epochs of training with quantized weights."""
    timesteps_schedule: Annotated[tuple[int, ...], Whole(1)] = (4, 3, 2)
    """Fewer and fewer time steps, each tried from the weights of the one before."""
    tolerance: Annotated[float, Range(0, 1)] = 0.01
    """Validation accuracy that fewer time steps may lose against the first of that stage."""
    timesteps_epochs: Annotated[int, Whole(0)] = 2
    """Epochs of training with each number of time steps."""
    spike_weight: Annotated[float, Range(0, open_high=True)] = 1.0
    """Weight of the mean firing rate in the loss, from the stage spikes on."""
    spikes_epochs: Annotated[int, Whole(0)] = 3
    """Epochs of training with that weight."""
    learning_rate: Annotated[float, Range(0, open_low=True, open_high=True)] = 1e-3
    """First step size of each phase; it falls to 0 along a cosine."""
    control: bool = True
    """Train the dense network on for as many epochs, too, as the row "dense control"."""
    batch_size: Annotated[int, Whole(1)] = 100
    """Samples of one training step."""
    seed: Annotated[int, Whole(0, 2**31 - 1)] = 0
    """Seed of everything random."""

    def check(self) -> None:
        """Refuse stages and bits that do not go together."""
        _check_stages(self)
        if self.levels in BITS:
            low, high = BITS[self.levels]
            if not low <= self.bits <= high:
                raise UserError(
                    f"bits of levels {self.levels} must be in [{low}, {high}], found {self.bits}"
                )


def _check_stages(chosen: Options) -> None:
    if not chosen.stages:
        raise UserError(f"stages needs at least one of {', '.join(STAGES)}")
    for name, found, known in (
        ("stages", chosen.stages, STAGES),
        ("together", chosen.together, chosen.stages),
    ):
        if unknown := [stage for stage in found if stage not in known]:
            raise UserError(f"{name} {unknown[0]!r} is unknown; choose from {', '.join(known)}")
        if twice := [stage for stage in found if found.count(stage) > 1]:
            raise UserError(f"{name} has {twice[0]!r} twice")
    if len(chosen.together) == 1:
        raise UserError(f"together {chosen.together[0]!r} is alone: name two stages or more")
    places = sorted(map(chosen.stages.index, chosen.together))
    if places and places[-1] - places[0] >= len(places):
        raise UserError(
            f"together {' '.join(chosen.together)} must stand next to each other in stages "
            f"{' '.join(chosen.stages)}"
        )
    if "timesteps" in chosen.stages and not chosen.timesteps_schedule:
        raise UserError("timesteps_schedule needs at least one number of time steps")


DEFAULTS = Options()


def groups(chosen: Options) -> list[tuple[Stage, ...]]:
    """Return the stages in order, those that are trained together in one tuple.

    >>> groups(Options(stages=("bits", "channels", "spikes"), together=("channels", "bits")))
    [('bits', 'channels'), ('spikes',)]
    """
    found: list[tuple[Stage, ...]] = []
    for stage in chosen.stages:
        if stage in chosen.together and found and found[-1][0] in chosen.together:
            found[-1] += (stage,)
        else:
            found.append((stage,))
    return found


def compress(
    net: Network,
    task: Task,
    data: Dataset,
    options: Options = DEFAULTS,
    *,
    fit: Fit = train.fit,
) -> Result:
    """Compress a trained network stage by stage.

    Args:
      net: the dense network, trained.
      task: that it was trained for; its T is the first one.
      data: trained on, chosen by (`validation`), measured on (`test`).
      options: of the stages.
      fit: what trains; one that resumes, or `train.fit`.

    Returns:
      The product, a row for "dense", "dense control" and each stage, the last one "compressed";
      `found` has for each stage what was tried.

    Raises:
      UserError: if the stages do not suit the network or the data; before anything is trained.

    Example:
      >>> from jaxsnn import data, models
      >>> digits = data.load("digits", limit=200)
      >>> net = models.build("8C3-AP2-10", digits.shape, readout="current")
      >>> chosen = Options(stages=("connections",), pruning="magnitude", connections_epochs=0,
      ...                  control=False)
      >>> result = compress(net, Task(digits.inputs(timesteps=2)), digits, chosen)
      >>> [row.name for row in result.report.rows]
      ['dense', 'compressed']
    """
    check(net, task, data, options)
    pipeline = _Pipeline(options, Trainer(fit, data, options.batch_size, options.seed))
    held = _Held(net, net, task)
    networks: dict[str, Trained] = {}
    found: dict[str, Any] = {"stages": []}
    parts = groups(options)
    for group in parts:
        name = " and ".join(group)
        held, tried = pipeline.stage(name, group, held)
        row = "compressed" if group is parts[-1] else name
        networks[row] = Trained(held.seen, held.task)
        found["stages"].append({"stage": name, "row": row} | tried)
    before = {"dense": Trained(net, task)}
    if options.control:
        before[CONTROL] = Trained(pipeline.control(net, task, held.epochs), task)
    result = Result.of(before | networks, data, found, seed=options.seed)
    return replace(result, report=with_gains(result.report, found["stages"]))


def check(net: Network, task: Task, data: Dataset, options: Options) -> None:
    """Refuse stages that do not suit a network or its data, before anything is trained.

    The arguments are those of `compress`; the network may be untrained.

    Raises:
      UserError: naming the stage and what it lacks.
    """
    task.check(net, data.train, "data.train")
    trainer = Trainer(train.fit, data, options.batch_size, options.seed)
    _Pipeline(options, trainer).rehearse(_Held(net, net, task))


def _hidden(net: Network, task: Task) -> tuple[str, ...]:
    """Return the layers with weights but the read-out, in order."""
    flow = net.flow(task.inputs)
    return tuple(layer for layer in flow.order if layer not in flow.readout)


@dataclass(frozen=True, eq=False)
class _Held:
    """A network and the sets that it stays in."""

    seen: Network  # as it is evaluated
    free: Network  # whose weights the seen ones are made from; the same if not quantized
    task: Task
    masks: Any = None  # what may be non-zero; None if all may
    quantized: bool = False
    epochs: int = 0  # for which it was trained since it was dense


@dataclass(frozen=True, eq=False)
class _Pipeline:
    chosen: Options
    trainer: Trainer

    def stage(
        self, name: str, group: tuple[Stage, ...], held: _Held
    ) -> tuple[_Held, dict[str, Any]]:
        """Enter the sets of a stage, or of several together, and train; return what was tried."""
        if group == ("timesteps",):
            return self.shorten(held)
        for each in group:
            held = self.enter(each, held)
        epochs = sum(getattr(self.chosen, f"{each}_epochs") for each in group)
        return self.tune(name, held, epochs), {}

    def enter(self, stage: Stage, held: _Held) -> _Held:
        """Add the set of a stage to what is held, before any training."""
        if stage == "channels":
            held = self.cut_channels(held)
        elif stage == "connections":
            held = self.prune(held)
        elif stage == "bits":
            held = replace(held, quantized=True)
        elif stage == "timesteps":
            held = replace(held, task=held.task.at(self.chosen.timesteps_schedule[-1]))
        else:
            held = replace(held, task=replace(held.task, spike_weight=self.chosen.spike_weight))
        return replace(held, seen=self.see(held))

    def see(self, held: _Held) -> Network:
        """Return the network with its weights in the sets."""
        return sets.project(held.free, self.grids(held)) if held.quantized else held.free

    def cut_channels(self, held: _Held) -> _Held:
        """Remove the channels of the lowest scores for good, from weights and masks."""
        c = self.chosen
        ratios = self.ratios(held)
        scores = channels.scores(
            held.seen, held.task, self.trainer.data.train.images, ratios, seed=c.seed,
            batches=c.calibration_batches, batch_size=c.calibration_batch_size,
        )  # fmt: skip
        kept = channels.kept(scores, ratios)
        free = export.shrink(held.free, kept, inputs=held.task.inputs)
        left = held.masks
        if left is not None:
            whole = jax.tree.map(
                lambda mask, leaf: np.broadcast_to(np.asarray(mask, np.float32), leaf.shape),
                left, held.free.params,
            )  # fmt: skip
            masks = held.free.replace(params=whole)
            cut = export.shrink(masks, kept, inputs=held.task.inputs)
            left = jax.tree.map(lambda leaf: leaf != 0, cut.params)
        return replace(held, free=free, masks=left)

    def ratios(self, held: _Held) -> dict[str, float]:
        """Return layer -> share of its channels to remove, for all layers but the read-out."""
        return channels.shares(_hidden(held.free, held.task), self.chosen.channel_ratios)

    def prune(self, held: _Held) -> _Held:
        """Remove the smallest connections, after a phase that pulls them to zero or at once."""
        c = self.chosen
        recipe = self.sparse(held)
        if c.pruning == "admm":
            penalty = admm.penalty_schedule(self.trainer.steps(c.pull_epochs), initial=c.penalty)
            every = max(self.trainer.steps(1) // c.dual_steps, 1)
            adam = optax.adam(self.trainer.cosine(c.learning_rate, c.pull_epochs))
            held = self.train("connections pull", held, c.pull_epochs,
                              sets.pulled(adam, recipe, penalty, every=every))  # fmt: skip
        free, masks = sets.prune(held.free, recipe)
        return replace(held, free=free, masks=masks)

    def sparse(self, held: _Held) -> dict[str, Projection]:
        """Return the recipe of the connections that stay."""
        c = self.chosen
        return admm.prune_recipe(admm.sparsities(held.free, c.sparsity, c.allocation))

    def shorten(self, held: _Held) -> tuple[_Held, dict[str, Any]]:
        """Reduce the timesteps while the validation accuracy stays; return the tries too."""
        c, first = self.chosen, held.task.inputs.timesteps

        def go(held: _Held, timesteps: int) -> tuple[_Held, float]:
            shorter = replace(held, task=held.task.at(timesteps))
            tuned = self.tune(f"timesteps {timesteps}", shorter, c.timesteps_epochs)
            return tuned, self.validate(tuned)

        accuracy = self.validate(held)
        held, _, tried = schedules.shorten(
            go, held, accuracy, first, c.timesteps_schedule, tolerance=c.tolerance
        )
        begun = {"timesteps": first, "accuracy": accuracy, "accepted": True}
        return held, {"tried": [begun, *(each._asdict() for each in tried)]}

    def validate(self, held: _Held) -> float:
        """Return the accuracy on the held-out images."""
        return train.evaluate(held.task, held.seen, self.trainer.data.validation).accuracy

    def tune(self, name: str, held: _Held, epochs: int) -> _Held:
        """Train with every set in force that is held; return what is held then."""
        rate = self.trainer.cosine(self.chosen.learning_rate, epochs)
        return self.train(name, held, epochs, sets.Phase(optax.adam(rate)))

    def train(self, name: str, held: _Held, epochs: int, phase: sets.Phase) -> _Held:
        """Train by a phase inside the sets that are held."""
        inside = phase
        if held.quantized:
            inside = sets.quantized(phase.optimizer, self.grids(held), keep_free=True)
        elif held.masks is not None:
            inside = replace(phase, optimizer=sets.pruned(phase.optimizer, held.masks).optimizer)
        free = self.trainer(name, held.task, inside, held.free, epochs)
        held = replace(held, free=free, epochs=held.epochs + epochs)
        return replace(held, seen=self.see(held))

    def control(self, net: Network, task: Task, epochs: int) -> Network:
        """Train the dense network on for as many epochs as the product had."""
        adam = optax.adam(self.trainer.cosine(self.chosen.learning_rate, epochs))
        return self.trainer(CONTROL, task, adam, net, epochs)

    def grids(self, held: _Held) -> dict[str, Projection]:
        """Return the recipe of the quantized weights, zero outside the masks."""
        c = self.chosen
        if c.levels != "rescaled":
            return admm.quantize_recipe(c.levels, c.bits, masks=held.masks, per=c.per)
        if held.masks is None:
            return {"*/kernel": sets.rescaled(c.bits)}
        kept = tree.named_leaves(held.masks)
        kernels = tree.match({"*/kernel": True}, held.masks)
        return {name: sets.rescaled(c.bits, kept=kept[name]) for name in kernels}

    def rehearse(self, held: _Held) -> None:
        """Refuse what does not suit network or data, before anything is trained."""
        c, data = self.chosen, self.trainer.data
        if "timesteps" in c.stages:
            if held.task.inputs.encoding == "events":
                raise UserError(
                    f"the stage timesteps: the frames of {data.name} are cut when they are read; "
                    "leave that stage out and read fewer"
                )
            first, remat = held.task.inputs.timesteps, held.task.remat
            schedules.falling_timesteps(first, c.timesteps_schedule)
            if odd := [n for n in c.timesteps_schedule if remat and remat < n and n % remat]:
                raise UserError(f"remat {remat} does not divide {odd[0]} timesteps of the schedule")
            if "timesteps" not in c.together and not len(data.validation.labels):
                raise UserError(
                    "no images are held out to tell how few time steps are enough: hold some out "
                    "(validation), or leave timesteps out of stages"
                )
        if "channels" in c.stages:
            sizes = c.calibration_batches, c.calibration_batch_size
            channels.check_images(len(data.train.labels), *sizes)
            channels.rehearse(held.free, held.task.inputs, self.ratios(held))
        if "connections" in c.stages:
            jax.eval_shape(lambda params: sets.prune(params, self.sparse(held)), held.free.params)
