"""Spike-Thrift: a very sparse network from one training, guided by a dense one, made to spike.

Kundu, Datta, Pedram and Beerel 2021, "Spike-Thrift: Towards Energy-Efficient Deep Spiking Neural
Networks by Limiting Spiking Activity via Attention-Guided Compression", WACV, pp. 3953-3962.

    1. meta-model    train a dense ANN; converted and tuned it is the dense spiking network
    2. sparse ANN    min over W of (1 - alpha) CE + alpha rho^2 KL + (beta / 2) sum over stages of D
                     with ||W||_0 constant: SGD on the weights inside masks that move once an epoch,
                     from the smallest weights to the largest momentum (`compress.rewired`)
    3. conversion    weights and thresholds, front to back (`conversion.take_over`)
    4. tuning        of the spiking network, its masks unchanged (`compress.pruned`)

KL compares the scores of student and meta-model at temperature `rho`, D the attention maps at the
ends of stages (`losses.attention_guided`, `stage_ends`). A "way" says what a sparse ANN learns
from: ce (labels), kl (also the scores), at (also the maps), all.

Where the sources differ:
- The text of the paper is not public: what is here follows its abstract and the public codes that
  it stands on. No row is a reproduction of a published one; the loss weights are ours.
- Masks: `compress.rewiring` says how ours differ from the code of sparse momentum.
- Start: without norms a sparse network needs a gain. Random masks keep the share `d` of the energy
  and need `1 / sqrt(d)`; the largest weights of a teacher keep far more, they need
  `||W|| / ||M W||` of each layer (`sparse_start`).
- Convolutions and the read-out are pruned alike; density counts both, `convolution_density` not.
"""

from collections.abc import Mapping
from dataclasses import replace
from typing import Annotated, Any, Literal, NamedTuple

import jax
import jax.numpy as jnp

from jaxsnn import layers, metrics, models, train, tree
from jaxsnn.arrays import safe_divide
from jaxsnn.compress import distributions, rewiring, starting
from jaxsnn.compress import masks as masking
from jaxsnn.compress.phase import Phase, pruned, rewired
from jaxsnn.data import Dataset
from jaxsnn.errors import UserError
from jaxsnn.layers import walk
from jaxsnn.methods import conversion
from jaxsnn.methods.measuring import measured, sparse_ratios
from jaxsnn.methods.result import CONTROL, Result, Trained, Trainer
from jaxsnn.models.variants import ann_of, residual_blocks
from jaxsnn.network import Network
from jaxsnn.options import Range, Whole, checked, replaced

__all__ = [
    "WAYS",
    "Options",
    "Way",
    "check_teacher",
    "compress",
    "control",
    "guided_task",
    "rewiring_phase",
    "sparse_ann",
    "sparse_start",
    "stage_ends",
]

Tree = Any

Positive = Range(0.0, open_low=True, open_high=True)
WayName = Literal["ce", "kl", "at", "all"]


class Way(NamedTuple):
    """What a sparse ANN learns from beside the labels."""

    scores: bool  # distillation of the meta-model's scores
    attention: bool  # transfer of its attention maps


WAYS: Mapping[str, Way] = {
    "ce": Way(False, False), "kl": Way(True, False), "at": Way(False, True), "all": Way(True, True),
}  # fmt: skip

GROWTH: Mapping[str, rewiring.Growth] = {
    "momentum": rewiring.by_momentum,
    "gradient": rewiring.by_gradient,
    "random": rewiring.at_random,
}


@checked
class Options:
    """Options of Spike-Thrift; those of the trainings are `conversion.Options`."""

    density: Annotated[float, Range(0.0, 1.0, open_low=True)] = 0.05
    """Share of the weights that the sparse networks have."""
    ways: tuple[WayName, ...] = ("ce", "all")
    """What sparse ANNs learn from: ce (labels), kl (also scores), at (also attention), all. The
    last one named is converted."""
    alpha: Annotated[float, Range(0.0, 1.0)] = 0.9
    """Weight of the distillation; that of the labels is the rest to 1."""
    temperature: Annotated[float, Positive] = 4.0
    """Temperature of the distillation."""
    beta: Annotated[float, Range(0.0, open_high=True)] = 2000.0
    """Twice the weight of the attention maps."""
    distance: Literal["mse", "l2"] = "mse"
    """Distance of two attention maps: of means of squares, or of norms."""
    growth: Literal["momentum", "gradient", "random"] = "momentum"
    """Where weights grow: momentum (sparse momentum, which also moves them between layers),
    gradient (RigL) or random (SET)."""
    prune_rate: Annotated[float, Range(0.005, 1.0)] = 0.5
    """Share of the weights replaced after the first epoch; it falls to 0.005 along a cosine."""
    spread: Literal["uniform", "erk"] = "uniform"
    """How the density is spread at first: each layer the same, or small layers denser."""
    begin: Literal["random", "teacher"] = "random"
    """Start of a sparse ANN: random weights, or the largest of the meta-model."""
    sparse_epochs: Annotated[int, Whole(1)] = 300
    """Epochs of each sparse ANN."""
    sparse_learning_rate: Annotated[float, Positive] = 0.05
    """First step size of a sparse ANN."""
    tune_each: bool = False
    """Make the sparse ANN of each way spike, too, as "WAY converted" and "WAY tuned"."""
    dense_tune_epochs: Annotated[int | None, Whole(0)] = None
    """Epochs of the dense spiking network, if not those of the sparse one."""
    draws: Annotated[int, Whole(1)] = 3
    """Evaluations with other random spikes, whose mean is noted beside the first one."""

    def check(self) -> None:
        """Refuse ways that are unknown, twice or missing."""
        if unknown := [way for way in self.ways if way not in WAYS]:
            raise UserError(f"ways {unknown[0]!r} is unknown; choose from {', '.join(WAYS)}")
        if not self.ways or len(set(self.ways)) < len(self.ways):
            raise UserError("ways needs at least one, none of them twice")


DEFAULTS = Options()


def compress(
    net: Network,
    task: train.Task,
    data: Dataset,
    options: Options = DEFAULTS,
    *,
    hybrid: conversion.Options = conversion.DEFAULTS,
    teacher: Network | None = None,
    fit: train.Fit = train.fit,
) -> Result:
    """Train sparse networks under a dense one, and make the last of them spike.

    Args:
      net: gives the layout, as `conversion.compress` says: an ANN or a spiking network.
      task: of the spiking network.
      data: trained and measured on.
      options: of the method.
      hybrid: of the trainings of the dense network and of all tunings, their seed and batch size
        among them.
      teacher: a trained meta-model, the ANN of the same layout; trained here if left out.
      fit: trains a phase.

    Returns:
      The rows dense, dense control (`control`), dense converted, dense ann, "WAY ann" for each way,
      converted, compressed; with `tune_each` "WAY converted" and "WAY tuned" of the other ways.
      `found`: `ann_accuracy`, `tuned_accuracy`, `lost_by_conversion`, `recovered_by_tuning`,
      `compression`, `spikes_of_dense`, `below_dense`, `thresholds`, `scales`.

    Raises:
      UserError: for options, networks and data that do not fit, before anything is trained.
    """
    check(net, task, data, options, hybrid, teacher)
    trainer = Trainer(fit, data, hybrid.batch_size, hybrid.seed)
    epochs = options.dense_tune_epochs
    chosen = hybrid if epochs is None else replaced(hybrid, tune_epochs=epochs)
    dense = conversion.hybrid("dense", net, task, trainer, chosen, ann=teacher)
    still = conversion.ann_task(task)
    networks = {"dense": Trained(dense.spiking, task)}
    if hybrid.control:
        networks[CONTROL] = Trained(control(dense, task, trainer, options, hybrid), task)
    networks |= {
        "dense converted": Trained(dense.converted, task),
        "dense ann": Trained(dense.ann, still),
    }
    for way in options.ways:
        sparse = sparse_ann(way, dense.ann, still, trainer, options, hybrid)
        networks[f"{way} ann"] = Trained(sparse, still)
        is_last = way == options.ways[-1]
        if is_last or options.tune_each:
            converted, product, facts = _spiking(way, sparse, task, trainer, hybrid)
            names = ("converted", "compressed") if is_last else (f"{way} converted", f"{way} tuned")
            networks |= {names[0]: Trained(converted, task), names[1]: Trained(product, task)}
    rows = measured(networks, data, options.draws, hybrid.seed)
    rows = sparse_ratios(rows, f"{options.ways[-1]} ann")
    found = _compared(rows, options.ways) | facts
    report = metrics.Comparison(tuple(rows.values()))
    return Result(product, task, networks, report, found)


def _spiking(
    way: str, sparse: Network, task: train.Task, trainer: Trainer, hybrid: conversion.Options
) -> tuple[Network, Network, dict[str, Any]]:
    """Return a sparse ANN as a spiking network, converted and tuned, and its thresholds."""
    converted, thresholds, scales = conversion.take_over(sparse, task, trainer, hybrid)
    masks = masking.of_nonzeros(sparse.params)
    phase = pruned(conversion.tune_optimizer(trainer, hybrid), masks)
    tuned = trainer(f"{way} tune", task, phase, converted, hybrid.tune_epochs)
    return converted, tuned, {"thresholds": thresholds, "scales": scales}


def control(
    dense: conversion.Hybrid,
    task: train.Task,
    trainer: Trainer,
    options: Options,
    hybrid: conversion.Options,
) -> Network:
    """Return the dense spiking network of as many epochs as the weights of the product had.

    The meta-model is trained on until it had those of a sparse ANN, converted and tuned. Where the
    dense network had as many already, it is its own control.
    """
    had = hybrid.ann_epochs if options.begin == "teacher" else 0
    more = max(had + options.sparse_epochs - hybrid.ann_epochs, 0)
    if not more and options.dense_tune_epochs in (None, hybrid.tune_epochs):
        return dense.spiking
    ann = conversion.train_on(f"{CONTROL} ann", dense.ann, task, trainer, hybrid, more)
    return conversion.hybrid(CONTROL, ann, task, trainer, hybrid, ann=ann).spiking


def check(
    net: Network,
    task: train.Task,
    data: Dataset,
    options: Options,
    hybrid: conversion.Options,
    teacher: Network | None = None,
) -> None:
    """Refuse, in one line and before anything is trained, what cannot be compressed so."""
    conversion.check(net, task, hybrid, data)
    if options.beta and any(WAYS[way].attention for way in options.ways):
        stage_ends(net)  # refuses a network that has no images inside
    # Refuses a density that leaves a layer without any.
    distributions.start_counts(net.params, options.density, layers=options.spread)
    if teacher is not None:
        check_teacher(teacher, net)


def check_teacher(teacher: Network, student: Network) -> None:
    """Refuse a meta-model that has not the student's layers, naming the first that differs."""
    leaves, own = tree.named_leaves(teacher.params), tree.named_leaves(ann_of(student).params)
    for name in dict.fromkeys([*own, *leaves]):
        shapes = [each[name].shape if name in each else None for each in (leaves, own)]
        if shapes[0] != shapes[1]:
            raise UserError(
                f"teacher: {name!r} has the shape {shapes[0]}, that of the student {shapes[1]}; "
                "build the student as the teacher was built"
            )


# ----------------------------------------------------------------------------------------------
# sparse ANNs


def sparse_ann(
    way: str,
    teacher: Network,
    task: train.Task,
    trainer: Trainer,
    options: Options,
    hybrid: conversion.Options,
) -> Network:
    """Train a sparse ANN from its start, its masks moving after each epoch.

    Args:
      way: what it learns from, of `WAYS`.
      teacher: the trained meta-model.
      task: of the ANN.
      trainer: trains the phase "WAY ann".
      options: of the method.
      hybrid: weight decay and schedule of the ANN.
    """
    masks, params = sparse_start(teacher, options, trainer.seed)
    guided = guided_task(task, teacher, WAYS[way], options)
    phase = rewiring_phase(masks, trainer, options, hybrid)
    start = teacher.replace(params=params)
    return trainer(f"{way} ann", guided, phase, start, options.sparse_epochs)


def sparse_start(teacher: Network, options: Options, seed: int) -> tuple[Tree, Tree]:
    """Return the masks and the weights with which a sparse ANN starts.

        random    W ~ He's start, masks by chance,                M W / sqrt(density_l)
        teacher   W of the meta-model, masks of the largest |W|,  M W ||W|| / ||M W||

    of each layer, so that what a neuron receives keeps its size.
    """
    if options.begin == "random":
        key = jax.random.fold_in(jax.random.key(seed), 3)
        fresh = models.he_start(key, teacher.params)
        masks = _masks(options, fresh, seed)
        return masks, starting.start(fresh, masks)
    masks = _masks(options, teacher.params, seed)
    mask_of = tree.named_leaves(masks)

    def begin(name: str, leaf: jax.Array) -> jax.Array:
        kept = jnp.where(jnp.broadcast_to(mask_of[name], leaf.shape), leaf, jnp.zeros_like(leaf))
        return kept * safe_divide(jnp.linalg.norm(leaf.ravel()), jnp.linalg.norm(kept.ravel()))

    return masks, tree.map_named(begin, teacher.params)


def _masks(options: Options, params: Tree, seed: int) -> Tree:
    """Return the masks with which a sparse ANN starts, with exact counts."""
    if options.begin == "teacher":
        return starting.magnitude_masks(params, options.density, layers=options.spread)
    key = jax.random.fold_in(jax.random.key(seed), 2)
    return starting.random_masks(key, params, options.density, layers=options.spread)


def rewiring_phase(
    masks: Tree, trainer: Trainer, options: Options, hybrid: conversion.Options
) -> Phase:
    """Return the phase of a sparse ANN: SGD inside masks that move after each epoch but the last.

    Args:
      masks: to start from.
      trainer: says how many steps an epoch has.
      options: growth and prune rate.
      hybrid: weight decay and schedule.
    """
    epochs, growth = options.sparse_epochs, options.growth
    sgd = conversion.ann_optimizer(trainer, hybrid, options.sparse_learning_rate, epochs)
    return rewired(
        sgd, masks, trainer.steps(epochs), growth=GROWTH[growth],
        redistribute=growth == "momentum", initial=options.prune_rate,
        keep_gradient=growth == "gradient",
        key=jax.random.key(trainer.seed) if growth == "random" else None,
    )  # fmt: skip


def guided_task(task: train.Task, teacher: Network, way: Way, options: Options) -> train.Task:
    """Return the task of an ANN that a meta-model of the same layout guides.

    Args:
      task: of the ANN.
      teacher: the meta-model.
      way: what the student learns from.
      options: weights of the terms.
    """
    guide = None
    if any(way):
        guide = train.Guide(
            teacher,
            alpha=options.alpha if way.scores else None,
            temperature=options.temperature,
            beta=options.beta if way.attention and options.beta else None,
            stages=stage_ends(teacher) if way.attention and options.beta else (),
            distance=options.distance,
        )
    return replace(task, loss="ce", guide=guide)


def stage_ends(net: Network) -> tuple[str, ...]:
    """Return the layers whose attention is compared: the last one of each stage.

    That is the last convolution before each pooling and before what has no image any more, or, in a
    network of residual blocks, each of them (Zagoruyko and Komodakis 2017).

    >>> stage_ends(models.build("4C3-4C3-AP2-4C3-10", (8, 8, 1), readout="current"))
    ('conv2', 'conv3')

    Raises:
      UserError: if there is no such layer.
    """
    if blocks := residual_blocks(net):
        return tuple(block.conv2.name for block in blocks)
    ends: list[str] = []
    last: str | None = None
    for layer in walk.layers_of(net.module):
        if isinstance(layer, layers.Conv) and not isinstance(layer.neurons, layers.Integrator):
            last = layer.name
        elif last is not None and not isinstance(layer, (layers.Dropout, layers.Chain)):
            ends.append(last)
            last = None
    if not ends:
        raise UserError("no convolution whose attention maps could be compared: take beta=0")
    return tuple(ends)


def _compared(rows: Mapping[str, metrics.Report], ways: tuple[str, ...]) -> dict[str, Any]:
    """Return what the sparse network gained and lost against the dense one."""
    accuracy = {name: row.extra["mean_accuracy"] for name, row in rows.items()}
    spikes = {name: rows[name].spikes_per_sample or 0.0 for name in ("dense", "compressed")}
    tuned = {way: f"{way} tuned" for way in ways} | {ways[-1]: "compressed"}
    return {
        "ann_accuracy": {way: accuracy[f"{way} ann"] for way in ways},
        "tuned_accuracy": {way: accuracy[name] for way, name in tuned.items() if name in accuracy},
        "lost_by_conversion": accuracy[f"{ways[-1]} ann"] - accuracy["converted"],
        "recovered_by_tuning": accuracy["compressed"] - accuracy["converted"],
        "compression": rows["compressed"].extra["compression"],
        "spikes_of_dense": float(safe_divide(spikes["compressed"], spikes["dense"])),
        "below_dense": accuracy["dense"] - accuracy["compressed"],
    }
