"""The joint pipeline at work: what is held between two stages, and what each of them adds to it."""

import contextlib
from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from jaxsnn import compress as sets
from jaxsnn import export, layers, train, tree
from jaxsnn.arrays import Number
from jaxsnn.compress import mixed, projections, schedules
from jaxsnn.compress.grids import Per
from jaxsnn.compress.projections import Projection
from jaxsnn.errors import UserError
from jaxsnn.export.whole import to_whole_numbers
from jaxsnn.methods import admm, channels, stages
from jaxsnn.methods.controls import file_bytes
from jaxsnn.methods.result import CONTROL, Trainer
from jaxsnn.models.variants import in_dtype
from jaxsnn.network import Network
from jaxsnn.options import recipe_of
from jaxsnn.train import Guide, Task
from jaxsnn.train.guiding import foreseen

__all__ = ["Held", "Pipeline", "hidden", "level_recipe"]

KERNELS = "*/kernel"
BYTE = 0.125  # of a bit


@dataclass(frozen=True, eq=False)
class Held:
    """A network and the sets that it stays in."""

    seen: Network  # as it is evaluated
    free: Network  # whose weights the seen ones are made from; the same if not quantized
    task: Task
    masks: Any = None  # what may be non-zero; None if all may
    quantized: bool = False
    widths: Mapping[str, Any] | None = None  # kernel -> bits of each channel, once learned
    epochs: int = 0  # for which it was trained since it was dense


@dataclass(frozen=True, eq=False)
class Pipeline:
    """The stages, on one data set.

    Attributes:
      chosen: how much of each.
      trainer: trains every phase.
      dense: the network that they start from, whose scores they may follow, and its task.
    """

    chosen: stages.Options
    trainer: Trainer
    dense: tuple[Network, Task]

    def stage(
        self, name: str, group: tuple[stages.Stage, ...], held: Held
    ) -> tuple[Held, dict[str, Any]]:
        """Enter the sets of a stage, or of several together, and train; return what was tried."""
        if group == ("timesteps",):
            return self.shorten(held)
        for each in group:
            held = self.enter(each, held)
        epochs = sum(getattr(self.chosen, f"{each}_epochs") for each in group)
        return self.tune(name, held, epochs), {}

    def enter(self, stage: stages.Stage, held: Held) -> Held:
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

    def see(self, held: Held) -> Network:
        """Return the network with its weights in the sets."""
        return sets.project(held.free, self.grids(held)) if held.quantized else held.free

    def packed(self, seen: Network) -> Network:
        """Return a network as it is packed: if asked, without what its scores do not need.

        Whatever it was trained with, its products are float32, the numbers of its C file. Channels
        that nobody hears are cut out, and norms folded into the neurons, so that a grid stays one;
        biases and thresholds are rounded in its units, if they have `constant_bits`.
        """
        if seen.synapses:
            seen = in_dtype(seen, jnp.float32)
        if not self.chosen.tidy:
            return seen
        with contextlib.suppress(UserError):  # where a layer would keep no channel, all stay
            seen = export.shrink(seen, inputs=self.dense[1].inputs)
        return self.folded(seen)

    def folded(self, seen: Network) -> Network:
        """Return a network without norms, its biases and thresholds of `constant_bits`."""
        if seen.has_norms:
            seen = export.fold_norms(seen, into="neuron")
        bits = self.chosen.constant_bits
        return seen if bits is None else to_whole_numbers(seen, bits)

    def bytes_of(self, held: Held) -> int:
        """Return the bytes of the whole file of what is held."""
        return file_bytes(self.packed(held.seen), held.task.inputs, self.trainer.data.name)

    def cut_channels(self, held: Held) -> Held:
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

    def ratios(self, held: Held) -> dict[str, float]:
        """Return layer -> share of its channels to remove, for all layers but the read-out."""
        return channels.shares(hidden(held.free, held.task), self.chosen.channel_ratios)

    def prune(self, held: Held) -> Held:
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

    def sparse(self, held: Held) -> dict[str, Projection]:
        """Return the recipe of the connections that stay."""
        c = self.chosen
        return admm.prune_recipe(admm.sparsities(held.free, c.sparsity, c.allocation))

    def shorten(self, held: Held) -> tuple[Held, dict[str, Any]]:
        """Reduce the timesteps while the validation accuracy stays; return the tries too."""
        c, first = self.chosen, held.task.inputs.timesteps

        def go(held: Held, timesteps: int) -> tuple[Held, float]:
            shorter = replace(held, task=held.task.at(timesteps))
            tuned = self.tune(f"timesteps {timesteps}", shorter, c.timesteps_epochs)
            return tuned, self.validate(tuned)

        accuracy = self.validate(held)
        held, _, tried = schedules.shorten(
            go, held, accuracy, first, c.timesteps_schedule, tolerance=c.tolerance
        )
        begun = {"timesteps": first, "accuracy": accuracy, "accepted": True}
        return held, {"tried": [begun, *(each._asdict() for each in tried)]}

    def validate(self, held: Held) -> float:
        """Return the accuracy on the held-out images."""
        return train.evaluate(held.task, held.seen, self.trainer.data.validation).accuracy

    def tune(self, name: str, held: Held, epochs: int) -> Held:
        """Train with every set in force that is held; return what is held then."""
        c = self.chosen
        rate = (c.bits_learning_rate if held.quantized else None) or c.learning_rate
        adam = optax.adam(self.trainer.cosine(rate, epochs))
        return self.train(name, held, epochs, sets.Phase(adam))

    def train(self, name: str, held: Held, epochs: int, phase: sets.Phase) -> Held:
        """Train by a phase inside the sets that are held."""
        learns = held.quantized and self.chosen.levels == "learned" and held.widths is None
        inside = phase
        if learns:
            inside = self.learning(phase.optimizer, held, epochs)
        elif held.quantized:
            inside = sets.quantized(phase.optimizer, self.grids(held), keep_free=True)
        elif held.masks is not None:
            inside = replace(phase, optimizer=sets.pruned(phase.optimizer, held.masks).optimizer)
        free = self.trainer(name, self.guided(held.task), inside, held.free, epochs)
        if learns:
            widths = {kernel: np.asarray(step.bits).ravel() for kernel, step in free.steps.items()}
            held, free = replace(held, widths=widths), free.replace(steps={})
        held = replace(held, free=free, epochs=held.epochs + epochs)
        return replace(held, seen=self.see(held))

    def guided(self, task: Task) -> Task:
        """Return a task in which the dense network's scores count, seen with all of its steps."""
        return replace(task, guide=self._guide) if self.chosen.distill else task

    @cached_property
    def _guide(self) -> Guide | None:
        """The dense network, or its scores of all training images if those are always the same."""
        c, (teacher, task) = self.chosen, self.dense
        guide = Guide(
            teacher, alpha=c.distill, temperature=c.temperature, timesteps=task.inputs.timesteps
        )
        return foreseen(replace(task, guide=guide), self.trainer.data.train.images).guide

    def learning(
        self, optimizer: optax.GradientTransformation, held: Held, epochs: int
    ) -> sets.Phase:
        """Return the phase that learns the bits of each channel, `bits` for a weight on average."""
        c, kernels = self.chosen, tree.match({KERNELS: BYTE}, held.free.params)
        leaves = tree.named_leaves(held.free.params)
        masks = {} if held.masks is None else tree.named_leaves(held.masks)
        kept = sum(
            int(np.broadcast_to(masks.get(name, True), leaves[name].shape).sum())
            for name in kernels
        )
        widths = optax.adam(self.trainer.cosine(c.widths_rate, epochs))
        budget = c.bits * kept * BYTE
        return sets.learned_bits(optimizer, kernels, budget, masks=held.masks, widths=widths)

    def control(self, epochs: int) -> Network:
        """Train the dense network on for as many epochs as the product had."""
        net, task = self.dense
        adam = optax.adam(self.trainer.cosine(self.chosen.learning_rate, epochs))
        return self.trainer(CONTROL, task, adam, net, epochs)

    def grids(self, held: Held) -> dict[str, Projection]:
        """Return the recipe of the quantized weights, zero outside the masks."""
        c = self.chosen
        if c.levels == "learned":
            even = dict.fromkeys(tree.match({KERNELS: True}, held.free.params), max(c.bits, 2))
            per: Per = "leaf" if held.widths is None else "channel"
            recipe = mixed.recipe(held.widths or even, per=per)
            return dict(recipe) if held.masks is None else projections.restrict(recipe, held.masks)
        return level_recipe(c, c.bits, held.free, held.task, held.masks)

    def rehearse(self, held: Held) -> None:
        """Refuse what does not suit network or data, before anything is trained."""
        c, data = self.chosen, self.trainer.data
        if c.distill and held.task.loss != "ce":
            raise UserError(
                f"distill {c.distill:g} compares the scores that the loss ce trains, found the "
                f"loss {held.task.loss!r}"
            )
        compared = {"exit", "timesteps"} - set(c.together)
        judged = [*(stage for stage in c.stages if stage in compared), *c.budget]
        if judged and not len(data.validation.labels):
            raise UserError(
                f"no images are held out, by which {judged[0]} is chosen: hold some out "
                f"(validation), or leave {judged[0]} out"
            )
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
        if "channels" in c.stages:
            sizes = c.calibration_batches, c.calibration_batch_size
            channels.check_images(len(data.train.labels), *sizes)
            channels.rehearse(held.free, held.task.inputs, self.ratios(held))
        if c.tidy and held.free.has_norms and not isinstance(held.free.module, layers.Chain):
            raise UserError(
                "tidy folds norms into the neurons of a chain of layers, found the topology of "
                f"{type(held.free.module).__name__}: leave it out"
            )
        if c.tidy:
            self.folded(held.free)
        if "bits" in c.stages and c.layer_bits is not None:
            try:
                tree.match(recipe_of(c.layer_bits), held.free.params)
            except UserError as error:
                raise UserError(f"layer_bits: {error}; name other layers, or give None") from None
        if "bits" in c.stages and c.levels == "learned":
            phase = self.learning(optax.identity(), held, 1)
            jax.eval_shape(phase.optimizer.init, held.free.params)
        if "connections" in c.stages:
            jax.eval_shape(lambda params: sets.prune(params, self.sparse(held)), held.free.params)


def hidden(net: Network, task: Task) -> tuple[str, ...]:
    """Return the layers with weights but the read-out, in order."""
    flow = net.flow(task.inputs)
    return tuple(layer for layer in flow.order if layer not in flow.readout)


def level_recipe(
    chosen: stages.Options, bits: Number, net: Network, task: Task, masks: Any = None
) -> dict[str, Projection]:
    """Return the recipe of quantized kernels, zero outside the masks.

    The scores of a read-out are compared with each other: it has one scale, with which they are
    whole numbers of one unit.

    Args:
      chosen: its `levels`, `layer_bits` and `per`.
      bits: of the levels that have some, in layers without bits of their own; may be traced.
      net: the network, whose parameters may be traced.
      task: its task.
      masks: tree like the parameters; None if all weights may stay.
    """
    if chosen.levels == "learned":
        raise ValueError("learned bits have widths of their own")
    widths: dict[str, Any] = tree.match({KERNELS: bits}, net.params)
    if chosen.layer_bits is not None:
        widths |= tree.match(recipe_of(chosen.layer_bits), net.params)
    readout = net.flow(task.inputs).readout if net.synapses else ()
    last = {f"{layer}/kernel" for layer in readout} & set(widths)
    if chosen.levels != "rescaled":
        own = {name: each for name, each in widths.items() if name not in last}
        found = admm.quantize_recipe(chosen.levels, own, masks=masks, per=chosen.per)
        one = {name: widths[name] for name in last}
        return found | admm.quantize_recipe(chosen.levels, one, masks=masks)
    kept = {} if masks is None else tree.named_leaves(masks)
    return {
        name: sets.rescaled(each, per="layer" if name in last else "channel", kept=kept.get(name))
        for name, each in widths.items()
    }
